/* The command bench: how fast the parts are on this machine. */
#include <stddef.h>
#include <string.h>

#include "trainer/bench/bench.h"
#include "trainer/cli/options.h"

typedef struct Bench {
  const char *what, *path, *model, *json, *folder, *device, *precision, *cluster, *ranks;
  const char *save_trace;
  TextList set, cluster_set;
  int64_t steps, frames, threads, seconds, rounds, simulated, seed, peak_gflops, peak_gbps;
  bool plan;
  PictureSize size;
} Bench;

static const Option BENCH_OPTIONS[] = {
    {"step|translate|comm|data|checkpoint|scaling", OPTION_ARGUMENT, offsetof(Bench, what), true,
     .help = "step: training steps of a config; translate: inference of a trained model; comm: "
             "all-reduces, under mpirun; data: the loader; checkpoint: saving and resuming; "
             "scaling: a training step simulated on a cluster"},
    {"PATH", OPTION_ARGUMENT, offsetof(Bench, path), false,
     .modes = "step|translate|data|checkpoint|scaling",
     .help =
         "config, run or checkpoint, or dataset; scaling also takes the trace of a step (.json), "
         "or no PATH, to simulate all-reduces only"},
    {"model", OPTION_TEXT, offsetof(Bench, model), .value = "NAME", .modes = "translate",
     .help = "installed model, or path of a model file, instead of PATH"},
    {"json", OPTION_TEXT, offsetof(Bench, json), .value = "FILE",
     .help = "write the results to FILE"},
    {"set", OPTION_LIST, offsetof(Bench, set), .value = "KEY=VALUE",
     .modes = "step|checkpoint|scaling", .help = "override a key of the config; repeatable"},
    {"steps", OPTION_NUMBER, offsetof(Bench, steps), .minimum = 1, .maximum = 1000000, .value = "N",
     .default_text = "5", .modes = "step|translate|scaling", .help = "timed steps or frames"},
    {"plan", OPTION_FLAG, offsetof(Bench, plan), .modes = "step",
     .help = "print ops, shapes, FLOPs and memory, and stop; on a GPU this fills the cache of "
             "convolution plans"},
    {"frames", OPTION_NUMBER, offsetof(Bench, frames), .maximum = 1024, .value = "T",
     .default_text = "0", .modes = "step|scaling",
     .help = "frames of the random clips; 0: as in the config"},
    {"size", OPTION_SIZE, offsetof(Bench, size), .value = "WxH", .modes = "step|translate|scaling",
     .help = "frame size, pixels; default: the config's crop, or the dataset's size; for translate "
             "640x272"},
    {"device", OPTION_TEXT, offsetof(Bench, device), .value = "DEVICE", .default_text = "auto",
     .modes = "translate", .help = "auto, cpu or cuda"},
    {"precision", OPTION_TEXT, offsetof(Bench, precision), .value = "PRECISION",
     .default_text = "f32", .modes = "translate", .help = "f32 or bf16"},
    {"peak-gflops", OPTION_NUMBER, offsetof(Bench, peak_gflops), .maximum = 1000000000,
     .value = "N", .default_text = "0", .modes = "step",
     .help = "peak rate of the device, GFLOP/s, for the roofline bound of each op; 0: unknown"},
    {"peak-gbps", OPTION_NUMBER, offsetof(Bench, peak_gbps), .maximum = 1000000, .value = "N",
     .default_text = "0", .modes = "step",
     .help = "peak memory bandwidth of the device, GB/s; 0: unknown"},
    {"threads", OPTION_NUMBER, offsetof(Bench, threads), .minimum = 1, .maximum = 64, .value = "N",
     .default_text = "1", .modes = "data", .help = "loader threads"},
    {"seconds", OPTION_NUMBER, offsetof(Bench, seconds), .minimum = 1, .maximum = 3600,
     .value = "S", .default_text = "2", .modes = "data",
     .help = "duration of each measurement, seconds"},
    {"dir", OPTION_TEXT, offsetof(Bench, folder), .value = "FOLDER", .modes = "checkpoint",
     .help = "folder to write checkpoints in and remove them from; default: beside run.dir"},
    {"rounds", OPTION_NUMBER, offsetof(Bench, rounds), .minimum = 1, .maximum = 1000, .value = "N",
     .default_text = "5", .modes = "checkpoint", .help = "timed checkpoints"},
    {"cluster", OPTION_TEXT, offsetof(Bench, cluster), .value = "FILE", .modes = "scaling",
     .help = "cluster file, such as configs/clusters/h200-infiniband.yaml"},
    {"cluster-set", OPTION_LIST, offsetof(Bench, cluster_set), .value = "KEY=VALUE",
     .modes = "scaling", .help = "override a key of the cluster file; repeatable"},
    {"ranks", OPTION_TEXT, offsetof(Bench, ranks), .value = "LIST", .modes = "scaling",
     .help = "numbers of ranks, such as 1,8,64; default: powers of two up to all"},
    {"simulated", OPTION_NUMBER, offsetof(Bench, simulated), .minimum = 1, .maximum = 100000,
     .value = "N", .default_text = "64", .modes = "scaling", .help = "simulated steps"},
    {"seed", OPTION_NUMBER, offsetof(Bench, seed), .minimum = 0, .maximum = INT64_MAX, .value = "N",
     .default_text = "1", .modes = "scaling", .help = "seed of the random step durations"},
    {"save-trace", OPTION_TEXT, offsetof(Bench, save_trace), .value = "FILE", .modes = "scaling",
     .help = "write the trace of the step, to simulate it again"},
};

