#include "trainer/run/preflight.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/files.h"
#include "base/host.h"
#include "base/memory.h"
#include "base/text.h"
#include "comm/launcher.h"

enum { READ_BYTES = 1 << 20, MAX_NAMED_RANKS = 4, DIFFERENCE_SIZE = 640 };

/* The properties that all ranks must share, and the host name for error messages. */
typedef struct Identity {
  char host[HOST_NAME_SIZE], dataset[80]; /* uuid, or both of unpaired data */
  uint32_t program, config;               /* CRC-32C of the program file, of the config text */
} Identity;

/* --- The number of ranks ---------------------------------------------------------------------- */

static Status alone_error(int connected, Error *error) {
  const char *task = getenv("SLURM_PROCID"), *node = getenv("SLURMD_NODENAME");
  return error_set(error, ERROR_USAGE,
                   "srun started %d tasks, but MPI connects %d: task %s on node %s would train "
                   "alone; use srun --mpi=pmix (srun --mpi=list shows the choices), or mpirun",
                   launcher_srun_tasks(), connected, task ? task : "?", node ? node : "?");
}

Status preflight_check_environment(Error *error) {
  return launcher_srun_tasks() > 1 && !launcher_offers_pmi() ? alone_error(1, error) : OK;
}

Status preflight_fail_together(int *argc, char ***argv, Status status, Error *error) {
  if (preflight_check_environment(NULL) != OK) return status;
  return comm_report_startup_failure(argc, argv, status, error);
}

static Status check_world_size(int size, Error *error) {
  int tasks = launcher_srun_tasks();
  return tasks > 0 && tasks != size ? alone_error(size, error) : OK;
}

/* --- Identities ------------------------------------------------------------------------------- */

static Status program_crc32c(uint32_t *out, Error *error) {
  static const char path[] = "/proc/self/exe";
  Status status = OK;
  uint8_t *bytes = mem_new(READ_BYTES, 1);
  ssize_t count = 0;
  *out = 0;
  int descriptor = file_open(path, O_RDONLY);
  if (descriptor < 0) {
    status = error_errno(error, errno, "%s: cannot open", path);
    goto done;
  }
  while ((count = read(descriptor, bytes, READ_BYTES)) > 0 || (count < 0 && errno == EINTR))
    if (count > 0) *out = crc32c(*out, bytes, (size_t)count);
  if (count < 0) status = error_errno(error, errno, "%s: cannot read", path);
done:
  file_close(&descriptor);
  free(bytes);
  return status;
}

static Status identify(const Text *config, const char *dataset, const char *targets, Identity *out,
                       Error *error) {
  *out = (Identity){.config = crc32c(0, config->data, config->length)};
  host_name(out->host);
  snprintf(out->dataset, sizeof out->dataset, "%s%s%s", dataset, targets ? " and " : "",
           targets ? targets : "");
  return program_crc32c(&out->program, error);
}

typedef bool (*Differs)(const Identity *a, const Identity *b);

static bool program_differs(const Identity *a, const Identity *b) {
  return a->program != b->program;
}
static bool config_differs(const Identity *a, const Identity *b) {
  return a->config != b->config;
}
static bool dataset_differs(const Identity *a, const Identity *b) {
  return strcmp(a->dataset, b->dataset) != 0;
}

/* Appends the ranks that differ from rank 0: "rank 1 on b, rank 3 on d and 12 more". Returns the
 * first of them, 0 if there is none. */
static int list_differing(const Identity *ranks, int size, Differs differs, Text *out) {
  int count = 0, first = 0;
  for (int r = 1; r < size; r++) {
    if (!differs(&ranks[0], &ranks[r])) continue;
    if (first == 0) first = r;
    if (count++ < MAX_NAMED_RANKS)
      text_append(out, "%srank %d on %s", count > 1 ? ", " : "", r, ranks[r].host);
  }
  if (count > MAX_NAMED_RANKS) text_append(out, " and %d more", count - MAX_NAMED_RANKS);
  return first;
}

/* --- Configs ---------------------------------------------------------------------------------- */

