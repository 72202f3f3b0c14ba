/* Shared by the files of comm/ and comm/health/. Only comm/ includes MPI. */
#ifndef CELFORGE_COMM_INTERNAL_H
#define CELFORGE_COMM_INTERNAL_H

#include <mpi.h>
#include <pthread.h>
#include <stdatomic.h>

#include "comm/comm.h"
#include "comm/presence/presence.h"

typedef struct AsyncAllReduce AsyncAllReduce;

struct Comm {
  int rank, size, local_rank, local_size, local_processors;
  CommOptions options;
  _Atomic bool uses_mpi;      /* false in a process that no launcher started, and after
                                 MPI_Finalize */
  bool failed;                /* a collective has failed; MPI may still hold its request */
  MPI_Comm group;             /* of the calling thread's collectives; MPI_COMM_NULL with one rank */
  size_t chunk_bytes;         /* that a rank sends at once in a blocking collective */
  char *scratch;              /* [(size + 1) * chunk_bytes]: what MPI reads and writes, so that a
                                 request that outlives its timeout never touches caller memory */
  AsyncAllReduce *all_reduce; /* NULL with one rank */
  _Atomic int64_t operations_started; /* MPI operations of gradient all-reduces, ever; every rank
                                         starts the same ones */
  Presence presence;
  void (*stop_watch)(void *context); /* NULL: no heartbeat watches the group */
  void *watch_context;
};

/* --- group.c ---------------------------------------------------------------------------------- */

/* Seconds that a wait may go without progress; INFINITY once a heartbeat watches the group. */
double comm_wait_timeout(const Comm *comm);
/* From now on a heartbeat enforces the deadlines of all waits. comm_close calls `stop` last. */
void comm_set_watch(Comm *comm, void (*stop)(void *context), void *context);

/* --- mpi_request.c ---------------------------------------------------------------------------- */

/* An MPI operation under way, for error messages. */
typedef struct Operation {
  const char *name; /* "broadcast" */
  int rank, size;
  size_t bytes_done, bytes;
} Operation;

/* Turns an MPI error code into ERROR_INTERNAL. */
Status mpi_check(int code, const Operation *operation, Error *error);
/* Tests the request until it is complete, for at most `timeout` seconds. */
Status mpi_wait(MPI_Request *request, const Operation *operation, double timeout, Error *error);
/* ERROR_INTERNAL: the operation made no progress for `waited` seconds. */
Status timeout_error(const Operation *operation, double waited, Error *error);

/* --- call_deadline.c -------------------------------------------------------------------------- */

/* Ends the process with ERROR_INTERNAL if a call that cannot be cancelled (MPI_Init, MPI_Finalize)
 * does not return in time. The launcher then ends the other ranks. */
typedef struct CallDeadline {
  pthread_t thread;
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  const char *call; /* "MPI_Init" */
  double seconds;
  bool returned;
} CallDeadline;

Status call_deadline_start(CallDeadline *deadline, const char *call, double seconds, Error *error);
void call_deadline_stop(CallDeadline *deadline);

/* Starts a thread that ends the process with `exit_code` after `seconds`, whatever its other
 * threads do. Returns false if the thread cannot be created. */
bool exit_after(double seconds, int exit_code);

/* --- chunk_allreduce.c ------------------------------------------------------------------------ */

/* Several chunks are in flight at once, so that one call of MPI_Test advances all of them. */
enum { CHUNK_ELEMENTS = 1 << 18, CHUNKS_IN_FLIGHT = 4, MAX_STAGES = 31 };

typedef struct Chunk {
  MPI_Request request;
  void *data; /* [count] of `type`: the caller's */
  int count;
  CommType type;
  void *first, *second; /* [CHUNK_ELEMENTS] f32 each: what MPI writes */
} Chunk;

/* All-reduces chunks to their mean, in one of the ways that CommOptions describes. */
typedef struct Reducer {
  int rank, size, stage_count;
  MPI_Comm stages[MAX_STAGES]; /* of two ranks each (reproducible), or one of all */
  bool reproducible, bf16_gradients;
  _Atomic int64_t *operations_started; /* the group's */
  float *buffers;
  Chunk chunks[CHUNKS_IN_FLIGHT]; /* a ring */
} Reducer;

Status reducer_open(Comm *comm, Reducer *reducer, Error *error);
void reducer_close(Reducer *reducer);
/* Bytes per element as it is sent: 2 as bfloat16, else 4. */
size_t reducer_element_bytes(const Reducer *reducer, CommType type);
/* Reduce chunk->data to the mean of all ranks' chunks. Every rank makes the same calls in the same
 * order. */
Status chunk_start(Reducer *reducer, Chunk *chunk, const Operation *operation, Error *error);
Status chunk_finish(Reducer *reducer, Chunk *chunk, const Operation *operation, double timeout,
                    Error *error);

/* --- async_allreduce.c ------------------------------------------------------------------------ */

extern const char GRADIENT_ALL_REDUCE[]; /* its name in messages and heartbeats */

Status async_all_reduce_open(Comm *comm, AsyncAllReduce **out, Error *error);
/* Ends the communication thread. Nothing may be pending. NULL is allowed. */
void async_all_reduce_close(AsyncAllReduce *all_reduce);

#endif
