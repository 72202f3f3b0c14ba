/* An emulation of NCCL: all-reduces over MPI, run as work of the emulator's streams. It is as lazy
 * as NCCL may be: a call takes effect when its communicator reports ncclInProgress for the last
 * time.
 *
 *   EMULATOR_NCCL_DELAY  seconds that every all-reduce takes at least
 *   EMULATOR_NCCL_HANG   finalize: ncclCommFinalize stays in progress forever */
#include <nccl.h>

#include <mpi.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/bf16.h"
#include "base/memory.h"
#include "base/thread.h"
#include "emulator.h"

/* How often a communicator reports ncclInProgress after a call. */
enum { POLLS = 2 };

/* Device memory that is registered with a communicator. */
typedef struct Registered {
  void *data;
  size_t bytes;
} Registered;

/* An all-reduce on a stream; the emulator keeps a copy of it and calls it until it is done. */
typedef struct AllReduce {
  ncclComm_t comm;
  void *data;
  size_t count;
  ncclDataType_t type;
  bool is_average;
  double start; /* clock_seconds */
  float *sums;  /* NULL: not started */
  MPI_Request request;
} AllReduce;

struct ncclComm {
  MPI_Comm group; /* MPI_COMM_NULL: one rank, and perhaps no MPI */
  int ranks;
  int polls_left; /* until the last call is complete */
  int registered;
  bool is_blocking, is_finalized, hangs;
  bool varies; /* NVLS is not switched off: equal calls give different bytes */
  unsigned salt;
  atomic_int graphs; /* that contain its kernels */
  /* The effect of the call under way. */
  ncclComm_t child, *child_out; /* NULL, or of ncclCommSplit */
  cudaStream_t stream;
  AllReduce work; /* count 0: none */
};

static atomic_int communicators; /* that exist */

/* Reports a misuse that would make NCCL hang or fail later. */
static ncclResult_t refuse(const char *what) {
  fprintf(stderr, "emulator: %s\n", what);
  return ncclInvalidUsage;
}

static ncclResult_t begin_call(ncclComm_t comm) {
  if (comm->is_blocking) return ncclSuccess;
  comm->polls_left = POLLS;
  return ncclInProgress;
}

const char *ncclGetErrorString(ncclResult_t result) {
  return result == ncclSuccess ? "no error" : "an error of the emulated NCCL";
}

const char *ncclGetLastError(ncclComm_t comm) {
  (void)comm;
  return "";
}

ncclResult_t ncclGetVersion(int *version) {
  *version = 22800;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
  memset(id, 0, sizeof *id);
  strcpy(id->internal, "emulated");
  return ncclSuccess;
}

static ncclComm_t new_comm(MPI_Comm group, int ranks, bool is_blocking) {
  ncclComm_t comm = mem_new(1, sizeof *comm);
  const char *algorithms = getenv("NCCL_ALGO");
  comm->group = group;
  comm->ranks = ranks;
  comm->is_blocking = is_blocking;
  comm->salt = (unsigned)getpid();
  if (ranks > 1) MPI_Bcast(&comm->salt, 1, MPI_UNSIGNED, 0, group);
  atomic_fetch_add(&communicators, 1);
  comm->varies = ranks > 1 && (!algorithms || strncmp(algorithms, "^NVLS,NVLSTree", 14) != 0);
  return comm;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config) {
  MPI_Comm group = MPI_COMM_NULL;
  if (strcmp(id.internal, "emulated") != 0 || rank < 0 || rank >= ranks) return ncclInvalidArgument;
  if (ranks > 1 && MPI_Comm_dup(MPI_COMM_WORLD, &group) != MPI_SUCCESS) return ncclSystemError;
  *comm = new_comm(group, ranks, config->blocking != 0);
  return begin_call(*comm);
}

ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t *out,
                           ncclConfig_t *config) {
  MPI_Comm group = MPI_COMM_NULL;
  int ranks = 1;
  if (comm->polls_left > 0) return refuse("ncclCommSplit: the communicator is still in progress");
  if (comm->group != MPI_COMM_NULL) {
    if (MPI_Comm_split(comm->group, color, key, &group) != MPI_SUCCESS) return ncclSystemError;
    MPI_Comm_size(group, &ranks);
  }
  *out = NULL;
  comm->child = new_comm(group, ranks, config->blocking != 0);
  comm->child_out = out;
  return begin_call(comm);
}

static void graph_is_gone(void *context) {
  ncclComm_t comm = context;
  atomic_fetch_sub(&comm->graphs, 1);
}

static bool all_reduce(void *context);

static ncclResult_t enqueue(ncclComm_t comm) {
  AllReduce work = comm->work;
  comm->work.count = 0;
  if (emulator_hold_by_graph(comm->stream, graph_is_gone, comm)) atomic_fetch_add(&comm->graphs, 1);
  return emulator_enqueue_copy(comm->stream, all_reduce, &work, sizeof work) == cudaSuccess
             ? ncclSuccess
             : ncclUnhandledCudaError;
}

