/* What one rank does in a training step, op by op: what trainer/scaling/simulate.h plays on a
 * cluster.
 *
 * A trace is taken from a planned model (with the times of a profiled one), or read from a file, so
 * that a step measured once, or known from elsewhere, can be simulated again. The file is JSON:
 *
 *     {"format": "celforge-step-trace", "name": "demo", "precision": "f32", "clips": 4,
 *      "threads": 1, "clip_bytes": 196608, "state_bytes": 1e7, "batches_ahead": 4,
 *      "checkpoint_every": 500, "overlap": true,
 *      "ops": [{"name": "stem", "seconds": 0.01, "flops": 1e9, "bytes": 1e7, "waits": false},
 *              {"name": "bucket0", "reduces": 4194304}]}
 *
 * Of an op all but the name may be left out. */
#ifndef CELFORGE_TRAINER_SCALING_TRACE_H
#define CELFORGE_TRAINER_SCALING_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum { TRACE_NAME_SIZE = 64 };

typedef struct TraceOp {
  char name[TRACE_NAME_SIZE]; /* cut to fit */
  double seconds;             /* measured; 0: not */
  double flops, bytes;
  double reduces; /* starts an all-reduce of so many bytes, as they travel; 0: a kernel */
  bool waits;     /* begins by waiting for all all-reduces started before */
} TraceOp;

typedef struct StepTrace {
  char name[TRACE_NAME_SIZE];
  bool bf16;               /* computes in bf16, else in f32 */
  int64_t clips;           /* a rank's, in a step */
  int64_t threads;         /* of a rank, where ops were measured on a CPU */
  double clip_bytes;       /* read for one of them */
  double state_bytes;      /* of a checkpoint */
  double batches_ahead;    /* steps' worth of clips that may be read ahead */
  double checkpoint_every; /* steps; 0: only at the end */
  bool overlap;            /* all-reduces travel while others are computed */
  bool measured;           /* ops have seconds */
  int count, capacity;
  TraceOp *ops; /* the end of the step waits for what is under way */
} StepTrace;

/* Scales all times so that they add up to `seconds`: clocks read around every op cost some. */
void step_trace_scale(StepTrace *trace, double seconds);
void step_trace_append(StepTrace *trace, const TraceOp *op);
void step_trace_free(StepTrace *trace);

/* ERROR_DATA on bad content, naming the place. */
Status step_trace_read(const char *path, StepTrace *trace, Error *error);
Status step_trace_write(const StepTrace *trace, const char *path, Error *error);

#endif
