#include "comm/nccl.h"

#include <cuda_runtime.h>
#include <nccl.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"

enum {
  MAX_LEVELS = 16,    /* of the tree: 65,536 ranks */
  MAX_REGISTERED = 8, /* gradient arrays */
  MAX_WAITS = 64,     /* that are timed, of one step and of all captures */
  ABORT_SECONDS = 5
};

/* How long the caller's stream stood at one wait: two events around it. */
typedef struct Wait {
  cudaEvent_t begin, end;
} Wait;

struct Nccl {
  NcclOptions options;
  int rank, size;
  ncclComm_t group;
  int levels; /* of the tree; 0: one all-reduce of the group */
  ncclComm_t pairs[MAX_LEVELS];
  cudaStream_t stream;
  cudaEvent_t ready, ended; /* the caller's part before an average, the averages before a wait */
  bool pending;
  bool broken;
  int registered_count;
  struct {
    ncclComm_t comm;
    void *handle;
  } registered[MAX_REGISTERED * (MAX_LEVELS + 1)];
  /* Waits of plain streams in turn, and those in captured graphs, which time the same ones again
   * and again. `mark` tells what was recorded since the last look. */
  int wait_count, captured_count;
  Wait waits[MAX_WAITS], captured[MAX_WAITS];
  cudaEvent_t mark;
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
  nccl->broken = true;
  return error_set(error, ERROR_INTERNAL, "rank %d of %d: NCCL, %s: %s (%s)", nccl->rank,
                   nccl->size, what, ncclGetErrorString(code), ncclGetLastError(comm));
}

/* A communicator that does not block says `in progress`: looks until it is done, or time is up. */
static Status settle(Nccl *nccl, ncclComm_t comm, ncclResult_t code, const char *what,
                     Error *error) {
  const double begin = clock_seconds();
  while (code == ncclInProgress) {
    ncclResult_t asked = ncclCommGetAsyncError(comm, &code);
    if (asked != ncclSuccess) code = asked;
    if (code != ncclInProgress) break;
    const double waited = clock_seconds() - begin;
    if (waited > nccl->options.timeout) {
      nccl->broken = true;
      return error_set(error, ERROR_INTERNAL,
                       "rank %d of %d: NCCL, %s: the other ranks did not come within %.0f s",
                       nccl->rank, nccl->size, what, waited);
    }
    nanosleep(&(struct timespec){.tv_nsec = waited < 0.01 ? 20000 : 1000000}, NULL);
  }
  return code == ncclSuccess ? OK : nccl_failed(nccl, comm, code, what, error);
}

#define NCCL_TRY(comm, call) TRY(settle(nccl, (comm), (call), #call, error))

/* --- Opening ---------------------------------------------------------------------------------- */

/* Before NCCL is first asked for anything: its sums are then the same from call to call. Who has
 * set the variable knows better. */
static void leave_out_varying_sums(void) {
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
  TRY(settle(nccl, nccl->group, code, "ncclCommInitRankConfig", error));
done:
  return status;
}

/* Level k joins each rank with the one whose number differs in bit k. */
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
    TRY(settle(nccl, nccl->pairs[level], ncclInProgress, "ncclCommSplit", error));
    nccl->levels = level + 1;
  }
done:
  return status;
}