static BenchStepOptions step_options(const Bench *bench, const ConfigSources *sources) {
  return (BenchStepOptions){.sources = sources,
                            .json = bench->json,
                            .steps = bench->steps,
                            .plan = bench->plan,
                            .frames = (int)bench->frames,
                            .width = bench->size.width,
                            .height = bench->size.height,
                            .peaks = {.flops = 1e9 * (double)bench->peak_gflops,
                                      .bytes = 1e9 * (double)bench->peak_gbps}};
}

static Status run_step(const Bench *bench, Error *error) {
  Config config;
  ConfigSources *sources = config_sources_new();
  BenchStepOptions options = step_options(bench, sources);
  Status status = command_load_config(bench->path, &bench->set, &config, sources, error);
  if (status == OK) status = bench_step_run(&config, &options, error);
  config_sources_free(sources);
  return status;
}

static bool is_trace(const char *path) {
  size_t length = strlen(path);
  return length > 5 && strcmp(path + length - 5, ".json") == 0;
}

static Status run_scaling(const Bench *bench, Error *error) {
  Config config;
  BenchScalingOptions options = {.cluster = bench->cluster,
                                 .json = bench->json,
                                 .changes = bench->cluster_set.items,
                                 .change_count = bench->cluster_set.count,
                                 .ranks = bench->ranks,
                                 .save_trace = bench->save_trace,
                                 .simulated_steps = bench->simulated,
                                 .seed = (uint64_t)bench->seed};
  if (!bench->cluster)
    return error_set(error, ERROR_USAGE, "bench scaling: --cluster FILE is missing");
  if (!bench->path) return bench_reductions(&options, error);
  if (is_trace(bench->path)) return bench_scaling_trace(bench->path, &options, error);
  ConfigSources *sources = config_sources_new();
  BenchStepOptions step = step_options(bench, sources);
  Status status = command_load_config(bench->path, &bench->set, &config, sources, error);
  if (status == OK) status = bench_scaling_config(&config, bench->path, &step, &options, error);
  config_sources_free(sources);
  return status;
}

static Status run_data(const Bench *bench, Error *error) {
  BenchDataOptions options = {.data = bench->path,
                              .json = bench->json,
                              .threads = (int)bench->threads,
                              .seconds = (double)bench->seconds};
  return bench_data_run(&options, error);
}

static Status run_checkpoint(const Bench *bench, const Invocation *invocation, Error *error) {
  Config config;
  ConfigSources *sources = config_sources_new();
  BenchCheckpointOptions options = {.sources = sources,
                                    .folder = bench->folder,
                                    .json = bench->json,
                                    .rounds = (int)bench->rounds};
  Status status = command_load_config(bench->path, &bench->set, &config, sources, error);
  if (status == OK)
    status = bench_checkpoint_run(&config, &options, invocation->argc, invocation->argv, error);
  config_sources_free(sources);
  return status;
}

static Status run_translate(const Bench *bench, Error *error) {
  bool sized = bench->size.width > 0;
  BenchTranslateOptions options = {
      .model = {.checkpoint = bench->path,
                .model = bench->model,
                .allow_older = bench->path != NULL, /* the time does not depend on the weights */
                .ema = true},
      .json = bench->json,
      .width = sized ? bench->size.width : 640,
      .height = sized ? bench->size.height : 272,
      .frames = bench->steps};
  Status status = command_parse_device(bench->device, &options.device.device, error);
  if (status == OK)
    status = command_parse_precision(bench->precision, &options.device.precision, error);
  return status == OK ? bench_translate_run(&options, error) : status;
}

static Status run_bench(const void *values, const Invocation *invocation, Error *error) {
  const Bench *bench = values;
  bool data = strcmp(bench->what, "data") == 0;
  bool translate = strcmp(bench->what, "translate") == 0;
  if (strcmp(bench->what, "comm") == 0)
    return bench_comm_run(bench->json, invocation->argc, invocation->argv, error);
  if (strcmp(bench->what, "scaling") == 0) return run_scaling(bench, error);
  if (!bench->path && !bench->model)
    return error_set(error, ERROR_USAGE, "bench %s: PATH is missing; expected %s", bench->what,
                     data        ? "a dataset"
                     : translate ? "a run or checkpoint, or --model NAME"
                                 : "a config");
  if (translate) return run_translate(bench, error);
  if (data) return run_data(bench, error);
  return strcmp(bench->what, "step") == 0 ? run_step(bench, error)
                                          : run_checkpoint(bench, invocation, error);
}

const Command command_bench = {
    .name = "bench",
    .summary = "measure steps, translation, all-reduces, the loader or checkpoints; simulate "
               "clusters",
    .options = BENCH_OPTIONS,
    .option_count = sizeof BENCH_OPTIONS / sizeof *BENCH_OPTIONS,
    .values_size = sizeof(Bench),
    .run = run_bench};
