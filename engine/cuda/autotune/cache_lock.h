/* Which process makes a choice that several want: ranks of a run start together with the same
 * convolutions. A claim is a lock on one byte of FOLDER/lock, so it ends with its process. */
#ifndef CELFORGE_ENGINE_CUDA_AUTOTUNE_CACHE_LOCK_H
#define CELFORGE_ENGINE_CUDA_AUTOTUNE_CACHE_LOCK_H

#include <stdbool.h>

typedef struct CudnnClaims CudnnClaims;

/* NULL where there is no folder, where it cannot be written, and where its file system has no
 * locks, which the log says: then every claim is granted. `patience`: seconds of cudnn_claim_wait.
 */
CudnnClaims *cudnn_claims_open(const char *folder, double patience);
void cudnn_claims_close(CudnnClaims *claims); /* ends all of them; NULL is allowed */

/* In any thread. False: another process has the key. A key is claimed once until it is ended. */
bool cudnn_claim(CudnnClaims *claims, const char *key);
/* The same, but waits for the other to end its claim. Patience is one for all keys and threads, and
 * is whole again whenever a key that was waited for is had: who is slow is waited for as long as
 * something comes. When it is at its end, which the log says, nothing is waited for any more: whose
 * owner is stopped costs so many seconds, however much it has claimed. */
bool cudnn_claim_wait(CudnnClaims *claims, const char *key);
void cudnn_claim_end(CudnnClaims *claims, const char *key);

#endif