static ncclResult_t end_call(ncclComm_t comm) {
  if (comm->child) *comm->child_out = comm->child;
  comm->child = NULL;
  return comm->work.count > 0 ? enqueue(comm) : ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *result) {
  *result = ncclInProgress;
  if (comm->hangs) return ncclSuccess;
  if (comm->polls_left > 0 && --comm->polls_left > 0) return ncclSuccess;
  *result = end_call(comm);
  return ncclSuccess;
}

/* NCCL itself would wait for graphs that contain the communicator, forever. */
ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  if (comm->graphs > 0) return refuse("ncclCommFinalize: a captured graph holds the communicator");
  if (comm->registered > 0) return refuse("ncclCommFinalize: memory is still registered");
  const char *hang = getenv("EMULATOR_NCCL_HANG");
  comm->hangs = hang && strcmp(hang, "finalize") == 0;
  comm->is_finalized = true;
  return begin_call(comm);
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (comm->polls_left > 0 || comm->hangs || !comm->is_finalized)
    return refuse("ncclCommDestroy: the communicator is not finalized");
  return ncclCommAbort(comm);
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  int is_over = 0;
  while (comm->graphs > 0) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
  MPI_Finalized(&is_over);
  if (comm->group != MPI_COMM_NULL && !is_over) MPI_Comm_free(&comm->group);
  free(comm);
  atomic_fetch_sub(&communicators, 1);
  return ncclSuccess;
}

int emulator_nccl_communicators(void) {
  return atomic_load(&communicators);
}

ncclResult_t ncclCommRegister(ncclComm_t comm, void *data, size_t bytes, void **handle) {
  if (!emulator_is_device_memory(data, bytes)) return refuse("ncclCommRegister: not device memory");
  Registered *made = mem_new(1, sizeof *made);
  *made = (Registered){data, bytes};
  comm->registered++;
  *handle = made;
  return ncclSuccess;
}

ncclResult_t ncclCommDeregister(ncclComm_t comm, void *handle) {
  const Registered known = handle ? *(Registered *)handle : (Registered){0};
  if (!handle || comm->registered == 0) return ncclInvalidUsage;
  free(handle);
  comm->registered--;
  if (!emulator_is_device_memory(known.data, known.bytes))
    return refuse("ncclCommDeregister: the memory was freed before");
  return ncclSuccess;
}

/* --- All-reduce ------------------------------------------------------------------------------- */

static float load(const AllReduce *work, size_t i) {
  if (work->type == ncclFloat32) return ((const float *)work->data)[i];
  return bf16_to_f32(((const uint16_t *)work->data)[i]);
}

static void store(const AllReduce *work, size_t i, float value) {
  if (work->type == ncclFloat32)
    ((float *)work->data)[i] = value;
  else
    ((uint16_t *)work->data)[i] = bf16_from_f32(value);
}

/* Whether the all-reduce has taken as long as EMULATOR_NCCL_DELAY asks for. */
static bool delay_is_over(const AllReduce *work) {
  const char *delay = getenv("EMULATOR_NCCL_DELAY");
  return !delay || clock_seconds() - work->start >= atof(delay);
}

static void start_all_reduce(AllReduce *work) {
  const float scale = work->is_average ? 1.0f / (float)work->comm->ranks : 1.0f;
  work->sums = mem_new(work->count, sizeof *work->sums);
  for (size_t i = 0; i < work->count; i++) work->sums[i] = scale * load(work, i);
  work->start = clock_seconds();
  work->request = MPI_REQUEST_NULL;
  if (work->comm->group != MPI_COMM_NULL)
    MPI_Iallreduce(MPI_IN_PLACE, work->sums, (int)work->count, MPI_FLOAT, MPI_SUM,
                   work->comm->group, &work->request);
}

/* Changes the result like another order of summation: the same on every rank, different in every
 * process group. */
static void vary(const AllReduce *work) {
  for (size_t i = 0; i < work->count; i++)
    if ((((unsigned)i + work->comm->salt) * 2654435761u) >> 31) work->sums[i] *= 1 + 0x1p-22f;
}

static bool all_reduce(void *context) {
  AllReduce *work = context;
  int is_done = 1;
  if (!work->sums) start_all_reduce(work);
  if (work->request != MPI_REQUEST_NULL) MPI_Test(&work->request, &is_done, MPI_STATUS_IGNORE);
  if (!is_done || !delay_is_over(work)) return false;
  if (work->comm->varies) vary(work);
  for (size_t i = 0; i < work->count; i++) store(work, i, work->sums[i]);
  free(work->sums);
  work->sums = NULL;
  return true;
}

ncclResult_t ncclAllReduce(const void *send, void *receive, size_t count, ncclDataType_t type,
                           ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream) {
  if (send != receive || comm->is_finalized) return ncclInvalidUsage;
  if (comm->polls_left > 0) return refuse("ncclAllReduce: the communicator is still in progress");
  comm->stream = stream;
  comm->work = (AllReduce){.comm = comm,
                           .data = receive,
                           .count = count,
                           .type = type,
                           .is_average = operation == ncclAvg};
  return comm->is_blocking || comm->ranks == 1 ? end_call(comm) : begin_call(comm);
}
