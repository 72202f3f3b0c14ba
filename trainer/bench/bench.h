/* celforge bench: how fast the parts are on this machine. */
#ifndef CELFORGE_TRAINER_BENCH_BENCH_H
#define CELFORGE_TRAINER_BENCH_BENCH_H

#include "engine/program/program.h"
#include "trainer/config/config.h"
#include "trainer/scaling/trace.h"

typedef struct BenchStepOptions {
  const char *json;          /* NULL or a path */
  int64_t steps;             /* timed ones */
  bool plan;                 /* print the plan and stop */
  int frames, width, height; /* of random clips; 0: the config's crop, or the dataset's clips */
  Ceilings ceilings;         /* of the device, for the profile; 0: not known */
} BenchStepOptions;
/* Times training steps of this process alone on random clips: clips/s, GF/s, the convolutions'
 * share, a profile of the ops, memory. */
Status bench_step_run(const Config *config, const BenchStepOptions *options, Error *error);

/* What such a step does, op by op, as one of several ranks does it; with `measured` also how long
 * each takes here, else nothing is run. The trace's name is the caller's to give. */
Status bench_step_trace(const Config *config, const BenchStepOptions *options, bool measured,
                        StepTrace *trace, Error *error);

typedef struct BenchScalingOptions {
  const char *cluster, *json; /* json: NULL or a path */
  const char *const *changes; /* [change_count] of the cluster's keys, "storage.read=0" */
  int change_count;
  const char *ranks;      /* "1,2,4"; NULL: powers of two up to all that the cluster has */
  const char *save_trace; /* NULL, or where the step's trace is written */
  int64_t played;         /* steps that are simulated */
  uint64_t seed;
} BenchScalingOptions;
/* A step played on a cluster, by number of ranks: step time and its parts, efficiency, goodput. The
 * step is a config's (as bench_step_trace gives it) or a trace file's, whose name ends in ".json".
 * bench_reductions prints what all-reduces take there, by size and algorithm. */
Status bench_scaling_config(const Config *config, const char *name, const BenchStepOptions *step,
                            const BenchScalingOptions *options, Error *error);
Status bench_scaling_trace(const char *path, const BenchScalingOptions *options, Error *error);
Status bench_reductions(const BenchScalingOptions *options, Error *error);

/* All-reduces by size, under mpirun, as training makes them: seconds, bus bandwidth, and a line of
 * latency and bandwidth through them, as a cluster file takes them. Every rank together. */
Status bench_comm_run(const char *json, int *argc, char ***argv, Error *error);

typedef struct BenchTranslateOptions {
  const char *checkpoint, *json; /* json: NULL or a path */
  Device device;
  DType precision;
  int width, height; /* of the source's frames */
  int64_t frames;    /* timed ones */
} BenchTranslateOptions;
/* A model's stream alone, on a frame of noise: seconds a frame, GF/s. */
Status bench_translate_run(const BenchTranslateOptions *options, Error *error);

typedef struct BenchDataOptions {
  const char *data, *json;
  int threads;
  double seconds; /* at least, for each of the two */
} BenchDataOptions;
/* The loader alone, against plain pread of the same files: clips/s and GB/s. */
Status bench_data_run(const BenchDataOptions *options, Error *error);

typedef struct BenchCheckpointOptions {
  const char *folder; /* where to write; NULL: where the config's run lies */
  const char *json;   /* NULL or a path */
  int rounds;
} BenchCheckpointOptions;
/* Saves and reads checkpoints of a config's model, each beside a plain copy, write or read of as
 * many bytes: what a step waits, the background write, validating and restoring. Removes what it
 * writes. ERROR_IO where there is too little room for it. */
Status bench_checkpoint_run(const Config *config, const BenchCheckpointOptions *options, int *argc,
                            char ***argv, Error *error);

#endif
