/* Shared by the files of comm/. The only room that includes MPI. */
#ifndef CELFORGE_COMM_INTERNAL_H
#define CELFORGE_COMM_INTERNAL_H

#include <mpi.h>
#include <pthread.h>
#include <stdatomic.h>

#include "comm/comm.h"
#include "comm/health/heartbeat.h"

typedef struct Averager Averager;

struct Comm {
  int rank, size, local_rank, local_size, local_processors;
  CommOptions options;
  _Atomic bool uses_mpi; /* false for a process started by no launcher, and after MPI_Finalize */
  bool broken;           /* a collective failed; MPI may still hold its request */
  MPI_Comm group;        /* the calling thread's collectives; MPI_COMM_NULL with one rank */
  size_t piece;          /* bytes a rank hands over at once in a blocking collective */
  char *scratch;         /* (size + 1) * piece: what MPI reads and writes, so that a request
                            that outlives its timeout never touches the caller's memory */
  Averager *averager;    /* NULL with one rank */
  Heartbeat *heartbeat;  /* NULL before heartbeat_start */
  _Atomic int64_t begun; /* parts of means over the ranks, ever: all ranks begin the same ones */
};

/* Seconds that a wait may see no progress; without end where a heartbeat watches. */
double comm_patience(const Comm *comm);

/* --- wait.c ----------------------------------------------------------------------------------- */

/* An operation on its way, for the text of a timeout. */
typedef struct Operation {
  const char *name; /* "broadcast" */
  int rank, size;
  size_t done, bytes;
} Operation;

/* Turns a code of MPI other than MPI_SUCCESS into ERROR_INTERNAL. */
Status mpi_check(int code, const Operation *operation, Error *error);
/* Tests the request until it is complete, at most `timeout` seconds. */
Status mpi_wait(MPI_Request *request, const Operation *operation, double timeout, Error *error);
/* ERROR_INTERNAL: the operation made no progress for `waited` seconds. */
Status timeout_error(const Operation *operation, double waited, Error *error);

/* MPI_Init and MPI_Finalize cannot be given up: past the deadline a watchdog says what hangs and
 * ends the process, and with it, through its launcher, the others. */
typedef struct Watchdog {
  pthread_t thread;
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  const char *what; /* "MPI_Init" */
  double seconds;
  bool over;
} Watchdog;

Status watchdog_start(Watchdog *watchdog, const char *what, double seconds, Error *error);
void watchdog_stop(Watchdog *watchdog);

/* Sees to it that the process ends with `exit_code` in at most so many seconds, whatever its other
 * threads do. False where the system has no thread for it. */
bool leave_within(double seconds, int exit_code);

/* --- heartbeat.c ------------------------------------------------------------------------------ */

/* Around every wait of the main thread for other ranks; again where it sees progress. NULL is
 * allowed. `name` must outlive the heartbeat. */
void heartbeat_wait_begin(Heartbeat *heartbeat, const char *name);
void heartbeat_wait_end(Heartbeat *heartbeat);
void heartbeat_stop(Heartbeat *heartbeat); /* frees; NULL is allowed */

/* --- piece.c ---------------------------------------------------------------------------------- */

/* Several pieces are under way at once, so that one look at MPI moves all of them on. */
enum { PIECE_ELEMENTS = 1 << 18, PIECES_IN_FLIGHT = 4, MAX_STAGES = 31 };

typedef struct Piece {
  MPI_Request request;
  void *data; /* [count] of `type`: the caller's */
  int count;
  CommType type;
  void *first, *second; /* [PIECE_ELEMENTS] f32 each: what MPI writes */
} Piece;

/* How the mean of a piece over the ranks is found (comm.h says the ways). */
typedef struct Reducer {
  int rank, size, stage_count;
  MPI_Comm stages[MAX_STAGES]; /* of two ranks each (reproducible), or one of all */
  bool reproducible, bf16_gradients;
  _Atomic int64_t *begun; /* the group's */
  float *buffers;
  Piece pieces[PIECES_IN_FLIGHT]; /* a ring */
} Reducer;

Status reducer_open(Comm *comm, Reducer *reducer, Error *error);
void reducer_close(Reducer *reducer);
/* Bytes of an element on its way. */
size_t reducer_element_bytes(const Reducer *reducer, CommType type);
/* The mean of `piece->data`, begun and then waited for, by the same ranks in the same order. */
Status piece_start(Reducer *reducer, Piece *piece, const Operation *operation, Error *error);
Status piece_finish(Reducer *reducer, Piece *piece, const Operation *operation, double timeout,
                    Error *error);

/* --- average.c -------------------------------------------------------------------------------- */

extern const char MEAN_NAME[]; /* what waiting for it is called */

Status averager_open(Comm *comm, Averager **out, Error *error);
/* Ends the thread; nothing may be pending. */
void averager_close(Averager *averager);
Status averager_start(Averager *averager, void *data, int64_t count, CommType type, double timeout,
                      Error *error);
Status averager_wait(Averager *averager, double timeout, Heartbeat *heartbeat, Error *error);
CommStats averager_stats(Averager *averager);

/* --- bfloat16.c ------------------------------------------------------------------------------- */

/* bfloat16 is the upper half of an IEEE 754 binary32; rounded to nearest, ties to even. */
void comm_widen_bf16(const uint16_t *from, float *to, int64_t count);
void comm_narrow_bf16(const float *from, uint16_t *to, int64_t count);

#endif
