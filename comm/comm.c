#include "comm/comm.h"

#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "comm/internal.h"

/* Blocking collectives share about this much scratch memory. */
enum { SCRATCH_BYTES = 4 << 20, LARGEST_PIECE = 1 << 20, SMALLEST_PIECE = 4096 };
/* MPI_Abort itself can hang where a daemon is gone. */
enum { ABORT_SECONDS = 5 };
/* Of a rank that has nothing to do but to report. */
enum { FAILED_SECONDS = 60 };

/* --- What a launcher has announced ------------------------------------------------------------ */

static int environment_number(const char *name) {
  const char *text = getenv(name);
  return text ? atoi(text) : 0;
}

/* How many ranks a launcher announced, and in which variable; 0: none said anything. What started
 * this very process counts before what the job was granted. */
static int announced_ranks(const char **variable) {
  static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS",
                                      "SLURM_NTASKS"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    int number = environment_number(names[i]);
    *variable = names[i];
    if (number > 0) return number;
  }
  return 0;
}

/* Without a launcher MPI would start a daemon for this one rank: a third of a second for nothing.
 */
static bool started_by_launcher(void) {
  const char *variable;
  return getenv("OMPI_COMM_WORLD_SIZE") || getenv("PMIX_RANK") || getenv("PMI_RANK") ||
         announced_ranks(&variable) > 1;
}

static void warn_of_missing_ranks(const Comm *comm) {
  const char *variable;
  int announced = announced_ranks(&variable);
  if (announced > comm->size)
    log_warning("%s announces %d ranks, but MPI sees %d: processes that do not find each other "
                "each train alone; start them with mpirun or srun --mpi=pmix",
                variable, announced, comm->size);
}

/* --- Start ------------------------------------------------------------------------------------ */

static Status check_options(const CommOptions *options, Error *error) {
  if (!options->reproducible || !options->bf16_gradients) return OK;
  return error_set(error, ERROR_USAGE,
                   "a reproducible reduction of bfloat16 gradients: one rank alone would not "
                   "round them; allowed: comm.gradients: f32, or comm.reduce: fast");
}

static Status check_size(const Comm *comm, Error *error) {
  int size = comm->size, below = 1;
  if (!comm->options.reproducible || (size & (size - 1)) == 0) return OK;
  while (below * 2 < size) below *= 2;
  return error_set(error, ERROR_USAGE,
                   "a reproducible reduction of %d ranks; the number of ranks must be a power of "
                   "two, such as %d or %d; or comm.reduce: fast",
                   size, below, below * 2);
}

/* Those this process may run on: a launcher may have bound it to some. */
static cpu_set_t own_processors(void) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return set;
  CPU_ZERO(&set); /* a host with more than a cpu_set_t has room for */
  for (int i = 0; i < sysconf(_SC_NPROCESSORS_ONLN) && i < CPU_SETSIZE; i++)
    CPU_SET((size_t)i, &set);
  return set;
}

static Status find_neighbours(Comm *comm, const Operation *operation, Error *error) {
  Status status = OK;
  MPI_Comm host = MPI_COMM_NULL;
  cpu_set_t set = own_processors();
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
  size_t piece = SCRATCH_BYTES / ((size_t)comm->size + 1) / 64 * 64;
  comm->piece = piece > LARGEST_PIECE    ? LARGEST_PIECE
                : piece < SMALLEST_PIECE ? SMALLEST_PIECE
                                         : piece;
  void *scratch;
  Status status =
      mem_bulk(((size_t)comm->size + 1) * comm->piece, "the collectives' buffer", &scratch, error);
  if (status == OK) comm->scratch = scratch;
  return status;
}

static Status open_mpi(Comm *comm, int *argc, char ***argv, Error *error) {
  Status status = OK;
  int provided = 0, initialized = 0;
  MPI_Initialized(&initialized);
  if (initialized) FAIL(error, ERROR_INTERNAL, "MPI can be started only once in a process");
  MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided);
  comm->uses_mpi = true;
  MPI_Comm_rank(MPI_COMM_WORLD, &comm->rank);
  MPI_Comm_size(MPI_COMM_WORLD, &comm->size);
  if (provided < MPI_THREAD_MULTIPLE)
    FAIL(error, ERROR_INTERNAL,
         "this MPI gives thread level %d; MPI_THREAD_MULTIPLE (%d) is needed", provided,
         MPI_THREAD_MULTIPLE);
  Operation operation = {"starting the group", comm->rank, comm->size, 0, 0};
  TRY(find_neighbours(comm, &operation, error));
  if (comm->size == 1) goto done;
  TRY(allocate_scratch(comm, error));
  TRY(mpi_check(MPI_Comm_dup(MPI_COMM_WORLD, &comm->group), &operation, error));
  MPI_Comm_set_errhandler(comm->group, MPI_ERRORS_RETURN);
done:
  return status;
}

/* A group that has the blocking collectives. Nothing in it depends on what the options say beside
 * the timeout: ranks with other options, or with none, meet here. */
