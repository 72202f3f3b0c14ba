#include "comm/nccl.h"

#include <cuda_runtime.h>
#include <nccl.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "comm/nccl/wait_timer.h"

enum {
  MAX_LEVELS = 16,    /* of the tree: 65,536 ranks */
  MAX_REGISTERED = 8, /* gradient arrays */
  ABORT_SECONDS = 5
};

struct Nccl {
  NcclOptions options;
  int rank, size;
  ncclComm_t group;
  int levels; /* of the tree; 0: one all-reduce of the group */
  ncclComm_t pairs[MAX_LEVELS];
  cudaStream_t stream;
  cudaEvent_t ready;   /* the caller's work before an all-reduce */
  cudaEvent_t ended;   /* the all-reduces before a wait */
  const void *pending; /* the data of the first all-reduce that was not waited for; NULL: none */
  bool failed;
  WaitTimer *wait_timer; /* of the waits of the caller's stream */
  int registered_count;
  struct {
    ncclComm_t comm;
    void *handle;
  } registered[MAX_REGISTERED * (MAX_LEVELS + 1)];
};

/* --- Calls ------------------------------------------------------------------------------------ */

static Status cuda_failed(const Nccl *nccl, cudaError_t code, const char *what, Error *error) {
  return error_set(error, ERROR_INTERNAL, "rank %d of %d: %s: %s", nccl->rank, nccl->size, what,
                   cudaGetErrorString(code));
}

#define CUDA_TRY(call)                                                                             \
  do {                                                                                             \
    const cudaError_t cuda_code = (call);                                                          \
    if (cuda_code != cudaSuccess) {                                                                \
      status = cuda_failed(nccl, cuda_code, #call, error);                                         \
      goto done;                                                                                   \
    }                                                                                              \
  } while (0)

static Status nccl_failed(Nccl *nccl, ncclComm_t comm, ncclResult_t code, const char *what,
                          Error *error) {
  nccl->failed = true;
  return error_set(error, ERROR_INTERNAL, "rank %d of %d: NCCL, %s: %s (%s)", nccl->rank,
                   nccl->size, what, ncclGetErrorString(code), ncclGetLastError(comm));
}

/* Waits for a call on a non-blocking communicator, which returned `code`: polls while the call is
 * in progress, for at most the timeout. */
static Status finish_call(Nccl *nccl, ncclComm_t comm, ncclResult_t code, const char *what,
                          Error *error) {
  const double begin = clock_seconds();
  while (code == ncclInProgress) {
    ncclResult_t queried = ncclCommGetAsyncError(comm, &code);
    if (queried != ncclSuccess) code = queried;
    if (code != ncclInProgress) break;
    const double waited = clock_seconds() - begin;
    if (waited > nccl->options.timeout) {
      nccl->failed = true;
      return error_set(
          error, ERROR_INTERNAL,
          "rank %d of %d: NCCL, %s: not complete after %.0f s; another rank hangs or has ended",
          nccl->rank, nccl->size, what, waited);
    }
    nanosleep(&(struct timespec){.tv_nsec = waited < 0.01 ? 20000 : 1000000}, NULL);
  }
  return code == ncclSuccess ? OK : nccl_failed(nccl, comm, code, what, error);
}

#define NCCL_TRY(comm, call) TRY(finish_call(nccl, (comm), (call), #call, error))

/* --- Opening ---------------------------------------------------------------------------------- */

/* Switches off NVLS, so that equal calls give equal sums. Called before the first call of NCCL; an
 * NCCL_ALGO that the user has set stays. */
static void disable_nvls(void) {
  setenv("NCCL_ALGO", "^NVLS,NVLSTree", 0);
}

static Status open_group(Nccl *nccl, Comm *comm, Error *error) {
  ncclUniqueId id;
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  Status status = OK;
  if (nccl->rank == 0) {
    const ncclResult_t code = ncclGetUniqueId(&id);
    if (code != ncclSuccess)
      status = error_set(error, ERROR_INTERNAL, "NCCL, ncclGetUniqueId: %s (%s)",
                         ncclGetErrorString(code), ncclGetLastError(NULL));
  }
  TRY(comm_agree(comm, status, error));
  TRY(comm_broadcast(comm, &id, sizeof id, 0, error));
  const ncclResult_t code =
      ncclCommInitRankConfig(&nccl->group, nccl->size, id, nccl->rank, &config);
  if (!nccl->group) {
    status = nccl_failed(nccl, NULL, code, "ncclCommInitRankConfig", error);
    goto done;
  }
  TRY(finish_call(nccl, nccl->group, code, "ncclCommInitRankConfig", error));
done:
  return status;
}

/* Level k pairs each rank with the one whose number differs in bit k. */
static Status open_tree(Nccl *nccl, Error *error) {
  Status status = OK;
  if ((nccl->size & (nccl->size - 1)) != 0)
    FAIL(error, ERROR_USAGE, "comm.reduce: reproducible needs 1, 2, 4, 8, ... ranks; there are %d",
         nccl->size);
  for (int level = 0; 1 << level < nccl->size; level++) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    const int color = nccl->rank & ~(1 << level);
    NCCL_TRY(nccl->group,
             ncclCommSplit(nccl->group, color, nccl->rank, &nccl->pairs[level], &config));
    nccl->levels = level + 1;
    TRY(finish_call(nccl, nccl->pairs[level], ncclInProgress, "ncclCommSplit", error));
  }
done:
  return status;
}

