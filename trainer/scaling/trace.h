/* The trace of a training step: the ops of one rank in order, the input of
 * trainer/scaling/simulate.h.
 *
 * A trace is taken from a planned GAN step (trainer/bench/step_trace.h), with times if it was
 * profiled, or read from a file, so that a step that was measured elsewhere can be simulated. The
 * file is JSON:
 *
 *     {"format": "celforge-step-trace", "name": "demo", "precision": "f32", "clips": 4,
 *      "threads": 1, "clip_bytes": 196608, "state_bytes": 1e7, "batches_ahead": 4,
 *      "checkpoint_every": 500, "overlap": true,
 *      "ops": [{"name": "stem", "seconds": 0.01, "flops": 1e9, "bytes": 1e7, "waits": false},
 *              {"name": "bucket0", "reduces": 4194304}]}
 *
 * All keys of an op except its name are optional. */
#ifndef CELFORGE_TRAINER_SCALING_TRACE_H
#define CELFORGE_TRAINER_SCALING_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum { TRACE_NAME_SIZE = 64 };

typedef struct TraceOp {
  char name[TRACE_NAME_SIZE]; /* cut to fit */
  double seconds;             /* measured; 0: not measured */
  double flops, bytes;
  double reduces; /* bytes of the all-reduce it starts, as sent; 0: a kernel */
  bool waits;     /* first waits for all all-reduces started before */
} TraceOp;

typedef struct StepTrace {
  char name[TRACE_NAME_SIZE];
  bool bf16;               /* computes in bf16, else in f32 */
  int64_t clips;           /* per rank and step */
  int64_t threads;         /* per rank, where ops were measured on a CPU */
  double clip_bytes;       /* read per clip */
  double state_bytes;      /* per checkpoint */
  double batches_ahead;    /* prefetched clips, in steps */
  double checkpoint_every; /* steps; 0: only at the end */
  bool overlap;            /* all-reduces overlap with computation */
  bool measured;           /* at least one op has a measured time */
  int count, capacity;
  TraceOp *ops; /* the end of the step waits for all all-reduces */
} StepTrace;

/* Scales all times so that they add up to `seconds`: profiling makes ops slower. */
void step_trace_scale(StepTrace *trace, double seconds);
void step_trace_append(StepTrace *trace, const TraceOp *op);
void step_trace_free(StepTrace *trace);

/* ERROR_DATA on bad content, naming the place. */
Status step_trace_read(const char *path, StepTrace *trace, Error *error);
Status step_trace_write(const StepTrace *trace, const char *path, Error *error);

#endif
