/* A graph planned for a backend, run many times.
 *
 * Planning removes dead ops (nothing they compute reaches a buffer), fuses, orders the all-reduces,
 * gives every value a place in one arena from its lifetime, and asks the backend for a kernel for
 * each op. It allocates no memory but bookkeeping, so a plan can be printed on any machine. */
#ifndef CELFORGE_ENGINE_PROGRAM_PROGRAM_H
#define CELFORGE_ENGINE_PROGRAM_PROGRAM_H

#include "base/text.h"
#include "engine/backend/backend.h"

/* How the engine reaches other ranks; filled by whoever owns the communication. */
typedef struct Collectives {
  void *context;
  /* Whether a backend may capture the two calls below together with its kernels. */
  bool capturable;
  /* Starts target = mean over the ranks, `count` elements of f32 or bf16, and returns at once.
   * `stream` is the backend's. Calls come in the same order on every rank. */
  Status (*all_reduce_start)(void *context, void *data, int64_t count, DType dtype, void *stream,
                             Error *error);
  /* Returns when (or, on a device, makes the stream wait until) all started ones have ended. */
  Status (*all_reduce_wait)(void *context, void *stream, Error *error);
} Collectives;

/* Memory for values, shared by programs that never run at the same time. Freed before the backend.
 */
typedef struct Arena Arena;
Arena *arena_new(void);
void arena_free(Arena *arena);
size_t arena_bytes(const Arena *arena); /* the most any planned program needs */

typedef struct ProgramOptions {
  const char *name;               /* "train", "sample": for messages */
  Arena *arena;                   /* not NULL; outlives the program */
  const Collectives *collectives; /* NULL: one rank, all-reduces do nothing */
  bool without_fusion;            /* for tests: the plain ops */
  bool recompute; /* norms, activations and padding again in the backward pass instead of kept */
} ProgramOptions;

typedef struct Program Program;

/* Reads `graph` (which may be freed afterwards; the buffers its views name must live on). */
Status program_plan(const Graph *graph, Backend *backend, const ProgramOptions *options,
                    Program **out, Error *error);
/* Allocates (or grows) the arena. Buffers must be allocated. Called by the first program_run. */
Status program_bind(Program *program, Error *error);
void program_free(Program *program);

/* Starts every op in order. The host may touch buffers again through buffer_upload, buffer_download
 * and readbacks, which keep the order. On a backend that captures, the second run records the
 * program and from then on a run is one launch; where the collectives cannot be captured, ops are
 * started one by one. */
Status program_run(Program *program, Error *error);

/* Frees what was captured; a later run captures again. Called before what the collectives hold is
 * freed: a captured graph refers to it. */
void program_release_capture(Program *program);

typedef struct ProgramCost {
  double flops;             /* a run: multiply and add count as two */
  double convolution_flops; /* of it, in the three convolution kinds */
  double bytes;             /* read and written by the ops */
  size_t arena_bytes;       /* of values and workspaces */
  size_t workspace_bytes;   /* of the largest workspace */
  int ops;                  /* that run */
  int ops_before_fusion;
} ProgramCost;
ProgramCost program_cost(const Program *program);

/* A table a person can read: ops with shapes, dtypes, FLOPs, bytes, arena offsets; the all-reduce
 * buckets; totals. */
void program_print(const Program *program, Text *out);

/* What a device can do at most in a second; 0: not known. */
typedef struct Ceilings {
  double flops, bytes;
} Ceilings;

/* Time per op on the device, over the runs since profiling was switched on: seconds, share, GF/s,
 * GB/s; grouped by kind below. With `ceilings` (may be NULL) also the floor of each, the longer of
 * the times its FLOPs and its bytes take at best, and how much of the op's time that is. Each
 * profiled run is waited for. */
void program_profile(Program *program, bool on);
void program_print_profile(const Program *program, const Ceilings *ceilings, Text *out);
/* The same as numbers: seconds spent in the three convolution kinds, in everything else, and
 * waiting for collectives, over the profiled runs. The wait is measured always. */
typedef struct ProgramTimes {
  double convolutions, others, waiting;
  int64_t runs;
} ProgramTimes;
ProgramTimes program_times(const Program *program);

/* A planned op as a model of the step sees it. */
typedef struct ProgramOp {
  const char *name; /* the program's */
  double flops, bytes;
  double seconds; /* of one run: the mean of the profiled runs, 0 before */
  double reduced; /* bytes of an all-reduce's target; 0: a kernel */
  bool waits;     /* begins by waiting for the all-reduces started before */
} ProgramOp;
/* In the order of a run, which ends by waiting for what is still under way. */
int program_op_count(const Program *program);
ProgramOp program_op(const Program *program, int index);

#endif