static Status open_streams(Nccl *nccl, Error *error) {
  Status status = OK;
  int least = 0, greatest = 0;
  /* All-reduces get the highest priority: they need few cores, and late ones delay the next step.
   */
  CUDA_TRY(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  CUDA_TRY(cudaStreamCreateWithPriority(&nccl->stream, cudaStreamNonBlocking, greatest));
  CUDA_TRY(cudaEventCreateWithFlags(&nccl->ready, cudaEventDisableTiming));
  CUDA_TRY(cudaEventCreateWithFlags(&nccl->ended, cudaEventDisableTiming));
  TRY(wait_timer_new(&nccl->wait_timer, error));
done:
  return status;
}

/* The library may have another version than the header. */
static void log_version(const Nccl *nccl) {
  int version = 0;
  if (nccl->rank != 0 || ncclGetVersion(&version) != ncclSuccess) return;
  log_info("NCCL %d.%d.%d", version / 10000, version / 100 % 100, version % 100);
}

Status nccl_open(Comm *comm, const NcclOptions *options, Nccl **out, Error *error) {
  Status status = OK;
  *out = NULL;
  Nccl *nccl = mem_new(1, sizeof *nccl);
  nccl->options = *options;
  nccl->rank = comm_rank(comm);
  nccl->size = comm_size(comm);
  if (options->reproducible || options->deterministic) disable_nvls();
  status = open_streams(nccl, error);
  TRY(comm_agree(comm, status, error));
  status = open_group(nccl, comm, error);
  if (status == OK && options->reproducible) status = open_tree(nccl, error);
  TRY(comm_agree(comm, status, error));
  log_version(nccl);
  *out = nccl;
  nccl = NULL;
done:
  if (nccl) {
    nccl->failed = true;
    nccl_close(nccl);
  }
  return status;
}

/* --- Ending ----------------------------------------------------------------------------------- */

static void *abort_communicator(void *communicator) {
  ncclCommAbort(communicator);
  return NULL;
}

/* ncclCommAbort tells the kernels on the device to end, then waits: for peers, and for the end of
 * all graphs that contain its kernels. So each communicator is aborted by a thread of its own;
 * threads that have not returned after ABORT_SECONDS are abandoned. */
void nccl_abort(Nccl *nccl) {
  pthread_t threads[MAX_LEVELS + 1];
  int count = 0, left = 0;
  Error error;
  if (!nccl) return;
  nccl->failed = true;
  for (int i = -1; i < nccl->levels; i++) {
    ncclComm_t comm = i < 0 ? nccl->group : nccl->pairs[i];
    if (comm && thread_start(&threads[count], "nccl abort", abort_communicator, comm, &error) == OK)
      count++;
  }
  nccl->group = NULL;
  nccl->levels = 0;
  const double until = clock_seconds() + ABORT_SECONDS;
  for (int i = 0; i < count; i++) {
    if (thread_join_until(threads[i], until)) continue;
    pthread_detach(threads[i]);
    left++;
  }
  if (left > 0)
    log_warning("%d of %d calls of ncclCommAbort have not returned after %d s; abandoning them",
                left, count, ABORT_SECONDS);
}

/* Ends a communicator in order. Returns false if that fails; it must then be aborted. */
static bool destroy_communicator(Nccl *nccl, ncclComm_t comm) {
  Error error;
  if (finish_call(nccl, comm, ncclCommFinalize(comm), "ncclCommFinalize", &error) != OK) {
    log_warning("%s; aborting it", error.message);
    return false;
  }
  ncclCommDestroy(comm);
  return true;
}

static void destroy_streams(Nccl *nccl) {
  wait_timer_free(nccl->wait_timer);
  if (nccl->ready) cudaEventDestroy(nccl->ready);
  if (nccl->ended) cudaEventDestroy(nccl->ended);
  if (nccl->stream) cudaStreamDestroy(nccl->stream);
}

/* Waits for the all-reduces under way, at most for the timeout. */
static bool drain_stream(const Nccl *nccl) {
  const double begin = clock_seconds();
  cudaError_t code = cudaErrorNotReady;
  while ((code = cudaStreamQuery(nccl->stream)) == cudaErrorNotReady &&
         clock_seconds() - begin < nccl->options.timeout)
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
  return code == cudaSuccess;
}

void nccl_close(Nccl *nccl) {
  if (!nccl) return;
  if (!nccl->failed && !drain_stream(nccl)) nccl->failed = true;
  for (int i = 0; i < nccl->registered_count && !nccl->failed; i++) {
    ncclComm_t comm = nccl->registered[i].comm;
    if (ncclCommDeregister(comm, nccl->registered[i].handle) != ncclSuccess)
      log_warning("rank %d of %d: NCCL, ncclCommDeregister: %s", nccl->rank, nccl->size,
                  ncclGetLastError(comm));
  }
  while (!nccl->failed && nccl->levels > 0 &&
         destroy_communicator(nccl, nccl->pairs[nccl->levels - 1]))
    nccl->levels--;
  if (!nccl->failed && nccl->group && destroy_communicator(nccl, nccl->group)) nccl->group = NULL;
  if (nccl->group) nccl_abort(nccl); /* with all that could not be ended in order */
  destroy_streams(nccl);
  free(nccl);
}

/* --- All-reduces ------------------------------------------------------------------------------ */

static Status register_with(Nccl *nccl, ncclComm_t comm, void *data, size_t bytes, Error *error) {
  Status status = OK;
  void *handle = NULL;
  NCCL_TRY(comm, ncclCommRegister(comm, data, bytes, &handle));
  nccl->registered[nccl->registered_count].comm = comm;
  nccl->registered[nccl->registered_count].handle = handle;
  nccl->registered_count++;
done:
  return status;
}

Status nccl_register(Nccl *nccl, void *data, size_t bytes, Error *error) {
  Status status = OK;
  if (nccl->registered_count >= MAX_REGISTERED * (nccl->levels + 1))
    FAIL(error, ERROR_INTERNAL, "more than %d arrays registered with NCCL", MAX_REGISTERED);
  if (nccl->levels == 0) TRY(register_with(nccl, nccl->group, data, bytes, error));
  for (int level = 0; level < nccl->levels; level++)
    TRY(register_with(nccl, nccl->pairs[level], data, bytes, error));
done:
  return status;
}

/* ncclAvg multiplies by 1/n before it adds. In a tree n is 2, so the multiplication is exact except
 * for results below 2^-126. */
static Status enqueue_all_reduce(Nccl *nccl, void *data, int64_t count, CommType type,
                                 Error *error) {
  Status status = OK;
  const ncclDataType_t element = type == COMM_BF16 ? ncclBfloat16 : ncclFloat32;
  const size_t elements = (size_t)count;
  if (nccl->levels == 0)
    NCCL_TRY(nccl->group,
             ncclAllReduce(data, data, elements, element, ncclAvg, nccl->group, nccl->stream));
  for (int level = 0; level < nccl->levels; level++)
    NCCL_TRY(nccl->pairs[level], ncclAllReduce(data, data, elements, element, ncclAvg,
                                               nccl->pairs[level], nccl->stream));
done:
  return status;
}

Status nccl_all_reduce_mean_start(Nccl *nccl, void *data, int64_t count, CommType type,
                                  void *stream, Error *error) {
  Status status = OK;
  if (nccl->failed)
    FAIL(error, ERROR_INTERNAL, "rank %d of %d: an earlier call of NCCL has failed", nccl->rank,
         nccl->size);
  if (type != COMM_F32 && type != COMM_BF16)
    FAIL(error, ERROR_INTERNAL, "NCCL all-reduce of type %d; must be F32 or BF16", (int)type);
  CUDA_TRY(cudaEventRecord(nccl->ready, (cudaStream_t)stream));
  CUDA_TRY(cudaStreamWaitEvent(nccl->stream, nccl->ready, 0));
  TRY(enqueue_all_reduce(nccl, data, count, type, error));
  if (!nccl->pending) nccl->pending = data;
  if (!nccl->options.overlap) TRY(nccl_all_reduce_mean_wait(nccl, stream, error));
done:
  return status;
}

Status nccl_all_reduce_mean_wait(Nccl *nccl, void *stream, Error *error) {
  Status status = OK;
  TimedWait *wait = NULL;
  if (!nccl->pending) goto done;
  TRY(wait_timer_begin(nccl->wait_timer, (cudaStream_t)stream, nccl->pending, &wait, error));
  nccl->pending = NULL;
  CUDA_TRY(cudaEventRecord(nccl->ended, nccl->stream));
  CUDA_TRY(cudaStreamWaitEvent((cudaStream_t)stream, nccl->ended, 0));
  TRY(wait_timer_end(wait, (cudaStream_t)stream, error));
done:
  return status;
}

/* --- Monitoring ------------------------------------------------------------------------------- */

Status nccl_check(Nccl *nccl, Error *error) {
  ncclResult_t code = ncclSuccess;
  if (nccl->failed)
    return error_set(error, ERROR_INTERNAL, "rank %d of %d: an earlier call of NCCL has failed",
                     nccl->rank, nccl->size);
  for (int i = -1; i < nccl->levels; i++) {
    ncclComm_t comm = i < 0 ? nccl->group : nccl->pairs[i];
    const ncclResult_t queried = ncclCommGetAsyncError(comm, &code);
    if (queried != ncclSuccess) code = queried;
    if (code != ncclSuccess && code != ncclInProgress)
      return nccl_failed(nccl, comm, code, "all-reduce", error);
  }
  return OK;
}

Status nccl_exposed_seconds(Nccl *nccl, double *seconds, Error *error) {
  return wait_timer_collect(nccl->wait_timer, seconds, error);
}
