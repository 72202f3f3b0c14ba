/* The process group: one rank a process, over MPI.
 *
 * What is small and rare (broadcast, reductions of a few numbers, barriers) is done by the calling
 * thread and returns when done. Gradients go through comm_average_start/wait: a communication
 * thread runs them in the order of the calls, because Open MPI makes no progress by itself, so the
 * caller computes meanwhile. With one rank nothing is sent and no thread is made.
 *
 * A wait is bounded. Once the group has a heartbeat (comm/health/heartbeat.h) the deadlines of its
 * phases hold: the watchdog reports which rank is behind and ends the process. Before that a wait
 * that sees no progress for `timeout` seconds ends with ERROR_INTERNAL that says what was waited
 * for, by whom, how long, and how far it got; the group is then of no more use: further calls fail
 * at once, and comm_abort ends it.
 *
 * All functions are called from one thread (the main one), comm_abort from any. */
#ifndef CELFORGE_COMM_COMM_H
#define CELFORGE_COMM_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct Comm Comm;

typedef enum CommType { COMM_F32, COMM_BF16, COMM_F64, COMM_I64 } CommType;
typedef enum CommOperation { COMM_SUM, COMM_MAX, COMM_MIN } CommOperation;

/* How gradients are averaged:
 *
 * fast          pieces are summed in f32 by MPI_Iallreduce, in an order that MPI chooses.
 * reproducible  pieces are summed in f32 in a fixed tree: neighbours, then pairs of neighbours, and
 *               so on. Every number of ranks continues the tree of the one before, so 1, 2, 4, ...
 *               ranks that share out the same terms get the same bytes. Needs a power of two.
 * bf16 (fast)   half the bytes. Each rank's values are rounded to bfloat16 once; every rank
 *               receives the others' for its share of a piece, adds them in f32 in rank order,
 *               divides in f32, rounds the mean to bfloat16 once and sends it to all. An F32 buffer
 *               then holds the widened bfloat16 mean: within 2^-8 of the mean magnitude of the
 *               terms, plus 2^-9 of the mean. With one rank nothing is rounded, so it cannot be
 *               reproducible.
 *
 * In all of them every rank ends with the same bits (but for the payload of a NaN). */
typedef struct CommOptions {
  double timeout;      /* seconds without progress, in the start and where there is no heartbeat */
  bool reproducible;   /* ERROR_USAGE where the number of ranks is no power of two */
  bool bf16_gradients; /* ERROR_USAGE together with `reproducible` */
  bool overlap;        /* false: comm_average_start returns when the mean is there */
} CommOptions;

/* Initialises MPI (MPI_THREAD_MULTIPLE); once in a process. Without a launcher's variables in the
 * environment MPI is left alone and the group has one rank. Warns when a scheduler announced more
 * ranks than MPI sees (N singletons instead of one group). Where MPI_Init or MPI_Finalize does not
 * return in time, the process says so and leaves with ERROR_INTERNAL: MPI offers no way back from
 * there. A failure is all ranks' failure, said once (see comm_say). */
Status comm_open(int *argc, char ***argv, const CommOptions *options, Comm **out, Error *error);
/* In place of comm_open, by a rank that cannot go on: its config is wrong, a file is not there.
 * Makes its failure (`own` and *error) all ranks' failure, said once, and ends MPI again. Returns
 * the worst status; where the others are not reached, the rank's own with its message. */
Status comm_open_failed(int *argc, char ***argv, Status own, Error *error);
/* Says why the run ends: an error (STOPPED: information) that is the same on every rank after
 * comm_agree goes to the log once, from rank 0, and *error is left without a message. Called by all
 * ranks before comm_close: a launcher ends the others as soon as one has left with an error. Where
 * a collective has failed every rank speaks for itself. A rank alone leaves it to its caller. */
void comm_say(const Comm *comm, Status status, Error *error);
/* Ends the communication thread, MPI and the heartbeat, on every rank together; where the others do
 * not come or a collective has failed, ends as comm_abort does. After an error of this rank alone,
 * comm_abort. */
void comm_close(Comm *comm);
/* Ends every rank of the group with `exit_code`, within seconds even where MPI_Abort hangs. Does
 * not return. */
void comm_abort(Comm *comm, int exit_code) __attribute__((noreturn));

int comm_rank(const Comm *comm);
int comm_size(const Comm *comm);
int comm_local_rank(const Comm *comm); /* among the ranks of this host */
int comm_local_size(const Comm *comm);
int comm_local_processors(const Comm *comm); /* that ranks of this host may run on, together */

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

/* A named checksum of something that every rank has a copy of. */
typedef struct CommDigest {
  const char *name; /* "generator.master" */
  uint64_t value;
} CommDigest;

/* Replicas are the same: every rank passes the same names in the same order. Where values differ
 * (or the names do), every rank gets ERROR_INTERNAL that names each such item and the ranks that
 * depart from the majority, or all groups of ranks where there is none. The group stays usable. */
Status comm_same(Comm *comm, const CommDigest *items, int count, Error *error);

/* data = mean over the ranks of `count` F32 or BF16 elements (BF16 is summed in f32 and rounded
 * once). Returns at once where CommOptions.overlap is on; `data` must not be touched until
 * comm_average_wait. Same order of calls on every rank. The result is the same on every rank, and
 * from run to run of as many ranks. At most 4096 may be pending. */
Status comm_average_start(Comm *comm, void *data, int64_t count, CommType type, Error *error);
Status comm_average_wait(Comm *comm, Error *error);

typedef struct CommStats {
  double seconds_waiting; /* the caller's, for means: exposed communication */
  double seconds_busy;    /* the communication thread's, in collectives */
  int64_t collectives;    /* calls of comm_average_start */
  int64_t bytes;          /* of their elements as they travel (2 each as bfloat16, else 4) */
} CommStats;
CommStats comm_stats(const Comm *comm);

#endif