static Status open_streams(Nccl *nccl, Error *error) {
  Status status = OK;
  int least = 0, greatest = 0;
  /* Before kernels that wait for a core: communication is short of cores and worth hiding. */
  CUDA_TRY(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  CUDA_TRY(cudaStreamCreateWithPriority(&nccl->stream, cudaStreamNonBlocking, greatest));
  CUDA_TRY(cudaEventCreateWithFlags(&nccl->ready, cudaEventDisableTiming));
  CUDA_TRY(cudaEventCreateWithFlags(&nccl->ended, cudaEventDisableTiming));
  CUDA_TRY(cudaEventCreate(&nccl->mark));
  CUDA_TRY(cudaEventRecord(nccl->mark, nccl->stream));
  for (int i = 0; i < MAX_WAITS; i++) {
    CUDA_TRY(cudaEventCreate(&nccl->waits[i].begin));
    CUDA_TRY(cudaEventCreate(&nccl->waits[i].end));
    CUDA_TRY(cudaEventCreate(&nccl->captured[i].begin));
    CUDA_TRY(cudaEventCreate(&nccl->captured[i].end));
  }
done:
  return status;
}

/* The library may be of another installation than the header. */
static void say_version(const Nccl *nccl) {
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
  if (options->reproducible || options->deterministic) leave_out_varying_sums();
  status = open_streams(nccl, error);
  TRY(comm_agree(comm, status, error));
  status = open_group(nccl, comm, error);
  if (status == OK && options->reproducible) status = open_tree(nccl, error);
  TRY(comm_agree(comm, status, error));
  say_version(nccl);
  *out = nccl;
  nccl = NULL;
done:
  if (nccl) {
    nccl->broken = true;
    nccl_close(nccl);
  }
  return status;
}

/* --- Ending ----------------------------------------------------------------------------------- */

static void *abort_communicator(void *communicator) {
  ncclCommAbort(communicator);
  return NULL;
}

/* ncclCommAbort tells what runs on the device to end, then waits: for peers, and for the end of all
 * graphs that hold its kernels. So each communicator is told by a thread of its own, and what has
 * not returned in time is left behind. */
void nccl_abort(Nccl *nccl) {
  pthread_t threads[MAX_LEVELS + 1];
  int count = 0, left = 0;
  Error error;
  struct timespec until;
  if (!nccl) return;
  nccl->broken = true;
  for (int i = -1; i < nccl->levels; i++) {
    ncclComm_t comm = i < 0 ? nccl->group : nccl->pairs[i];
    if (comm && thread_start(&threads[count], "nccl abort", abort_communicator, comm, &error) == OK)
      count++;
  }
  nccl->group = NULL;
  nccl->levels = 0;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += ABORT_SECONDS;
  for (int i = 0; i < count; i++) {
    if (pthread_timedjoin_np(threads[i], NULL, &until) == 0) continue;
    pthread_detach(threads[i]);
    left++;
  }
  if (left > 0)
    log_warning("%d of NCCL's %d aborts have not returned after %d s; leaving them behind", left,
                count, ABORT_SECONDS);
}

static void destroy_communicator(Nccl *nccl, ncclComm_t comm) {
  Error error;
  if (settle(nccl, comm, ncclCommFinalize(comm), "ncclCommFinalize", &error) != OK)
    log_warning("%s", error.message);
  else
    ncclCommDestroy(comm);
}

static void destroy_events(Nccl *nccl) {
  for (int i = 0; i < MAX_WAITS; i++) {
    const cudaEvent_t events[] = {nccl->waits[i].begin, nccl->waits[i].end, nccl->captured[i].begin,
                                  nccl->captured[i].end};
    for (size_t k = 0; k < sizeof events / sizeof *events; k++)
      if (events[k]) cudaEventDestroy(events[k]);
  }
  if (nccl->mark) cudaEventDestroy(nccl->mark);
  if (nccl->ready) cudaEventDestroy(nccl->ready);
  if (nccl->ended) cudaEventDestroy(nccl->ended);
  if (nccl->stream) cudaStreamDestroy(nccl->stream);
}

/* Whether all averages end within the timeout. */
static bool is_done(const Nccl *nccl) {
  const double begin = clock_seconds();
  cudaError_t code = cudaErrorNotReady;
  while ((code = cudaStreamQuery(nccl->stream)) == cudaErrorNotReady &&
         clock_seconds() - begin < nccl->options.timeout)
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
  return code == cudaSuccess;
}

void nccl_close(Nccl *nccl) {
  if (!nccl) return;
  if (!nccl->broken && !is_done(nccl)) nccl->broken = true;
  for (int i = 0; i < nccl->registered_count && !nccl->broken; i++) {
    ncclComm_t comm = nccl->registered[i].comm;
    if (ncclCommDeregister(comm, nccl->registered[i].handle) != ncclSuccess)
      log_warning("rank %d of %d: NCCL, ncclCommDeregister: %s", nccl->rank, nccl->size,
                  ncclGetLastError(comm));
  }
  for (int level = nccl->levels - 1; level >= 0 && !nccl->broken; level--) {
    destroy_communicator(nccl, nccl->pairs[level]);
    nccl->levels = level;
  }
  if (!nccl->broken && nccl->group) {
    destroy_communicator(nccl, nccl->group);
    nccl->group = NULL;
  }
  if (nccl->group) nccl_abort(nccl);
  destroy_events(nccl);
  free(nccl);
}

/* --- Averages --------------------------------------------------------------------------------- */

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

/* ncclAvg multiplies by 1/2 or 1/n before it adds: in a tree, by powers of two, which loses nothing
 * but below 2^-126. */
static Status enqueue_average(Nccl *nccl, void *data, int64_t count, CommType type, Error *error) {
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
  if (nccl->broken)
    FAIL(error, ERROR_INTERNAL, "rank %d of %d: NCCL failed before", nccl->rank, nccl->size);
  if (type != COMM_F32 && type != COMM_BF16)
    FAIL(error, ERROR_INTERNAL, "NCCL averages f32 and bf16 alone");
  CUDA_TRY(cudaEventRecord(nccl->ready, (cudaStream_t)stream));
  CUDA_TRY(cudaStreamWaitEvent(nccl->stream, nccl->ready, 0));
  TRY(enqueue_average(nccl, data, count, type, error));
  nccl->pending = true;
  if (!nccl->options.overlap) TRY(nccl_all_reduce_mean_wait(nccl, stream, error));
done:
  return status;
}

/* The next pair of events to time a wait with, and the flag that lets events in a captured graph be
 * read from outside. NULL: this wait is not timed. */
static Status next_wait(Nccl *nccl, cudaStream_t stream, Wait **out, unsigned *flags,
                        Error *error) {
  Status status = OK;
  enum cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
  CUDA_TRY(cudaStreamIsCapturing(stream, &capturing));
  if (capturing == cudaStreamCaptureStatusNone) {
    *flags = cudaEventRecordDefault;
    *out = &nccl->waits[nccl->wait_count++ % MAX_WAITS];
    goto done;
  }
  if (nccl->captured_count == MAX_WAITS) goto done;
  *flags = cudaEventRecordExternal;
  *out = &nccl->captured[nccl->captured_count++];
done:
  return status;
}

Status nccl_all_reduce_mean_wait(Nccl *nccl, void *stream, Error *error) {
  Status status = OK;
  Wait *wait = NULL;
  unsigned flags = 0;
  if (!nccl->pending) goto done;
  nccl->pending = false;
  TRY(next_wait(nccl, (cudaStream_t)stream, &wait, &flags, error));
  if (wait) CUDA_TRY(cudaEventRecordWithFlags(wait->begin, (cudaStream_t)stream, flags));
  CUDA_TRY(cudaEventRecord(nccl->ended, nccl->stream));
  CUDA_TRY(cudaStreamWaitEvent((cudaStream_t)stream, nccl->ended, 0));
  if (wait) CUDA_TRY(cudaEventRecordWithFlags(wait->end, (cudaStream_t)stream, flags));
done:
  return status;
}

/* --- Looking at it ---------------------------------------------------------------------------- */

Status nccl_check(Nccl *nccl, Error *error) {
  ncclResult_t code = ncclSuccess;
  if (nccl->broken)
    return error_set(error, ERROR_INTERNAL, "rank %d of %d: NCCL failed before", nccl->rank,
                     nccl->size);
  for (int i = -1; i < nccl->levels; i++) {
    ncclComm_t comm = i < 0 ? nccl->group : nccl->pairs[i];
    const ncclResult_t asked = ncclCommGetAsyncError(comm, &code);
    if (asked != ncclSuccess) code = asked;
    if (code != ncclSuccess && code != ncclInProgress)
      return nccl_failed(nccl, comm, code, "an all-reduce under way", error);
  }
  return OK;
}

/* Adds what the caller's stream waited there since the last look; a wait that is still under way,
 * or was never reached, adds nothing. Of a captured one that is under way the end is that of the
 * run before, earlier than the begin. */
static Status add_wait(Nccl *nccl, const Wait *wait, double *seconds, Error *error) {
  Status status = OK;
  float age = 0, milliseconds = 0;
  cudaError_t code = cudaEventElapsedTime(&age, nccl->mark, wait->begin);
  if (code == cudaSuccess) code = cudaEventElapsedTime(&milliseconds, wait->begin, wait->end);
  if (code == cudaErrorNotReady || code == cudaErrorInvalidResourceHandle ||
      code == cudaErrorInvalidValue) { /* never recorded: one or the other, as drivers have it */
    (void)cudaGetLastError();
    goto done;
  }
  CUDA_TRY(code);
  if (age > 0 && milliseconds > 0) *seconds += (double)milliseconds / 1000;
done:
  return status;
}

Status nccl_exposed_seconds(Nccl *nccl, double *seconds, Error *error) {
  Status status = OK;
  *seconds = 0;
  for (int i = 0; i < nccl->captured_count; i++)
    TRY(add_wait(nccl, &nccl->captured[i], seconds, error));
  for (int i = 0; i < nccl->wait_count && i < MAX_WAITS; i++)
    TRY(add_wait(nccl, &nccl->waits[i], seconds, error));
  nccl->wait_count = 0;
  CUDA_TRY(cudaEventRecord(nccl->mark, nccl->stream));
done:
  return status;
}
