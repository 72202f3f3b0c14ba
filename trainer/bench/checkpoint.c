/* bench checkpoint: times of saving and resuming, beside plain copies, writes and reads. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/bulk_memory.h"
#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/progress.h"
#include "base/signals.h"
#include "base/statistics.h"
#include "base/thread.h"
#include "trainer/bench/bench.h"
#include "trainer/gan/device.h"
#include "trainer/gan/device_memory.h"
#include "trainer/gan/networks.h"
#include "trainer/run/checkpoint_state.h"

enum {
  FRAMES = 1, /* per clip; weights do not depend on it */
  LEAST_SIDE = 64,
  KEPT = 2,              /* checkpoints; one more is being written */
  WRITE_CHUNK = 4 << 20, /* bytes per call, as for a checkpoint */
  TIMEOUT = 120,
};
static const char UUID[] = "00000000-0000-0000-0000-000000000000"; /* no dataset is read */

typedef enum Part {
  PART_COPY,        /* from the device to host memory; the step waits */
  PART_HAND_OVER,   /* to the writer, which copies again; the step waits */
  PART_WRITE,       /* files, fsync, rename, retention: in the background */
  PART_VALIDATE,    /* all checksums, when resuming */
  PART_RESTORE,     /* into the model */
  PART_PLAIN_COPY,  /* the same bytes from memory to memory */
  PART_PLAIN_WRITE, /* the same bytes into one file, and fsync */
  PART_PLAIN_READ,  /* of the checkpoint's files */
  PART_COUNT,
} Part;

static const char *const KEYS[PART_COUNT] = {
    [PART_COPY] = "copy",
    [PART_HAND_OVER] = "hand_over",
    [PART_WRITE] = "write",
    [PART_VALIDATE] = "validate",
    [PART_RESTORE] = "restore",
    [PART_PLAIN_COPY] = "plain_copy",
    [PART_PLAIN_WRITE] = "plain_write",
    [PART_PLAIN_READ] = "plain_read",
};

typedef struct Bench {
  const BenchCheckpointOptions *options;
  Config config; /* with the smallest batch */
  Comm *comm;
  Backend *backend;
  Gan *gan;
  GradientGuard *guard;
  CheckpointWriter *writer;
  TrainingSnapshot *copy;
  char *place;      /* the folder chosen by find_place */
  char *folder;     /* temporary folder in it */
  char *checkpoint; /* the newest */
  char *data;       /* [bytes] the tensor files of a checkpoint, concatenated */
  size_t bytes;
  double *seconds[PART_COUNT]; /* [rounds], later ascending */
} Bench;

/* --- Set-up ----------------------------------------------------------------------------------- */

/* Returns a side of clips that all networks accept: two pixels at the generator's lowest
 * resolution, for its reflect padding, and three before the last two convolutions of a
 * discriminator. */
static int clip_side(const ModelConfig *model) {
  int64_t generator = 2 * generator_multiple(model), side = LEAST_SIDE;
  int64_t image = 3LL << (model->image_layers + model->image_scales);
  int64_t video = 3LL << model->video_layers;
  if (generator > side) side = generator;
  if (model->image_scales > 0 && image / 2 > side) side = image / 2;
  if (model->video && video > side) side = video;
  return (int)side;
}

static Status plan(Bench *bench, const Config *config, Error *error) {
  Status status = OK;
  int side = clip_side(&config->model);
  TRY(config_check(config, bench->options->sources, 1, error));
  bench->config = *config;
  bench->config.train.global_batch = bench->config.train.micro_batch = 1;
  bench->config.run.init[0] = '\0';  /* weights do not matter, */
  bench->config.loss.l1 = 1;         /* nor do losses, */
  bench->config.loss.perceptual = 0; /* but this one has a network that is in no checkpoint */
  GanOptions options = {.shape = {.frames = FRAMES,
                                  .source_height = side,
                                  .source_width = side,
                                  .source_channels = 3,
                                  .target_height = side,
                                  .target_width = side},
                        .micro_batches = 1};
  bench->guard = guard_new(&bench->config);
  TRY(device_open(&bench->config, NULL, (int)config->train.threads, &bench->backend, error));
  TRY(gan_plan(&bench->config, bench->backend, &options, &bench->gan, error));
done:
  return status;
}