/* Describes the first line in which two config texts differ: "train.steps is 20, on rank 0 it is
 * 10". The same program wrote both, so they have the same keys in the same order. */
static void describe_difference(const char *own, const char *first, char out[DIFFERENCE_SIZE]) {
  int section = 0;
  const char *heading = own;
  out[0] = '\0';
  while (*own && *first) {
    int length = (int)strcspn(own, "\n"), other = (int)strcspn(first, "\n");
    if (length != other || memcmp(own, first, (size_t)length) != 0) {
      int name = (int)strcspn(own, ":"), indent = (int)strspn(own, " ");
      int value = name + (int)strspn(own + name, ": ");
      snprintf(out, DIFFERENCE_SIZE, "%.*s.%.*s is %.*s, on rank 0 it is %.*s", section, heading,
               name - indent, own + indent, length - value > 200 ? 200 : length - value,
               own + value, other - value > 200 ? 200 : other - value, first + value);
      return;
    }
    if (*own != ' ') {
      heading = own;
      section = (int)strcspn(own, ":");
    }
    own += length + (own[length] == '\n');
    first += other + (first[other] == '\n');
  }
}

/* Describes how the config of rank `differing` differs from that of rank 0, on every rank. */
static Status find_difference(Comm *comm, const Text *config, int differing,
                              char out[DIFFERENCE_SIZE], Error *error) {
  Status status = OK;
  uint64_t length = config->length;
  char *first = NULL;
  out[0] = '\0';
  TRY(comm_broadcast(comm, &length, sizeof length, 0, error));
  first = mem_new(length + 1, 1);
  if (comm_rank(comm) == 0) memcpy(first, config->data, length);
  TRY(comm_broadcast(comm, first, length, 0, error));
  if (comm_rank(comm) == differing) describe_difference(config->data, first, out);
  TRY(comm_broadcast(comm, out, DIFFERENCE_SIZE, differing, error));
done:
  free(first);
  return status;
}

/* --- The check -------------------------------------------------------------------------------- */

static Status compare(Comm *comm, const Identity *ranks, const Text *config, bool unpaired,
                      Error *error) {
  Status status = OK;
  Text who = {0};
  char difference[DIFFERENCE_SIZE];
  int size = comm_size(comm), rank;
  if ((rank = list_differing(ranks, size, program_differs, &who)) > 0)
    FAIL(error, ERROR_USAGE,
         "the ranks run different builds: %s (the program's CRC-32C is %08x) and rank 0 on %s "
         "(%08x); install the same program on every node",
         who.data, ranks[rank].program, ranks[0].host, ranks[0].program);
  if ((rank = list_differing(ranks, size, config_differs, &who)) > 0) {
    TRY(find_difference(comm, config, rank, difference, error));
    FAIL(error, ERROR_USAGE,
         "the ranks have different configs: %s and rank 0 on %s; on rank %d %s; start every rank "
         "with the same file and the same --set",
         who.data, ranks[0].host, rank, difference);
  }
  if ((rank = list_differing(ranks, size, dataset_differs, &who)) > 0)
    FAIL(error, ERROR_USAGE,
         "the ranks have different datasets at data.path%s: %s (%s) and rank 0 on %s "
         "(%s); copy the same dataset to every node",
         unpaired ? " and data.target_path" : "", who.data, ranks[rank].dataset, ranks[0].host,
         ranks[0].dataset);
done:
  text_free(&who);
  return status;
}

Status preflight_check(const Config *config, Comm *comm, const char *dataset_uuid,
                       const char *target_uuid, Error *error) {
  Status status = OK;
  int size = comm_size(comm);
  Identity own, *ranks = mem_new((size_t)size, sizeof *ranks);
  Text text = {0};
  config_write(&config_schema, config, false, &text);
  TRY(comm_agree(comm, check_world_size(size, error), error));
  TRY(comm_agree(comm, identify(&text, dataset_uuid, target_uuid, &own, error), error));
  TRY(comm_all_gather(comm, &own, sizeof own, ranks, error));
  TRY(compare(comm, ranks, &text, target_uuid != NULL, error));
done:
  text_free(&text);
  free(ranks);
  return status;
}
