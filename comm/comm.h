/* The process group: one rank a process, over MPI.
 *
 * What is small and rare (broadcast, reductions of a few numbers, barriers) is done by the calling
 * thread and returns when done. Gradients go through comm_average_start/wait: a communication
 * thread runs them in the order of the calls, because Open MPI makes no progress by itself, so the
 * caller computes meanwhile. A wait that sees no progress for `timeout` seconds ends with
 * ERROR_INTERNAL that says what was waited for, by whom, how long, and how far it got. After that
 * the group is of no more use: further calls fail at once, and comm_abort ends it. With one rank
 * nothing is sent and no thread is made.
 *
 * All functions are called from one thread (the main one). */
#ifndef CELFORGE_COMM_COMM_H
#define CELFORGE_COMM_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct Comm Comm;

typedef enum CommType { COMM_F32, COMM_BF16, COMM_F64, COMM_I64 } CommType;
typedef enum CommOperation { COMM_SUM, COMM_MAX, COMM_MIN } CommOperation;

/* Initialises MPI (MPI_THREAD_MULTIPLE); once in a process. Without a launcher's variables in the
 * environment MPI is left alone and the group has one rank. Warns when a scheduler announced more
 * ranks than MPI sees (N singletons instead of one group). `timeout` in seconds. Where MPI_Init or
 * MPI_Finalize does not return within it, the process says so and leaves with ERROR_INTERNAL: MPI
 * offers no way back from there. */
Status comm_open(int *argc, char ***argv, double timeout, Comm **out, Error *error);
/* Ends the communication thread and MPI, on every rank together; where the others do not come or a
 * collective has failed, ends as comm_abort does. After an error of this rank alone, comm_abort. */
void comm_close(Comm *comm);
/* Ends every rank of the group with `exit_code`, now. Does not return. */
void comm_abort(Comm *comm, int exit_code) __attribute__((noreturn));
void comm_set_timeout(Comm *comm, double seconds);

int comm_rank(const Comm *comm);
int comm_size(const Comm *comm);
int comm_local_rank(const Comm *comm); /* among the ranks of this host */
int comm_local_size(const Comm *comm);

Status comm_barrier(Comm *comm, Error *error);
Status comm_broadcast(Comm *comm, void *data, size_t bytes, int root, Error *error);
/* Folded in rank order by every rank, in double precision (I64: exactly, wrapping): the same bits
 * everywhere. NaN wins over every number. For few elements: every rank receives those of all. */
Status comm_all_reduce(Comm *comm, void *data, int64_t count, CommType type,
                       CommOperation operation, Error *error);
/* `out` on every rank receives comm_size blocks of `bytes`, in rank order. */
Status comm_all_gather(Comm *comm, const void *data, size_t bytes, void *out, Error *error);
/* Makes a failure common: every rank calls it with its own status; all return the worst (by value)
 * and, where a rank had none itself, an error naming the first rank that failed and its message. */
Status comm_agree(Comm *comm, Status status, Error *error);

/* data = mean over the ranks of `count` F32 or BF16 elements (BF16 is summed in f32). Returns at
 * once; `data` must not be touched until comm_average_wait. Same order of calls on every rank. The
 * result is the same on every rank, but for the payload of a NaN, and from run to run of as many
 * ranks; where the number of ranks is a power of two it is that of a fixed tree (neighbours, then
 * pairs of neighbours, ...). At most 4096 may be pending. */
Status comm_average_start(Comm *comm, void *data, int64_t count, CommType type, Error *error);
Status comm_average_wait(Comm *comm, Error *error);

typedef struct CommStats {
  double seconds_waiting; /* in comm_average_wait: exposed communication */
  double seconds_busy;    /* the communication thread's, in collectives */
  int64_t collectives, bytes;
} CommStats;
CommStats comm_stats(const Comm *comm);

#endif
