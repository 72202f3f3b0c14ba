/* Waiting for MPI requests, with a timeout. */
#include <time.h>
#include <unistd.h>

#include "base/host.h"
#include "base/thread.h"
#include "comm/internal.h"

Status mpi_check(int code, const Operation *operation, Error *error) {
  if (code == MPI_SUCCESS) return OK;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  return error_set(error, ERROR_INTERNAL, "%s failed on rank %d of %d: %s", operation->name,
                   operation->rank, operation->size, text);
}

/* Sleeps between two tests of a request: long enough to leave the core to ranks that compute, short
 * compared with the seconds already waited. */
static void pause_for(double waited) {
  const double shortest = 20e-6, longest = 200e-6;
  double seconds = waited / 4;
  if (seconds < shortest) seconds = shortest;
  if (seconds > longest) seconds = longest;
  nanosleep(&(struct timespec){.tv_nsec = (long)(seconds * 1e9)}, NULL);
}

Status timeout_error(const Operation *operation, double waited, Error *error) {
  char host[HOST_NAME_SIZE];
  host_name(host);
  return error_set(error, ERROR_INTERNAL,
                   "%s: rank %d of %d (pid %d on %s) waited %.1f s without progress, "
                   "%zu of %zu bytes done; another rank hangs, has ended or is elsewhere",
                   operation->name, operation->rank, operation->size, (int)getpid(), host, waited,
                   operation->bytes_done, operation->bytes);
}

Status mpi_wait(MPI_Request *request, const Operation *operation, double timeout, Error *error) {
  double start = clock_seconds();
  for (;;) {
    int complete = 0;
    Status status = mpi_check(MPI_Test(request, &complete, MPI_STATUS_IGNORE), operation, error);
    if (status != OK || complete) return status;
    double waited = clock_seconds() - start;
    if (waited > timeout) return timeout_error(operation, waited, error);
    pause_for(waited);
  }
}