/* Moments that are not zero: some file systems store zeros for free. */
static Status fill_moments(Parameters *parameters, Error *error) {
  Status status = OK;
  float *values = NULL;
  int64_t count = parameters->master.count;
  if (parameters->total == 0) return OK;
  TRY(mem_bulk((size_t)count * sizeof *values, "a network's weights", (void **)&values, error));
  TRY(buffer_download(&parameters->master, 0, values, count, error));
  TRY(buffer_upload(&parameters->moment1, 0, values, count, error));
  TRY(buffer_upload(&parameters->moment2, 0, values, count, error));
done:
  free(values);
  return status;
}

static Status allocate(Bench *bench, Error *error) {
  Status status = OK;
  TRY(device_memory_allocate(&bench->gan, error));
  TRY(training_state_initialize(bench->gan, bench->comm, NULL, NULL, error));
  TRY(fill_moments(gan_generator(bench->gan), error));
  TRY(fill_moments(gan_discriminator(bench->gan), error));
  TRY(training_snapshot_new(bench->gan, &bench->copy, error));
done:
  return status;
}

/* Uses --dir, else the nearest existing parent of the config's run.dir. */
static Status find_place(Bench *bench, Error *error) {
  Status status = OK;
  bool is_folder;
  const char *given = bench->options->folder;
  bench->place = mem_string(given ? given : bench->config.run.dir);
  for (;;) {
    TRY(path_is_folder(bench->place, &is_folder, error));
    if (is_folder) goto done;
    if (given) FAIL(error, ERROR_IO, "%s: no such folder", bench->place);
    char *above = mem_string(dirname(bench->place)); /* ends at "." or "/" */
    free(bench->place);
    bench->place = above;
  }
done:
  return status;
}

/* Weights, averaged weights and both moments of the generator, weights and moments of the
 * discriminators; without headers. */
static double expected_bytes(const Bench *bench) {
  return (double)sizeof(float) * (4 * (double)gan_generator(bench->gan)->total +
                                  3 * (double)gan_discriminator(bench->gan)->total);
}

static Status check_space(const Bench *bench, Error *error) {
  struct statvfs facts;
  double needed = (KEPT + 1) * (1.01 * expected_bytes(bench) + (1 << 20));
  if (statvfs(bench->place, &facts) != 0) return error_errno(error, errno, "%s", bench->place);
  double free_bytes = (double)facts.f_bavail * (double)facts.f_frsize;
  if (free_bytes >= needed) return OK;
  Text needs = {0}, has = {0};
  text_append_size(&needs, needed);
  text_append_size(&has, free_bytes);
  error_set(
      error, ERROR_IO,
      "%s: %d checkpoints of this config need %s, %s are free; choose another folder with --dir",
      bench->place, KEPT + 1, needs.data, has.data);
  text_free(&needs);
  text_free(&has);
  return ERROR_IO;
}

static Status make_folder(Bench *bench, Error *error) {
  char *folder = path_join(bench->place, "celforge-bench-XXXXXX");
  if (!mkdtemp(folder)) {
    Status status = error_errno(error, errno, "%s: cannot make a folder in it", bench->place);
    free(folder);
    return status;
  }
  bench->folder = folder;
  return checkpoint_writer_open(folder, KEPT, NULL, &bench->writer, error);
}

/* --- Checkpoints ------------------------------------------------------------------------------ */

/* Returns the seconds since *from and sets it to now. */
static double lap(double *from) {
  double now = clock_seconds(), seconds = now - *from;
  *from = now;
  return seconds;
}

