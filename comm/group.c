/* The group's state: accessors, timeouts, abort. */
#include <math.h>
#include <unistd.h>

#include "comm/internal.h"

/* MPI_Abort itself can hang if a daemon of the launcher is gone. */
enum { ABORT_SECONDS = 5 };

int comm_rank(const Comm *comm) {
  return comm->rank;
}
int comm_size(const Comm *comm) {
  return comm->size;
}
int comm_local_rank(const Comm *comm) {
  return comm->local_rank;
}
int comm_local_size(const Comm *comm) {
  return comm->local_size;
}
int comm_local_processors(const Comm *comm) {
  return comm->local_processors;
}

double comm_wait_timeout(const Comm *comm) {
  return comm->stop_watch ? (double)INFINITY : comm->options.timeout;
}

void comm_set_watch(Comm *comm, void (*stop)(void *context), void *context) {
  comm->stop_watch = stop;
  comm->watch_context = context;
}

void comm_abort(Comm *comm, int exit_code) {
  if (comm && comm->uses_mpi && exit_after(ABORT_SECONDS, exit_code))
    MPI_Abort(MPI_COMM_WORLD, exit_code);
  _exit(exit_code);
}
