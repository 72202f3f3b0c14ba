/* Sums over axes, in two stages: kernels of source.h leave one partial sum for each output and
 * piece, reduce.cu adds them. Pieces depend on the shape alone, so that equal runs, on any device,
 * leave equal bytes. */
#include <stdlib.h>

#include "base/memory.h"
#include "engine/cuda/codegen/generate.h"
#include "engine/cuda/codegen/reduce.h"
#include "engine/cuda/nvrtc/nvrtc.h"
#include "engine/cuda/runtime/cuda.h"

typedef struct ReduceKernel {
  Kernel base;
  cudaStream_t stream;
  ProgramSource source;
  JitKernel *code;
  unsigned blocks;
  int wide; /* pieces begin at multiples of a thread's elements */
  FinishLaunch finish;
} ReduceKernel;

/* As many blocks as keep a large device busy; steps below which a thread is not worth a piece. */
enum { MOST_BLOCKS = 1024, FEWEST_STEPS = 4 };

static int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

/* The threads for `steps` steps: a power of 2. */
static int group_of(int64_t steps) {
  int group = 1;
  while (group < SOURCE_THREADS && group < steps) group *= 2;
  return group;
}

/* Cuts `steps` steps that each of `others` blocks would take alone; returns the length of a piece
 * in steps. */
static int64_t cut(struct ProgramLaunch *launch, int64_t steps, int64_t others) {
  const int64_t worth = divide_up(steps, FEWEST_STEPS), wanted = divide_up(MOST_BLOCKS, others);
  const int64_t length = divide_up(steps, worth < wanted ? worth : wanted);
  launch->pieces = divide_up(steps, length);
  return length;
}

/* --- Geometry of each form -------------------------------------------------------------------- */

static int64_t plan_rows(ReduceKernel *k, const Reduction *r) {
  struct ProgramLaunch *launch = &k->source.launch;
  const int vector = k->source.vector;
  launch->group = group_of(divide_up(r->reduced, vector));
  const int64_t step = (int64_t)launch->group * vector, groups = SOURCE_THREADS / launch->group;
  launch->piece_length =
      cut(launch, divide_up(r->reduced, step), divide_up(r->kept, groups)) * step;
  launch->jobs = r->kept * launch->pieces;
  k->wide = r->kept == 1 || r->reduced % vector == 0;
  k->finish.output_stride = launch->pieces;
  k->finish.piece_stride = 1;
  return divide_up(launch->jobs, groups);
}

static int64_t plan_periodic(ReduceKernel *k, const Reduction *r) {
  struct ProgramLaunch *launch = &k->source.launch;
  const int vector = k->source.vector;
  launch->active = source_active_threads(r->lanes, vector);
  const int64_t step = (int64_t)launch->active * vector, row = r->reduced * r->lanes;
  launch->piece_length = cut(launch, divide_up(row, step), r->kept) * step;
  k->wide = r->kept == 1 || row % vector == 0;
  k->finish.output_stride = 1;
  k->finish.piece_stride = r->outputs;
  return r->kept * launch->pieces;
}

static int64_t plan_blocked(ReduceKernel *k, const Reduction *r) {
  struct ProgramLaunch *launch = &k->source.launch;
  const int vector = k->source.vector;
  launch->lane_blocks = divide_up(r->lanes, (int64_t)SOURCE_THREADS * vector);
  launch->piece_length = cut(launch, r->reduced, r->kept * launch->lane_blocks);
  k->wide = r->lanes % vector == 0;
  k->finish.output_stride = 1;
  k->finish.piece_stride = r->outputs;
  return r->kept * launch->pieces * launch->lane_blocks;
}

static int64_t plan_scatter(ReduceKernel *k, Shape full, unsigned axes, int64_t outputs) {
  struct ProgramLaunch *launch = &k->source.launch;
  int64_t stride = 1;
  launch->reduced = 1;
  for (int axis = RANK - 1; axis >= 0; axis--) {
    const bool reduce = axes >> axis & 1u;
    const int64_t length = full.dim[axis];
    const struct LaunchAxis one = {1, 0}, whole = {length, stride};
    launch->kept_axes[axis] = reduce ? one : whole;
    launch->reduced_axes[axis] = reduce ? whole : one;
    if (reduce) launch->reduced *= length;
    stride *= length;
  }
  launch->pieces = 1;
  launch->jobs = outputs;
  launch->group = group_of(launch->reduced);
  return divide_up(outputs, SOURCE_THREADS / launch->group);
}