static Status save(Bench *bench, int64_t step, double seconds[PART_COUNT], Error *error) {
  Status status = OK;
  StepOutcome none = {.step = -1};
  TrainingPosition position = {
      .step = step, .data = {.uuid = UUID}, .guard = bench->guard, .pending = &none};
  double clock = clock_seconds();
  TRY(training_snapshot_take(bench->copy, &position, error));
  seconds[PART_COPY] = lap(&clock);
  TRY(training_snapshot_submit(bench->copy, bench->writer, error));
  seconds[PART_HAND_OVER] = lap(&clock);
  TRY(checkpoint_writer_wait(bench->writer, CHECKPOINT_WAIT_SECONDS, error));
  seconds[PART_WRITE] = lap(&clock);
  free(bench->checkpoint);
  char *name = checkpoint_step_name(step, "");
  bench->checkpoint = path_join(bench->folder, name);
  free(name);
done:
  return status;
}

static Status resume(Bench *bench, double seconds[PART_COUNT], Error *error) {
  Status status = OK;
  Checkpoint *checkpoint = NULL;
  ResumePoint point;
  double clock = clock_seconds();
  TRY(checkpoint_open(bench->checkpoint, &checkpoint, error));
  seconds[PART_VALIDATE] = lap(&clock);
  const DataIdentity data = {.uuid = UUID};
  TRY(training_state_restore(bench->gan, bench->guard, bench->comm, checkpoint, &data, NULL, false,
                             &point, error));
  seconds[PART_RESTORE] = lap(&clock);
done:
  checkpoint_close(checkpoint);
  return status;
}

/* --- Plain copies, writes and reads ----------------------------------------------------------- */

static Status plain_copy(Bench *bench, double *seconds, Error *error) {
  (void)error;
  size_t half = bench->bytes / 2;
  double clock = clock_seconds();
  memcpy(bench->data, bench->data + half, half);
  memcpy(bench->data + half, bench->data, half);
  *seconds = lap(&clock);
  return OK;
}

static Status plain_write(Bench *bench, double *seconds, Error *error) {
  Status status = OK;
  char *path = path_join(bench->folder, "plain");
  double clock = clock_seconds();
  int descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor < 0) {
    status = error_errno(error, errno, "%s: cannot create", path);
    goto done;
  }
  for (size_t at = 0; at < bench->bytes; at += WRITE_CHUNK) {
    size_t left = bench->bytes - at;
    TRY(file_write(descriptor, path, bench->data + at, left < WRITE_CHUNK ? left : WRITE_CHUNK,
                   error));
  }
  if (fsync(descriptor) != 0) status = error_errno(error, errno, "%s: cannot flush", path);
  *seconds = lap(&clock);
done:
  if (descriptor >= 0) close(descriptor);
  unlink(path);
  free(path);
  return status;
}

static Status file_bytes(const char *path, size_t *bytes, Error *error) {
  struct stat facts;
  if (stat(path, &facts) != 0) return error_errno(error, errno, "%s", path);
  *bytes = (size_t)facts.st_size;
  return OK;
}

