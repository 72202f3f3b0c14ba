/* The process group: one process per rank, connected by MPI.
 *
 * Small and rare operations (broadcast, reductions of a few numbers, barriers) run in the calling
 * thread and return when they are complete. Gradients go through comm_all_reduce_mean_start/wait: a
 * communication thread runs these all-reduces in the order of the calls, because Open MPI makes no
 * progress by itself, while the caller computes. With one rank nothing is sent and no thread is
 * created.
 *
 * Every wait is bounded. Once the group has a heartbeat (comm/health/heartbeat.h) the deadlines of
 * its phases apply: the watchdog reports which rank is behind and ends the process. Before that, a
 * wait that sees no progress for `timeout` seconds fails with ERROR_INTERNAL; the error names the
 * operation, the rank, how long it waited and how many bytes were done. The group is unusable from
 * then on: further calls fail at once, and comm_abort ends it.
 *
 * All functions are called from the main thread; comm_abort may be called from any. */
#ifndef CELFORGE_COMM_COMM_H
#define CELFORGE_COMM_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct Comm Comm;

typedef enum CommType { COMM_F32, COMM_BF16, COMM_F64, COMM_I64 } CommType;
typedef enum CommOperation { COMM_SUM, COMM_MAX, COMM_MIN } CommOperation;

/* How gradients are reduced:
 *
 * fast          MPI_Iallreduce sums chunks in f32, in an order that MPI chooses.
 * reproducible  chunks are summed in f32 by a fixed tree: neighbours, then pairs of neighbours, and
 *               so on. Doubling the number of ranks adds a level to the tree, so 1, 2, 4, ... ranks
 *               that share the same terms get the same bytes. Needs a power of two.
 * bf16 (fast)   half the bytes. Each rank rounds its values to bfloat16 once; a reduce-scatter adds
 *               them in f32 in rank order, divides in f32 and rounds the mean to bfloat16 once; an
 *               all-gather distributes it. An F32 buffer then holds the widened bfloat16 mean:
 *               within 2^-8 of the mean magnitude of the terms, plus 2^-9 of the mean. With one
 *               rank nothing is rounded, so this cannot be reproducible.
 *
 * In all of them every rank gets the same bits (except for the payload of a NaN). */
typedef struct CommOptions {
  double timeout;      /* seconds without progress, at start-up and where there is no heartbeat */
  bool reproducible;   /* ERROR_USAGE if the number of ranks is not a power of two */
  bool bf16_gradients; /* ERROR_USAGE together with `reproducible` */
  bool overlap;        /* false: comm_all_reduce_mean_start returns when the mean is complete */
} CommOptions;

/* Initialises MPI (MPI_THREAD_MULTIPLE) and creates the group; once per process, on every rank.
 * A process that no launcher started leaves MPI alone and is a group of one rank. Warns if the
 * launcher announced more ranks than MPI sees (N singletons instead of one group). If MPI_Init or
 * MPI_Finalize does not return in time, the process logs an error and exits with ERROR_INTERNAL:
 * these calls cannot be cancelled. A failure of one rank is an error on every rank and is logged
 * once (see comm_report). */
Status comm_open(int *argc, char ***argv, const CommOptions *options, Comm **out, Error *error);
/* Called instead of comm_open by a rank that cannot start (invalid config, missing file). Shares
 * its failure (`own`, *error) with the other ranks in their comm_open, logs it once, and finalises
 * MPI. Returns the worst status of all ranks; if the others cannot be reached, `own` with its
 * message. */
Status comm_report_startup_failure(int *argc, char ***argv, Status own, Error *error);
/* Logs why the run ends. After comm_agree the error is the same on every rank: rank 0 logs it
 * (STOPPED at level info) and *error is left without a message. Called by all ranks before
 * comm_close, because a launcher ends the others as soon as one has exited with an error. After a
 * failed collective every rank logs its own error. With one rank the caller logs. */
void comm_report(const Comm *comm, Status status, Error *error);
/* Finalises MPI and stops the communication thread and the heartbeat, on every rank together. If
 * the other ranks do not call it in time, or a collective has failed, it ends like comm_abort.
 * After an error of this rank alone call comm_abort instead. */
void comm_close(Comm *comm);
/* Ends every rank of the group with `exit_code`, within seconds even if MPI_Abort hangs. Does not
 * return. */
void comm_abort(Comm *comm, int exit_code) __attribute__((noreturn));

int comm_rank(const Comm *comm);
int comm_size(const Comm *comm);
int comm_local_rank(const Comm *comm); /* among the ranks of this host */
int comm_local_size(const Comm *comm);
int comm_local_processors(const Comm *comm); /* that the ranks of this host may run on, together */

Status comm_barrier(Comm *comm, Error *error);
/* Copies `bytes` of `data` from rank `root` to every rank. */
Status comm_broadcast(Comm *comm, void *data, size_t bytes, int root, Error *error);
/* Reduces `count` elements in place. Every rank gathers the terms of all ranks and reduces them in
 * rank order in double precision (I64: exactly, wrapping), so all get the same bits. NaN wins over
 * every number. Meant for few elements. */
Status comm_all_reduce(Comm *comm, void *data, int64_t count, CommType type,
                       CommOperation operation, Error *error);
/* `out` receives comm_size blocks of `bytes` on every rank, in rank order. */
Status comm_all_gather(Comm *comm, const void *data, size_t bytes, void *out, Error *error);
/* Shares the ranks' statuses: every rank passes its own and gets the largest one by value, in
 * which every error outranks STOPPED. A rank
 * that had no failure gets an error naming the first rank that failed, with its message. */
Status comm_agree(Comm *comm, Status status, Error *error);

/* A named checksum of data of which every rank holds a copy. */
typedef struct CommDigest {
  const char *name; /* "generator.master" */
  uint64_t value;
} CommDigest;

/* Checks that the digests are equal on all ranks; every rank passes the same names in the same
 * order. If values (or the names) differ, every rank gets ERROR_INTERNAL that names each such item
 * and the ranks that deviate from the majority, or the values of all ranks if there is no majority.
 * The group stays usable. */
Status comm_compare_digests(Comm *comm, const CommDigest *items, int count, Error *error);

/* Starts an in-place all-reduce: `data` receives the mean of the ranks' `count` F32 or BF16
 * elements (BF16 is summed in f32 and rounded once). Returns at once if CommOptions.overlap is set;
 * `data` must not be touched until comm_all_reduce_mean_wait, which waits for all that were
 * started. Every rank makes the same calls in the same order. The result is the same on every rank,
 * and in every run with as many ranks. At most 4096 may be pending. */
Status comm_all_reduce_mean_start(Comm *comm, void *data, int64_t count, CommType type,
                                  Error *error);
Status comm_all_reduce_mean_wait(Comm *comm, Error *error);

/* Totals over all calls of comm_all_reduce_mean_start so far. */
typedef struct CommStats {
  double exposed_seconds; /* the caller waited in comm_all_reduce_mean_wait */
  double busy_seconds;    /* the communication thread spent in collectives */
  int64_t all_reduces;
  int64_t bytes; /* sent per rank: 2 per element as bfloat16, else 4 */
} CommStats;
CommStats comm_stats(const Comm *comm);

#endif
