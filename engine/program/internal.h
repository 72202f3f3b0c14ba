/* The representation of a program, for engine/program/. */
#ifndef CELFORGE_ENGINE_PROGRAM_INTERNAL_H
#define CELFORGE_ENGINE_PROGRAM_INTERNAL_H

#include "engine/planner/plan.h"
#include "engine/program/program.h"

/* A planned op, ready to run. */
typedef struct Step {
  Kernel *kernel; /* NULL: an all-reduce */
  Tensor inputs[OP_MAX_INPUTS], outputs[OP_MAX_OUTPUTS];
  size_t workspace_offset; /* in the arena */
  bool waits;              /* for all all-reduces started before */
  int written_count;
  Buffer *written[OP_MAX_INPUTS + OP_MAX_OUTPUTS]; /* without duplicates */
  double flops, bytes;
  double seconds; /* sum over the profiled runs */
} Step;

struct Program {
  char *name;
  Backend *backend;
  Arena *arena;
  bool has_collectives;
  Collectives collectives;
  Plan *plan; /* ops[i] belongs to steps[i] */
  int step_count;
  Step *steps;
  Lifetime *lifetimes; /* of values, then of workspaces */
  int *lifetime_of;    /* by value */
  void *bound;         /* memory of the arena that the addresses in `steps` point into */
  bool is_bound;
  bool has_run;   /* at least once, op by op */
  void *captured; /* by the backend, with the current addresses; NULL: not captured */
  ProgramCost cost;
  bool profiling;
  int64_t profiled_runs;
  double waiting; /* seconds in all_reduce_wait, since planning or the start of profiling */
};

static inline bool is_convolution(OpKind kind) {
  return kind == OP_CONV3D || kind == OP_CONV3D_BACKWARD_DATA || kind == OP_CONV3D_BACKWARD_WEIGHTS;
}

#endif
