/* Opening and closing the group. */
#include <stdlib.h>

#include "base/bulk_memory.h"
#include "base/host.h"
#include "base/log.h"
#include "base/memory.h"
#include "comm/internal.h"
#include "comm/launcher.h"

/* Blocking collectives share about this much scratch memory. */
enum { SCRATCH_BYTES = 4 << 20, LARGEST_CHUNK = 1 << 20, SMALLEST_CHUNK = 4096 };
/* Timeout of a rank that only reports its failure. */
enum { FAILED_SECONDS = 60 };

static void warn_of_missing_ranks(const Comm *comm) {
  const char *variable;
  int announced = launcher_announced_ranks(&variable);
  if (announced > comm->size)
    log_warning("%s announces %d ranks, but MPI sees %d: processes that do not find each other "
                "each train alone; start them with mpirun or srun --mpi=pmix",
                variable, announced, comm->size);
}

/* --- Opening ---------------------------------------------------------------------------------- */

static Status check_options(const CommOptions *options, Error *error) {
  if (!options->reproducible || !options->bf16_gradients) return OK;
  return error_set(error, ERROR_USAGE,
                   "comm.reduce: reproducible does not work with comm.gradients: bf16, because a "
                   "single rank would not round them; use comm.gradients: f32 or comm.reduce: "
                   "fast");
}

static Status check_size(const Comm *comm, Error *error) {
  int size = comm->size, below = 1;
  if (!comm->options.reproducible || (size & (size - 1)) == 0) return OK;
  while (below * 2 < size) below *= 2;
  return error_set(error, ERROR_USAGE,
                   "comm.reduce: reproducible needs a power of two of ranks, such as %d or %d; "
                   "there are %d; change the number of ranks or use comm.reduce: fast",
                   below, below * 2, size);
}

static Status find_local_ranks(Comm *comm, const Operation *operation, Error *error) {
  Status status = OK;
  MPI_Comm host = MPI_COMM_NULL;
  cpu_set_t set = host_processor_set();
  TRY(mpi_check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host),
                operation, error));
  MPI_Comm_rank(host, &comm->local_rank);
  MPI_Comm_size(host, &comm->local_size);
  TRY(mpi_check(MPI_Allreduce(MPI_IN_PLACE, &set, sizeof set, MPI_BYTE, MPI_BOR, host), operation,
                error));
  comm->local_processors = CPU_COUNT(&set);
done:
  if (host != MPI_COMM_NULL) MPI_Comm_free(&host);
  return status;
}

static Status allocate_scratch(Comm *comm, Error *error) {
  size_t bytes = SCRATCH_BYTES / ((size_t)comm->size + 1) / 64 * 64;
  comm->chunk_bytes = bytes > LARGEST_CHUNK    ? LARGEST_CHUNK
                      : bytes < SMALLEST_CHUNK ? SMALLEST_CHUNK
                                               : bytes;
  void *scratch;
  Status status = mem_bulk(((size_t)comm->size + 1) * comm->chunk_bytes, "the collectives' buffer",
                           &scratch, error);
  if (status == OK) comm->scratch = scratch;
  return status;
}

static Status open_mpi(Comm *comm, int *argc, char ***argv, Error *error) {
  Status status = OK;
  int provided = 0, initialized = 0;
  MPI_Initialized(&initialized);
  if (initialized) FAIL(error, ERROR_INTERNAL, "MPI can be initialised only once per process");
  MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided);
  comm->uses_mpi = true;
  MPI_Comm_rank(MPI_COMM_WORLD, &comm->rank);
  MPI_Comm_size(MPI_COMM_WORLD, &comm->size);
  if (provided < MPI_THREAD_MULTIPLE)
    FAIL(error, ERROR_INTERNAL, "this MPI offers thread level %d; needed: MPI_THREAD_MULTIPLE (%d)",
         provided, MPI_THREAD_MULTIPLE);
  Operation operation = {"starting the group", comm->rank, comm->size, 0, 0};
  TRY(find_local_ranks(comm, &operation, error));
  if (comm->size == 1) goto done;
  TRY(allocate_scratch(comm, error));
  TRY(mpi_check(MPI_Comm_dup(MPI_COMM_WORLD, &comm->group), &operation, error));
  MPI_Comm_set_errhandler(comm->group, MPI_ERRORS_RETURN);
done:
  return status;
}

/* Opens a group that has the blocking collectives only. It uses nothing of the options but the
 * timeout, so ranks with different options, or that only report a failure, still connect. `call`
 * names MPI_Init in the message of its deadline. */
