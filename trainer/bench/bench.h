/* celforge bench: how fast the parts are on this machine. */
#ifndef CELFORGE_TRAINER_BENCH_BENCH_H
#define CELFORGE_TRAINER_BENCH_BENCH_H

#include "engine/program/program.h"
#include "trainer/config/config.h"
#include "trainer/infer/open_model.h"
#include "trainer/scaling/trace.h"

typedef struct BenchStepOptions {
  const ConfigSources *sources; /* where the config's keys were set, for errors; or NULL */
  const char *json;             /* NULL or a path */
  int64_t steps;                /* timed */
  bool plan;                    /* print the plan and stop */
  int frames, width, height; /* of the random clips; 0: the config's crop, or the dataset's clips */
  DevicePeaks peaks;         /* of the device, for the roofline bounds; 0: unknown */
} BenchStepOptions;
/* Times training steps of a single process on random clips and prints clips/s, GFLOP/s, the share
 * of convolutions, a profile of the ops, and memory. */
Status bench_step_run(const Config *config, const BenchStepOptions *options, Error *error);

/* Takes the trace of such a step as one of several ranks executes it; with `measured` its ops are
 * timed on this machine, else nothing runs. The caller sets the trace's name. */
Status bench_step_trace(const Config *config, const BenchStepOptions *options, bool measured,
                        StepTrace *trace, Error *error);

typedef struct BenchScalingOptions {
  const char *cluster, *json; /* json: NULL or a path */
  const char *const *changes; /* [change_count] "KEY=VALUE", "storage.read=0" */
  int change_count;
  const char *ranks;      /* "1,2,4"; NULL: powers of two up to all of the cluster */
  const char *save_trace; /* NULL, or where the step's trace is written */
  int64_t simulated_steps;
  uint64_t seed;
} BenchScalingOptions;
/* Simulate a step on a cluster and print step time and its parts, efficiency and goodput by number
 * of ranks. The step is that of a config (bench_step_trace) or of a trace file. bench_reductions
 * prints the time of all-reduces by size and algorithm. */
Status bench_scaling_config(const Config *config, const char *name, const BenchStepOptions *step,
                            const BenchScalingOptions *options, Error *error);
Status bench_scaling_trace(const char *path, const BenchScalingOptions *options, Error *error);
Status bench_reductions(const BenchScalingOptions *options, Error *error);

/* Times all-reduces by size, under mpirun, as in training: seconds, bus bandwidth, and latency and
 * bandwidth of a line fitted to them, for a cluster file. Called by all ranks. */
Status bench_comm_run(const char *json, int *argc, char ***argv, Error *error);

typedef struct BenchTranslateOptions {
  ModelChoice model;
  ModelDevice device;
  const char *json;  /* NULL or a path */
  int width, height; /* of the source's frames */
  int64_t frames;    /* timed */
} BenchTranslateOptions;
/* Times frame-by-frame inference on a frame of noise, without video: seconds per frame, GFLOP/s. */
Status bench_translate_run(const BenchTranslateOptions *options, Error *error);

typedef struct BenchDataOptions {
  const char *data, *json;
  int threads;
  double seconds; /* of each of the two measurements, at least */
} BenchDataOptions;
/* Times the loader alone, beside plain pread of the same files: clips/s and GB/s. */
Status bench_data_run(const BenchDataOptions *options, Error *error);

typedef struct BenchCheckpointOptions {
  const ConfigSources *sources; /* where the config's keys were set, for errors; or NULL */
  const char *folder;           /* where to write; NULL: beside the config's run.dir */
  const char *json;             /* NULL or a path */
  int rounds;
} BenchCheckpointOptions;
/* Times saving and resuming checkpoints of a config, each beside a plain copy, write or read of the
 * same bytes: stall of a step, background write, validation, restore. Removes everything it writes.
 * ERROR_IO if there is too little space. */
Status bench_checkpoint_run(const Config *config, const BenchCheckpointOptions *options, int *argc,
                            char ***argv, Error *error);

#endif
