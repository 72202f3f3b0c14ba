/* The process group: one rank a process, over MPI.
 *
 * What is small and rare (broadcast, reductions of a few numbers, barriers) is done by the calling
 * thread and returns when done. Gradients go through comm_average_start/wait: a communication
 * thread runs them in the order of the calls, because Open MPI makes no progress by itself, so the
 * caller computes meanwhile. Every wait ends within `timeout` with ERROR_INTERNAL that says what
 * was waited for, how long, and how far it got. With one rank nothing is sent and no thread is
 * made.
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

/* Initialises MPI (MPI_THREAD_MULTIPLE). Warns when a scheduler announced more ranks than MPI sees
 * (N singletons instead of one group). `timeout` in seconds. */
Status comm_open(int *argc, char ***argv, double timeout, Comm **out, Error *error);
/* Ends the communication thread and MPI. Call on every rank, also after errors of this rank alone
 * only through comm_abort. */
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
Status comm_all_reduce(Comm *comm, void *data, int64_t count, CommType type,
                       CommOperation operation, Error *error);
/* `out` on every rank receives comm_size blocks of `bytes`, in rank order. */
Status comm_all_gather(Comm *comm, const void *data, size_t bytes, void *out, Error *error);
/* Makes a failure common: every rank calls it with its own status; all return the worst (by value)
 * and, where a rank had none itself, an error naming the first rank that failed and its message. */
Status comm_agree(Comm *comm, Status status, Error *error);

/* data = mean over the ranks of `count` F32 or BF16 elements (BF16 is summed in f32). Returns at
 * once; `data` must not be touched until comm_average_wait. Same order of calls on every rank. */
Status comm_average_start(Comm *comm, void *data, int64_t count, CommType type, Error *error);
Status comm_average_wait(Comm *comm, Error *error);

typedef struct CommStats {
  double seconds_waiting; /* in comm_average_wait: exposed communication */
  double seconds_busy;    /* the communication thread's, in collectives */
  int64_t collectives, bytes;
} CommStats;
CommStats comm_stats(const Comm *comm);

#endif
