/* Which process makes a choice that several want: ranks of a run start together with the same
 * convolutions. A claim is a lock on one byte of FOLDER/lock, so it ends with its process. */
#ifndef CELFORGE_ENGINE_CUDA_CUDNN_CLAIMS_H
#define CELFORGE_ENGINE_CUDA_CUDNN_CLAIMS_H

#include <stdbool.h>

typedef struct CudnnClaims CudnnClaims;

/* NULL where there is no folder, where it cannot be written, and where its file system has no
 * locks, which the log says: then every claim is granted. */
CudnnClaims *cudnn_claims_open(const char *folder);
void cudnn_claims_close(CudnnClaims *claims); /* ends all of them; NULL is allowed */

/* In any thread. False: another process has the key. A key is claimed once until it is ended. */
bool cudnn_claim(CudnnClaims *claims, const char *key);
/* The same, but waits at most so many seconds for the other to end its claim. */
bool cudnn_claim_wait(CudnnClaims *claims, const char *key, double seconds);
void cudnn_claim_end(CudnnClaims *claims, const char *key);

#endif
