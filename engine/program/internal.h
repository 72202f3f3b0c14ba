/* What a program is made of, for engine/program/program.c and engine/program/report.c. */
#ifndef CELFORGE_ENGINE_PROGRAM_INTERNAL_H
#define CELFORGE_ENGINE_PROGRAM_INTERNAL_H

#include "engine/planner/plan.h"
#include "engine/program/program.h"

/* A planned op with all it needs to run. */
typedef struct Step {
  Kernel *kernel; /* NULL: an all-reduce */
  Tensor inputs[OP_MAX_INPUTS], outputs[OP_MAX_OUTPUTS];
  size_t workspace_offset; /* in the arena */
  bool waits;              /* for the collectives started before */
  int written_count;
  Buffer *written[OP_MAX_INPUTS + OP_MAX_OUTPUTS];
  double flops, bytes;
  double seconds; /* profiled */
} Step;

struct Program {
  char *name;
  Backend *backend;
  Arena *arena;
  bool has_collectives;
  Collectives collectives;
  Plan *plan; /* its ops are the steps' */
  int step_count;
  Step *steps;
  Lifetime *lifetimes; /* of values, then of workspaces */
  int *lifetime_of;    /* by value */
  void *bound;         /* the arena's memory that the steps' addresses point into */
  bool is_bound;
  bool has_run;   /* at least once, op by op */
  void *captured; /* the backend's; NULL: not captured, or not at these addresses */
  ProgramCost cost;
  bool profiling;
  int64_t profiled_runs;
  double waiting; /* seconds, since planning or since profiling was switched on */
};

static inline bool is_convolution(OpKind kind) {
  return kind == OP_CONV3D || kind == OP_CONV3D_BACKWARD_DATA || kind == OP_CONV3D_BACKWARD_WEIGHTS;
}

#endif