static int64_t plan_form(ReduceKernel *k, SourceForm form, const Reduction *r, const Op *op) {
  struct ProgramLaunch *launch = &k->source.launch;
  launch->scale = op->attributes.reduce.scale;
  launch->reduced = r->reduced;
  launch->lanes = r->lanes;
  launch->sums = r->outputs;
  switch (form) {
  case SOURCE_ROWS:
    return plan_rows(k, r);
  case SOURCE_PERIODIC:
    return plan_periodic(k, r);
  case SOURCE_BLOCKED:
    return plan_blocked(k, r);
  default:
    return plan_scatter(k, op->attributes.reduce.full, op->attributes.reduce.axes, r->outputs);
  }
}

/* --- The kernel ------------------------------------------------------------------------------- */

static Status run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                  Error *error) {
  Status status = OK;
  const ReduceKernel *k = (const ReduceKernel *)base;
  struct ProgramLaunch launch = k->source.launch;
  launch.wide = k->wide;
  launch.partials = launch.pieces > 1 ? workspace : NULL;
  source_bind(&k->source, &launch, inputs, outputs);
  TRY(jit_launch(k->code, (dim3){k->blocks, 1, 1}, SOURCE_THREADS, 0, &launch, k->stream, error));
  if (launch.pieces > 1) {
    FinishLaunch finish = k->finish;
    finish.partials = workspace;
    finish.out = outputs[0].data;
    TRY(launch_reduce_finish(&finish, k->stream, error));
  }
done:
  return status;
}

static void kernel_free(Kernel *base) {
  source_free(&((ReduceKernel *)base)->source);
  free(base);
}

static Status plan(ReduceKernel *k, const Op *op, const Tensor *inputs, const Tensor *outputs,
                   Error *error) {
  Status status = OK;
  const Shape full = op->attributes.reduce.full;
  const Reduction r = reduction_of(full, op->attributes.reduce.axes);
  const SourceForm form = source_reduction_form(op, inputs);
  char have[SHAPE_TEXT_SIZE];
  if (outputs[0].dtype != DTYPE_F32 || shape_count(outputs[0].shape) != r.outputs) {
    FAIL(error, ERROR_INTERNAL, "%s: cuda: reduce: the output is %s %s, expected %lld f32 elements",
         op->name, dtype_name(outputs[0].dtype), shape_text(outputs[0].shape, have),
         (long long)r.outputs);
  }
  TRY(source_new(&k->source, form, op, &op->attributes.reduce.program, inputs, outputs, full,
                 error));
  const int64_t blocks = plan_form(k, form, &r, op);
  if (blocks > INT32_MAX) {
    FAIL(error, ERROR_INTERNAL, "%s: cuda: reduce: %lld blocks are more than one launch can hold",
         op->name, (long long)blocks);
  }
  k->blocks = (unsigned)blocks;
  k->finish.outputs = r.outputs;
  k->finish.pieces = k->source.launch.pieces;
  k->finish.scale = op->attributes.reduce.scale;
  k->finish.group = group_of(divide_up(k->finish.pieces, FEWEST_STEPS));
done:
  return status;
}

Status cuda_reduce_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                       Kernel **out, Error *error) {
  Status status = OK;
  ReduceKernel *k = mem_new(1, sizeof *k);
  *out = NULL;
  TRY(plan(k, op, inputs, outputs, error));
  TRY(jit_kernel(cuda_backend(backend)->jit, k->source.name, k->source.text.data, &k->code, error));
  k->stream = cuda_backend(backend)->stream;
  const int64_t partials = k->finish.pieces > 1 ? k->finish.pieces * k->finish.outputs : 0;
  k->base = (Kernel){.workspace = memory_align((size_t)partials * sizeof(double)),
                     .run = run,
                     .free = kernel_free};
  *out = &k->base;
  k = NULL;
done:
  if (k) kernel_free(&k->base);
  return status;
}