static Status join(int *argc, char ***argv, const CommOptions *options, const char *what,
                   Comm **out, Error *error) {
  Status status = OK;
  Watchdog watchdog;
  Comm *comm = mem_new(1, sizeof *comm);
  const cpu_set_t set = own_processors();
  *comm = (Comm){.size = 1,
                 .local_size = 1,
                 .local_processors = CPU_COUNT(&set),
                 .options = *options,
                 .group = MPI_COMM_NULL};
  if (started_by_launcher()) {
    TRY(watchdog_start(&watchdog, what, options->timeout, error));
    status = open_mpi(comm, argc, argv, error);
    watchdog_stop(&watchdog);
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

static Status open_averager(Comm *comm, Error *error) {
  Watchdog watchdog;
  Status status =
      watchdog_start(&watchdog, "the communicators' start", comm->options.timeout, error);
  if (status != OK) return status;
  status = averager_open(comm, &comm->averager, error);
  watchdog_stop(&watchdog);
  return status;
}

/* After a collective that failed MPI may still write into the group's memory, which then stays. */
static void give_up(Comm *comm, Status status, Error *error) {
  comm_say(comm, status, error);
  if (!comm->broken) comm_close(comm);
}

Status comm_open(int *argc, char ***argv, const CommOptions *options, Comm **out, Error *error) {
  *out = NULL;
  if (!(options->timeout > 0))
    return error_set(error, ERROR_INTERNAL, "timeout of %g s", options->timeout);
  Status status = check_options(options, error);
  if (status != OK) return comm_open_failed(argc, argv, status, error);
  Comm *comm = NULL;
  status = join(argc, argv, options, "MPI_Init", &comm, error);
  if (status != OK) return status;
  TRY(comm_agree(comm, check_size(comm, error), error));
  if (comm->size > 1) TRY(comm_agree(comm, open_averager(comm, error), error));
  if (comm->uses_mpi) warn_of_missing_ranks(comm);
  *out = comm;
done:
  if (status != OK) give_up(comm, status, error);
  return status;
}

Status comm_open_failed(int *argc, char ***argv, Status own, Error *error) {
  CommOptions options = {.timeout = FAILED_SECONDS};
  Comm *comm = NULL;
  Error trouble = {0}; /* less worth knowing than why this rank has failed */
  char *what = mem_format("MPI_Init, called to report \"%s\",", error->message);
  Status status = own;
  if (join(argc, argv, &options, what, &comm, &trouble) == OK) {
    status = comm_agree(comm, own, error);
    give_up(comm, status, error);
  }
  free(what);
  return status;
}

/* --- End -------------------------------------------------------------------------------------- */

void comm_say(const Comm *comm, Status status, Error *error) {
  if (status == OK || comm->size == 1) return;
  bool says = comm->rank == 0 || comm->broken;
  if (says && status == STOPPED)
    log_info("%s", error->message);
  else if (says)
    log_error("%s", error->message);
  error->message[0] = '\0';
}

static Status meet_last(Comm *comm, Error *error) {
  Status status = comm->averager ? comm_average_wait(comm, error) : OK;
  return status == OK ? comm_barrier(comm, error) : status;
}

static void close_mpi(Comm *comm) {
  Error error = {0};
  Watchdog watchdog;
  if (meet_last(comm, &error) != OK) {
    log_error("the group cannot end in order: %s", error.message);
    comm_abort(comm, ERROR_INTERNAL);
  }
  heartbeat_wait_begin(comm->heartbeat, "MPI_Finalize");
  bool watched = !comm->heartbeat &&
                 watchdog_start(&watchdog, "MPI_Finalize", comm->options.timeout, &error) == OK;
  averager_close(comm->averager);
  if (comm->group != MPI_COMM_NULL) MPI_Comm_free(&comm->group);
  MPI_Finalize();
  if (watched) watchdog_stop(&watchdog);
  comm->uses_mpi = false;
}

void comm_close(Comm *comm) {
  if (!comm) return;
  if (comm->uses_mpi) close_mpi(comm);
  heartbeat_stop(comm->heartbeat);
  free(comm->scratch);
  free(comm);
}

void comm_abort(Comm *comm, int exit_code) {
  if (comm && comm->uses_mpi && leave_within(ABORT_SECONDS, exit_code))
    MPI_Abort(MPI_COMM_WORLD, exit_code);
  _exit(exit_code);
}

double comm_patience(const Comm *comm) {
  return comm->heartbeat ? (double)INFINITY : comm->options.timeout;
}

int comm_rank(const Comm *comm) {
  return comm->rank;
}
int comm_size(const Comm *comm) {
  return comm->size;
}
int comm_local_rank(const Comm *comm) {
  return comm->local_rank;
}
int comm_local_processors(const Comm *comm) {
  return comm->local_processors;
}
int comm_local_size(const Comm *comm) {
  return comm->local_size;
}

Status comm_average_start(Comm *comm, void *data, int64_t count, CommType type, Error *error) {
  if (count < 0 || (type != COMM_F32 && type != COMM_BF16))
    return error_set(error, ERROR_INTERNAL,
                     "mean over the ranks: %lld elements of type %d; must be F32 or BF16",
                     (long long)count, (int)type);
  if (comm->size == 1 || count == 0) return OK;
  Status status = averager_start(comm->averager, data, count, type, comm_patience(comm), error);
  return status != OK || comm->options.overlap ? status : comm_average_wait(comm, error);
}

Status comm_average_wait(Comm *comm, Error *error) {
  if (comm->size == 1) return OK;
  Status status = averager_wait(comm->averager, comm_patience(comm), comm->heartbeat, error);
  if (status != OK) comm->broken = true;
  return status;
}

CommStats comm_stats(const Comm *comm) {
  return comm->averager ? averager_stats(comm->averager) : (CommStats){0};
}
