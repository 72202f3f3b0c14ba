/* Gradient all-reduces between GPUs over NCCL: one GPU per rank, communicators bootstrapped over
 * the group's MPI.
 *
 * All-reduces run on a stream of their own: nccl_all_reduce_mean_start makes that stream wait for
 * the work enqueued so far on the caller's stream, nccl_all_reduce_mean_wait makes the caller's
 * stream wait for the all-reduces. Both only enqueue work, and may be captured into a CUDA graph
 * together with the kernels around them. The communicators are non-blocking: no call of NCCL is
 * waited for longer than the timeout. With one rank the same calls are made on a group of one.
 *
 * `reproducible` sums neighbours, then pairs of neighbours, and so on, through communicators of two
 * ranks each: a + b is one rounding on either rank, so the result is that of the tree of
 * comm_all_reduce_mean_start. It needs a power of two of ranks. With it, or with `deterministic`,
 * NVLS is switched off, because its sums vary from call to call.
 *
 * Captured graphs refer to the communicators, and these to the registered memory: free the graphs
 * first, then call nccl_close, then free the memory.
 *
 * All functions are called from the main thread, with the rank's GPU current. */
#ifndef CELFORGE_COMM_NCCL_H
#define CELFORGE_COMM_NCCL_H

#include "comm/comm.h"

typedef struct Nccl Nccl;

typedef struct NcclOptions {
  bool reproducible;
  bool deterministic; /* equal calls give equal bytes; follows from reproducible */
  bool overlap;       /* false: the caller's stream waits for each all-reduce at once */
  double timeout;     /* seconds */
} NcclOptions;

/* Called by all ranks together. ERROR_USAGE in a build without CUDA. */
Status nccl_open(Comm *comm, const NcclOptions *options, Nccl **out, Error *error);
/* Finalises the communicators, and aborts those for which that fails or exceeds the timeout, as it
 * does while a captured graph contains all-reduces. NULL is allowed. */
void nccl_close(Nccl *nccl);
/* Aborts all communicators and what is under way on this rank; returns within a few seconds even if
 * NCCL hangs. NULL is allowed. */
void nccl_abort(Nccl *nccl);

/* Registers device memory that will be reduced in place repeatedly (a flat gradient array), which
 * saves NCCL copies. Every rank makes the same calls with the same sizes. */
Status nccl_register(Nccl *nccl, void *data, size_t bytes, Error *error);

/* Enqueues an in-place all-reduce to the mean of `count` F32 or BF16 elements of device memory.
 * `stream` is the caller's cudaStream_t. Every rank makes the same calls in the same order. */
Status nccl_all_reduce_mean_start(Nccl *nccl, void *data, int64_t count, CommType type,
                                  void *stream, Error *error);
Status nccl_all_reduce_mean_wait(Nccl *nccl, void *stream, Error *error);

/* ERROR_INTERNAL if an all-reduce has failed since it was enqueued: a rank died, a link was cut.
 * Does not block. */
Status nccl_check(Nccl *nccl, Error *error);
/* Returns the exposed communication since the last call: seconds that the caller's stream waited
 * for all-reduces. Waits that have not ended on the device are counted by a later call. Of a wait
 * in a captured graph only the last complete run is known: call it at least once per launch. */
Status nccl_exposed_seconds(Nccl *nccl, double *seconds, Error *error);

#endif