static Status read_file(const char *path, char *data, size_t bytes, Error *error) {
  int descriptor = open(path, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return error_errno(error, errno, "%s", path);
  Status status = file_pread(descriptor, path, data, bytes, 0, error);
  close(descriptor);
  return status;
}

static bool holds_tensors(const char *name) {
  const char *dot = strrchr(name, '.');
  return dot && strcmp(dot, ".safetensors") == 0;
}

/* Reads the newest checkpoint's tensor files into `data`, or only adds up their sizes if it is
 * NULL. `sizes` (may be NULL) receives the bytes of each file. The two JSON files are a few KiB. */
static Status read_files(const Bench *bench, char *data, size_t *total, json_t *sizes,
                         Error *error) {
  Status status = OK;
  char **names = NULL, *path = NULL;
  size_t count = 0, bytes = 0;
  *total = 0;
  TRY(folder_list(bench->checkpoint, &names, &count, error));
  for (size_t i = 0; i < count; i++) {
    if (!holds_tensors(names[i])) continue;
    free(path);
    path = path_join(bench->checkpoint, names[i]);
    TRY(file_bytes(path, &bytes, error));
    if (data && bytes > bench->bytes - *total)
      FAIL(error, ERROR_INTERNAL, "%s: has grown to %zu bytes", path, bytes);
    if (data) TRY(read_file(path, data + *total, bytes, error));
    if (sizes) json_object_set_new(sizes, names[i], json_integer((json_int_t)bytes));
    *total += bytes;
  }
done:
  free(path);
  folder_list_free(names, count);
  return status;
}

static Status plain_read(Bench *bench, double *seconds, Error *error) {
  size_t total;
  double clock = clock_seconds();
  Status status = read_files(bench, bench->data, &total, NULL, error);
  *seconds = lap(&clock);
  return status;
}

/* --- Measuring -------------------------------------------------------------------------------- */

static Status check_stop(Error *error) {
  if (!signals_stop_requested()) return OK;
  return error_set(error, STOPPED, "bench checkpoint: stopped by a signal; all files were removed");
}

/* Saves and resumes once without measuring: first use of memory is slow, and `data` is filled from
 * this checkpoint. */
static Status warm_up(Bench *bench, Error *error) {
  Status status = OK;
  double ignored[PART_COUNT];
  TRY(save(bench, 1, ignored, error));
  TRY(resume(bench, ignored, error));
  TRY(read_files(bench, NULL, &bench->bytes, NULL, error));
  TRY(mem_bulk(bench->bytes, "a checkpoint's files", (void **)&bench->data, error));
  TRY(plain_read(bench, ignored, error));
done:
  return status;
}

/* Measures each part beside its plain counterpart; which one is first alternates between rounds. */
static Status measure_round(Bench *bench, int round, Error *error) {
  Status status = OK;
  double seconds[PART_COUNT];
  bool plain_first = round % 2;
  if (plain_first) TRY(plain_write(bench, &seconds[PART_PLAIN_WRITE], error));
  TRY(save(bench, round + 2, seconds, error));
  if (!plain_first) TRY(plain_write(bench, &seconds[PART_PLAIN_WRITE], error));
  TRY(check_stop(error));
  if (plain_first) TRY(plain_read(bench, &seconds[PART_PLAIN_READ], error));
  TRY(resume(bench, seconds, error));
  if (!plain_first) TRY(plain_read(bench, &seconds[PART_PLAIN_READ], error));
  TRY(plain_copy(bench, &seconds[PART_PLAIN_COPY], error));
  TRY(check_stop(error));
  for (Part part = 0; part < PART_COUNT; part++) bench->seconds[part][round] = seconds[part];
done:
  return status;
}

static Status measure(Bench *bench, Error *error) {
  Status status = OK;
  int rounds = bench->options->rounds;
  Progress *progress = progress_new("rounds", 0, rounds);
  for (Part part = 0; part < PART_COUNT; part++)
    bench->seconds[part] = mem_new((size_t)rounds, sizeof(double));
  TRY(warm_up(bench, error));
  for (int round = 0; round < rounds; round++) {
    TRY(measure_round(bench, round, error));
    progress_update(progress, round + 1);
  }
done:
  progress_end(progress);
  return status;
}

/* --- Reporting -------------------------------------------------------------------------------- */

typedef struct Result {
  double seconds[PART_COUNT]; /* medians */
  json_t *files;              /* bytes by name */
} Result;

static void print_row(const Bench *bench, const char *name, double seconds, double bound) {
  printf("%-34s %10.2f %10.3f", name, 1e3 * seconds, (double)bench->bytes / seconds / 1e9);
  if (bound > 0) printf(" %8.2f", seconds / bound);
  printf("\n");
}

static void print_result(const Bench *bench, const Result *result) {
  const double *s = result->seconds;
  const char *name;
  json_t *bytes;
  Text text = {0};
  text_append(&text, "%s, in %s: a checkpoint of ", bench->backend->describe(bench->backend),
              bench->place);
  text_append_size(&text, (double)bench->bytes);
  text_append(&text, ", medians of %d rounds, warm page cache\n\n", bench->options->rounds);
  json_object_foreach(result->files, name, bytes) {
    text_append(&text, "  %-28s ", name);
    text_append_size(&text, (double)json_integer_value(bytes));
    text_append(&text, "\n");
  }
  printf("%s\n%-34s %10s %10s %8s\n", text.data, "", "ms", "GB/s", "x plain");
  text_free(&text);
  print_row(bench, "step stalls: copy", s[PART_COPY], s[PART_PLAIN_COPY]);
  print_row(bench, "step stalls: submit", s[PART_HAND_OVER], s[PART_PLAIN_COPY]);
  print_row(bench, "  plain: memory to memory", s[PART_PLAIN_COPY], 0);
  print_row(bench, "background: write", s[PART_WRITE], s[PART_PLAIN_WRITE]);
  print_row(bench, "  plain: one file and fsync", s[PART_PLAIN_WRITE], 0);
  print_row(bench, "resume: validate", s[PART_VALIDATE], s[PART_PLAIN_READ]);
  print_row(bench, "resume: restore", s[PART_RESTORE], s[PART_PLAIN_COPY]);
  print_row(bench, "  plain: read the files", s[PART_PLAIN_READ], 0);
}

static Status write_json(const Bench *bench, const Result *result, Error *error) {
  json_t *json = json_pack("{s:I, s:O, s:i, s:s, s:s}", "bytes", (json_int_t)bench->bytes, "files",
                           result->files, "rounds", bench->options->rounds, "folder", bench->place,
                           "device", bench->backend->describe(bench->backend));
  for (Part part = 0; part < PART_COUNT; part++) {
    char key[48];
    double seconds = result->seconds[part];
    snprintf(key, sizeof key, "%s_seconds", KEYS[part]);
    json_object_set_new(json, key, json_real(seconds));
    snprintf(key, sizeof key, "%s_gb_per_second", KEYS[part]);
    json_object_set_new(json, key, json_real((double)bench->bytes / seconds / 1e9));
  }
  Status status = json_write_file(bench->options->json, json, error);
  json_decref(json);
  return status;
}

static Status report(const Bench *bench, Error *error) {
  Status status = OK;
  size_t total;
  Result result = {.files = json_object()};
  for (Part part = 0; part < PART_COUNT; part++)
    result.seconds[part] = median(bench->seconds[part], bench->options->rounds);
  TRY(read_files(bench, NULL, &total, result.files, error));
  print_result(bench, &result);
  if (bench->options->json) TRY(write_json(bench, &result, error));
done:
  json_decref(result.files);
  return status;
}

/* --- The command ------------------------------------------------------------------------------ */

/* Removes everything that was written. A failure to do so is reported unless there is an earlier
 * error. */
static Status clean_up(Bench *bench, Status status, Error *error) {
  Error late = {0};
  Status closed = checkpoint_writer_close(bench->writer, &late);
  if (bench->folder && folder_remove(bench->folder, &late) != OK) closed = late.status;
  if (status == OK && closed != OK) *error = late;
  return status == OK ? closed : status;
}

static void tear_down(Bench *bench) {
  for (Part part = 0; part < PART_COUNT; part++) free(bench->seconds[part]);
  free(bench->data);
  free(bench->checkpoint);
  free(bench->folder);
  free(bench->place);
  guard_free(bench->guard);
  training_snapshot_free(bench->copy);
  gan_free(bench->gan);
  if (bench->backend) bench->backend->free(bench->backend);
}

static Status run(Bench *bench, const Config *config, Error *error) {
  Status status = OK;
  if (comm_size(bench->comm) > 1)
    FAIL(error, ERROR_USAGE, "bench checkpoint: %d ranks, expected 1; start it without mpirun",
         comm_size(bench->comm));
  TRY(plan(bench, config, error));
  TRY(find_place(bench, error));
  TRY(check_space(bench, error));
  TRY(allocate(bench, error));
  TRY(make_folder(bench, error));
  TRY(measure(bench, error));
  TRY(report(bench, error));
done:
  return clean_up(bench, status, error);
}

Status bench_checkpoint_run(const Config *config, const BenchCheckpointOptions *options, int *argc,
                            char ***argv, Error *error) {
  Bench bench = {.options = options};
  CommOptions alone = {.timeout = TIMEOUT};
  Status status = comm_open(argc, argv, &alone, &bench.comm, error);
  if (status != OK) return status;
  signals_install();
  status = run(&bench, config, error);
  tear_down(&bench);
  comm_report(bench.comm, status, error);
  comm_close(bench.comm);
  return status;
}