static Status connect_ranks(int *argc, char ***argv, const CommOptions *options, const char *call,
                            Comm **out, Error *error) {
  Status status = OK;
  CallDeadline deadline;
  Comm *comm = mem_new(1, sizeof *comm);
  const cpu_set_t set = host_processor_set();
  *comm = (Comm){.size = 1,
                 .local_size = 1,
                 .local_processors = CPU_COUNT(&set),
                 .options = *options,
                 .group = MPI_COMM_NULL};
  /* Without a launcher MPI_Init would start a daemon for this one rank, which takes 0.3 s. */
  if (launcher_started_process()) {
    TRY(call_deadline_start(&deadline, call, options->timeout, error));
    status = open_mpi(comm, argc, argv, error);
    call_deadline_stop(&deadline);
  }
done:
  if (status == OK) {
    *out = comm;
  } else {
    free(comm->scratch);
    free(comm);
  }
  return status;
}

static Status open_all_reduce(Comm *comm, Error *error) {
  CallDeadline deadline;
  Status status =
      call_deadline_start(&deadline, "creating the communicators", comm->options.timeout, error);
  if (status != OK) return status;
  status = async_all_reduce_open(comm, &comm->all_reduce, error);
  call_deadline_stop(&deadline);
  return status;
}

/* After a failed collective MPI may still write into the group's memory, which is then leaked. */
static void report_and_close(Comm *comm, Status status, Error *error) {
  comm_report(comm, status, error);
  if (!comm->failed) comm_close(comm);
}

Status comm_open(int *argc, char ***argv, const CommOptions *options, Comm **out, Error *error) {
  *out = NULL;
  if (!(options->timeout > 0))
    return error_set(error, ERROR_INTERNAL, "timeout of %g s; must be positive", options->timeout);
  Status status = check_options(options, error);
  if (status != OK) return comm_report_startup_failure(argc, argv, status, error);
  Comm *comm = NULL;
  status = connect_ranks(argc, argv, options, "MPI_Init", &comm, error);
  if (status != OK) return status;
  TRY(comm_agree(comm, check_size(comm, error), error));
  if (comm->size > 1) TRY(comm_agree(comm, open_all_reduce(comm, error), error));
  if (comm->uses_mpi) warn_of_missing_ranks(comm);
  *out = comm;
done:
  if (status != OK) report_and_close(comm, status, error);
  return status;
}

Status comm_report_startup_failure(int *argc, char ***argv, Status own, Error *error) {
  CommOptions options = {.timeout = FAILED_SECONDS};
  Comm *comm = NULL;
  Error ignored = {0}; /* why this rank has failed matters more */
  char *call = mem_format("MPI_Init, called to report \"%s\",", error->message);
  Status status = own;
  if (connect_ranks(argc, argv, &options, call, &comm, &ignored) == OK) {
    status = comm_agree(comm, own, error);
    report_and_close(comm, status, error);
  }
  free(call);
  return status;
}

/* --- Closing ---------------------------------------------------------------------------------- */

void comm_report(const Comm *comm, Status status, Error *error) {
  if (status == OK || comm->size == 1) return;
  bool logs = comm->rank == 0 || comm->failed;
  if (logs && status == STOPPED)
    log_info("%s", error->message);
  else if (logs)
    log_error("%s", error->message);
  error->message[0] = '\0';
}

static Status final_barrier(Comm *comm, Error *error) {
  Status status = comm_all_reduce_mean_wait(comm, error);
  return status == OK ? comm_barrier(comm, error) : status;
}

static void close_mpi(Comm *comm) {
  Error error = {0};
  CallDeadline deadline;
  if (final_barrier(comm, &error) != OK) {
    log_error("the group cannot be closed, aborting: %s", error.message);
    comm_abort(comm, ERROR_INTERNAL);
  }
  presence_wait_begin(&comm->presence, "MPI_Finalize");
  bool has_deadline = !comm->stop_watch && call_deadline_start(&deadline, "MPI_Finalize",
                                                               comm->options.timeout, &error) == OK;
  async_all_reduce_close(comm->all_reduce);
  comm->all_reduce = NULL;
  if (comm->group != MPI_COMM_NULL) MPI_Comm_free(&comm->group);
  MPI_Finalize();
  if (has_deadline) call_deadline_stop(&deadline);
  comm->uses_mpi = false;
}

void comm_close(Comm *comm) {
  if (!comm) return;
  if (comm->uses_mpi) close_mpi(comm);
  if (comm->stop_watch) comm->stop_watch(comm->watch_context);
  free(comm->scratch);
  free(comm);
}
