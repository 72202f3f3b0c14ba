/* bench: how fast the parts are on this machine. */
#include <stddef.h>
#include <string.h>

#include "trainer/commandline.h"
#include "trainer/commands.h"

typedef struct Bench {
  const char *what, *path, *json;
  TextList set;
  int64_t steps, frames, threads, seconds;
  PictureSize size;
} Bench;

static const Option BENCH_OPTIONS[] = {
    {"step|data", OPTION_ARGUMENT, offsetof(Bench, what), true,
     .help = "step: a training step of a config; data: the loader on a dataset"},
    {"PATH", OPTION_ARGUMENT, offsetof(Bench, path), true,
     .help = "step: the config; data: the dataset"},
    {"json", OPTION_TEXT, offsetof(Bench, json), .value = "FILE", .help = "write the numbers here"},
    {"set", OPTION_LIST, offsetof(Bench, set), .value = "KEY=VALUE",
     .help = "step: change a key of the config; may be given again"},
    {"steps", OPTION_NUMBER, offsetof(Bench, steps), .minimum = 1, .maximum = 1000000, .value = "N",
     .default_text = "5", .help = "step: how many are timed, then profiled"},
    {"frames", OPTION_NUMBER, offsetof(Bench, frames), .maximum = 1024, .value = "T",
     .default_text = "0", .help = "step: frames of the random clips; 0: the config's"},
    {"size", OPTION_SIZE, offsetof(Bench, size), .value = "WxH",
     .help = "step: their pixels; without it the config's crop, or the dataset's size"},
    {"threads", OPTION_NUMBER, offsetof(Bench, threads), .minimum = 1, .maximum = 64, .value = "N",
     .default_text = "1", .help = "data: threads that read"},
    {"seconds", OPTION_NUMBER, offsetof(Bench, seconds), .minimum = 1, .maximum = 3600,
     .value = "S", .default_text = "2", .help = "data: how long each is measured"},
};

static Status run_step(const Bench *bench, Error *error) {
  Config config;
  Status status = command_load_config(bench->path, &bench->set, &config, error);
  if (status != OK) return status;
  BenchStepOptions options = {.json = bench->json,
                              .steps = bench->steps,
                              .frames = (int)bench->frames,
                              .width = bench->size.width,
                              .height = bench->size.height};
  return bench_step_run(&config, &options, error);
}

static Status run_data(const Bench *bench, Error *error) {
  BenchDataOptions options = {.data = bench->path,
                              .json = bench->json,
                              .threads = (int)bench->threads,
                              .seconds = (double)bench->seconds};
  return bench_data_run(&options, error);
}

static Status run_bench(const void *values, const Invocation *invocation, Error *error) {
  const Bench *bench = values;
  (void)invocation;
  if (strcmp(bench->what, "step") == 0) return run_step(bench, error);
  if (strcmp(bench->what, "data") == 0) return run_data(bench, error);
  return error_set(error, ERROR_USAGE, "bench: \"%s\" is not known; allowed: step, data",
                   bench->what);
}

const Command command_bench = {.name = "bench",
                               .summary = "measures a training step, or the loader",
                               .options = BENCH_OPTIONS,
                               .option_count = sizeof BENCH_OPTIONS / sizeof *BENCH_OPTIONS,
                               .values_size = sizeof(Bench),
                               .run = run_bench};
