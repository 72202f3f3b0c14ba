/* Gradients between GPUs, over NCCL: one GPU a rank, communicators bootstrapped over the group's
 * MPI.
 *
 * Averages run on a stream of their own beside the caller's: average_start makes that stream wait
 * for what the caller's stream holds so far, average_wait makes the caller's stream wait for the
 * averages. Both only enqueue, and may be captured into a CUDA graph together with the kernels
 * around them. The communicators do not block: no call of NCCL is waited for longer than the
 * group's timeout. With one rank the same calls are made, of a group of one.
 *
 * `reproducible` sums neighbours, then pairs of neighbours, and so on, through communicators of two
 * ranks each: a + b is one rounding whichever rank adds, so the result is that of comm_average's
 * tree. It needs a power of two of ranks. There, and where `deterministic` is asked for, NVLS,
 * whose sums vary from call to call, is switched off.
 *
 * A captured graph holds on to the communicators, and those to the memory that was registered: free
 * the graphs first, then call nccl_close, then free the memory.
 *
 * All functions are called from the main thread, with the rank's GPU current. */
#ifndef CELFORGE_COMM_NCCL_H
#define CELFORGE_COMM_NCCL_H

#include "comm/comm.h"

typedef struct Nccl Nccl;

typedef struct NcclOptions {
  bool reproducible;
  bool deterministic; /* equal calls give equal bytes; follows from reproducible */
  bool overlap;       /* false: the caller's stream waits for each average at once */
  double timeout;     /* seconds */
} NcclOptions;

/* Every rank together. In a build without CUDA: ERROR_USAGE. */
Status nccl_open(Comm *comm, const NcclOptions *options, Nccl **out, Error *error);
/* Ends the communicators in order, or aborts them where that does not happen within the timeout: as
 * where a captured graph still holds averages. */
void nccl_close(Nccl *nccl);
/* Gives up what is under way on this rank; returns within a few seconds even where NCCL hangs. */
void nccl_abort(Nccl *nccl);

/* Tells NCCL of device memory that will be averaged in place again and again (a flat gradient
 * array); same calls, same sizes on every rank. */
Status nccl_register(Nccl *nccl, void *data, size_t bytes, Error *error);

/* data = mean over the ranks of `count` F32 or BF16 elements of device memory. `stream` is the
 * caller's cudaStream_t. Same order of calls on every rank. */
Status nccl_all_reduce_mean_start(Nccl *nccl, void *data, int64_t count, CommType type,
                                  void *stream, Error *error);
Status nccl_all_reduce_mean_wait(Nccl *nccl, void *stream, Error *error);

/* Whether a collective has failed since: a rank that died, a link that was cut. Waits for nothing.
 */
Status nccl_check(Nccl *nccl, Error *error);
/* Seconds the caller's stream stood waiting for averages since the last call, exposed
 * communication; of a captured program, in its last run. What has not ended on the device yet is
 * left out. */
Status nccl_exposed_seconds(Nccl *nccl, double *seconds, Error *error);

#endif
