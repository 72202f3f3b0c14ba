/* A graph planned for a backend, run many times.
 *
 * Planning removes dead ops (no buffer depends on them), fuses ops, schedules the all-reduces,
 * assigns each value an offset in one arena by its lifetime, and gets a kernel for each op from the
 * backend. It allocates no device memory for values, so a plan can be printed on any machine. */
#ifndef CELFORGE_ENGINE_PROGRAM_PROGRAM_H
#define CELFORGE_ENGINE_PROGRAM_PROGRAM_H

#include "base/text.h"
#include "engine/backend/backend.h"

/* The collective operations that the engine calls, provided by the owner of the communicator. */
typedef struct Collectives {
  void *context;
  /* True if a backend may capture the two calls below together with its kernels. */
  bool capturable;
  /* Starts an all-reduce (mean) of `count` elements of f32 or bf16 and returns at once. `stream` is
   * the backend's. The order of calls is the same on every rank. */
  Status (*all_reduce_start)(void *context, void *data, int64_t count, DType dtype, void *stream,
                             Error *error);
  /* Returns when all started ones have ended; on a device, makes the stream wait for that instead.
   */
  Status (*all_reduce_wait)(void *context, void *stream, Error *error);
} Collectives;

/* Memory for values, shared by programs that never run at the same time. Free it before the
 * backend. */
typedef struct Arena Arena;
Arena *arena_new(void);
void arena_free(Arena *arena);
size_t arena_bytes(const Arena *arena); /* largest need of the programs planned so far */

typedef struct ProgramOptions {
  const char *name;               /* in messages: "train", "sample" */
  Arena *arena;                   /* not NULL; outlives the program */
  const Collectives *collectives; /* NULL: one rank, all-reduces do nothing */
  bool without_fusion;            /* run the graph's ops unchanged; for tests */
  bool rematerialize; /* recompute norms, activations and padding in the backward pass */
} ProgramOptions;

typedef struct Program Program;

/* Plans `graph`, which may be freed afterwards; the buffers of its views must outlive the program.
 */
Status program_plan(const Graph *graph, Backend *backend, const ProgramOptions *options,
                    Program **out, Error *error);
/* Allocates or grows the arena and sets all addresses. Buffers must be allocated. program_run calls
 * it when needed. */
Status program_bind(Program *program, Error *error);
void program_free(Program *program);

/* Starts all ops in order. The host may access buffers afterwards through buffer_upload,
 * buffer_download and readbacks, which keep the order. A backend that can capture records the
 * program in the second run; each later run is then a single launch. If the collectives cannot be
 * captured, ops are always started one by one. */
Status program_run(Program *program, Error *error);

/* Frees the captured program; a later run captures it again. Call it before freeing resources of
 * the collectives, which a capture refers to. */
void program_release_capture(Program *program);

typedef struct ProgramCost {
  double flops;             /* of a run; a multiply-add counts as two */
  double convolution_flops; /* the part of the three convolution kinds */
  double bytes;             /* read and written by the ops */
  size_t arena_bytes;       /* values and workspaces */
  size_t workspace_bytes;   /* largest workspace */
  int ops;                  /* ops that run a kernel or a collective */
  int ops_before_fusion;
} ProgramCost;
ProgramCost program_cost(const Program *program);

/* Appends a readable table: ops with shapes, dtypes, FLOPs, bytes, arena offsets; all-reduce
 * buckets; totals. */
void program_print(const Program *program, Text *out);

/* Peak throughput of a device per second; 0: unknown. */
typedef struct DevicePeaks {
  double flops, bytes;
} DevicePeaks;

/* program_profile switches profiling on or off; profiled runs are waited for. program_print_profile
 * appends the device time of each op over the profiled runs (ms, share, GF/s, GB/s), then the same
 * by kind. With `peaks` (may be NULL) also the roofline bound of each op, the larger of FLOPs /
 * peak FLOP/s and bytes / peak bandwidth, and the fraction of the op's time that it is. */
void program_profile(Program *program, bool on);
void program_print_profile(const Program *program, const DevicePeaks *peaks, Text *out);
/* The same as numbers: seconds in the three convolution kinds, in all other ops, and waiting for
 * collectives, over the profiled runs. Waiting is measured without profiling, too. */
typedef struct ProgramTimes {
  double convolutions, others, waiting;
  int64_t runs;
} ProgramTimes;
ProgramTimes program_times(const Program *program);

/* A planned op, as input of a performance model of the step. */
typedef struct ProgramOp {
  const char *name; /* owned by the program */
  double flops, bytes;
  double seconds;          /* mean over the profiled runs; 0 without any */
  double all_reduce_bytes; /* bytes of the target of an all-reduce; 0: a kernel */
  bool waits;              /* waits for all all-reduces started before */
} ProgramOp;
/* Ops in the order of a run. A run ends by waiting for all-reduces that are still running. */
int program_op_count(const Program *program);
ProgramOp program_op(const Program *program, int index);

#endif
