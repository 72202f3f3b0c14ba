/* Shared by the files of comm/. The only room that includes MPI. */
#ifndef CELFORGE_COMM_INTERNAL_H
#define CELFORGE_COMM_INTERNAL_H

#include <mpi.h>
#include <pthread.h>

#include "comm/comm.h"

typedef struct Averager Averager;

struct Comm {
  int rank, size, local_rank, local_size;
  double timeout;     /* seconds without progress */
  bool uses_mpi;      /* false for a process started by no launcher */
  bool broken;        /* a collective failed; MPI may still hold its request */
  MPI_Comm group;     /* the calling thread's collectives; MPI_COMM_NULL with one rank */
  size_t piece;       /* bytes a rank hands over at once in a blocking collective */
  char *scratch;      /* (size + 1) * piece: what MPI reads and writes, so that a request
                         that outlives its timeout never touches the caller's memory */
  Averager *averager; /* NULL with one rank */
};

/* --- wait.c --------------------------------------------------------------------------------------
 */

/* An operation on its way, for the text of a timeout. */
typedef struct Operation {
  const char *name; /* "broadcast" */
  int rank, size;
  size_t done, bytes;
} Operation;

/* Turns a code of MPI other than MPI_SUCCESS into ERROR_INTERNAL. */
Status mpi_check(int code, const Operation *operation, Error *error);
/* Sleeps between two looks at a request: long enough to leave the core to the ranks that compute,
 * short beside what has been waited already. */
void mpi_pause(double waited);
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

/* --- average.c -----------------------------------------------------------------------------------
 */

Status averager_open(int rank, int size, Averager **out, Error *error);
/* Ends the thread; nothing may be pending. */
void averager_close(Averager *averager);
Status averager_start(Averager *averager, void *data, int64_t count, CommType type, double timeout,
                      Error *error);
Status averager_wait(Averager *averager, double timeout, Error *error);
CommStats averager_stats(Averager *averager);

/* --- bfloat16.c ----------------------------------------------------------------------------------
 */

/* bfloat16 is the upper half of an IEEE 754 binary32; rounded to nearest, ties to even. */
void comm_widen_bf16(const uint16_t *from, float *to, int64_t count);
void comm_narrow_bf16(const float *from, uint16_t *to, int64_t count);

#endif
