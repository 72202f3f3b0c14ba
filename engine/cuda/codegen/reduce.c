/* Kernel constructor of OP_REDUCE, in two stages: a generated kernel (generate.h) computes a
 * partial sum for each output and chunk, and reduce.cu adds them. Chunks depend on the shape alone,
 * so results are equal, byte for byte, in every run and on every device. */
#include <stdlib.h>

#include "base/memory.h"
#include "engine/cuda/codegen/generate.h"
#include "engine/cuda/codegen/reduce.h"
#include "engine/cuda/nvrtc/nvrtc.h"
#include "engine/cuda/runtime/cuda.h"

typedef struct ReduceKernel {
  Kernel base;
  cudaStream_t stream;
  GeneratedSource source;
  NvrtcKernel *code;
  unsigned blocks;
  int vectorized; /* chunks begin at multiples of the vector size */
  ReduceFinishLaunch finish;
} ReduceKernel;

/* Enough blocks to fill a large device; the least steps per thread that justify another chunk. */
enum { TARGET_BLOCKS = 1024, MIN_STEPS = 4 };

static int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

/* Threads that share `steps` steps: a power of 2. */
static int group_size(int64_t steps) {
  int group = 1;
  while (group < GENERATED_THREADS && group < steps) group *= 2;
  return group;
}

/* Splits `steps` steps of each of `blocks` blocks into chunks and sets launch->chunks. Returns the
 * length of a chunk in steps. */
static int64_t split(struct ProgramLaunch *launch, int64_t steps, int64_t blocks) {
  const int64_t most = divide_up(steps, MIN_STEPS), wanted = divide_up(TARGET_BLOCKS, blocks);
  const int64_t length = divide_up(steps, most < wanted ? most : wanted);
  launch->chunks = divide_up(steps, length);
  return length;
}

/* --- Launch geometry of each template --------------------------------------------------------- */

static int64_t plan_rows(ReduceKernel *k, const Reduction *r) {
  struct ProgramLaunch *launch = &k->source.launch;
  const int vector = k->source.vector;
  launch->group = group_size(divide_up(r->reduced, vector));
  const int64_t step = (int64_t)launch->group * vector, groups = GENERATED_THREADS / launch->group;
  launch->chunk_length =
      split(launch, divide_up(r->reduced, step), divide_up(r->kept, groups)) * step;
  launch->jobs = r->kept * launch->chunks;
  k->vectorized = r->kept == 1 || r->reduced % vector == 0;
  k->finish.output_stride = launch->chunks;
  k->finish.chunk_stride = 1;
  return divide_up(launch->jobs, groups);
}

static int64_t plan_periodic(ReduceKernel *k, const Reduction *r) {
  struct ProgramLaunch *launch = &k->source.launch;
  const int vector = k->source.vector;
  launch->active = periodic_active_threads(r->lanes, vector);
  const int64_t step = (int64_t)launch->active * vector, row = r->reduced * r->lanes;
  launch->chunk_length = split(launch, divide_up(row, step), r->kept) * step;
  k->vectorized = r->kept == 1 || row % vector == 0;
  k->finish.output_stride = 1;
  k->finish.chunk_stride = r->outputs;
  return r->kept * launch->chunks;
}

static int64_t plan_blocked(ReduceKernel *k, const Reduction *r) {
  struct ProgramLaunch *launch = &k->source.launch;
  const int vector = k->source.vector;
  launch->lane_blocks = divide_up(r->lanes, (int64_t)GENERATED_THREADS * vector);
  launch->chunk_length = split(launch, r->reduced, r->kept * launch->lane_blocks);
  k->vectorized = r->lanes % vector == 0;
  k->finish.output_stride = 1;
  k->finish.chunk_stride = r->outputs;
  return r->kept * launch->chunks * launch->lane_blocks;
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
  launch->chunks = 1;
  launch->jobs = outputs;
  launch->group = group_size(launch->reduced);
  return divide_up(outputs, GENERATED_THREADS / launch->group);
}

static int64_t plan_launch(ReduceKernel *k, KernelTemplate kind, const Reduction *r, const Op *op) {
  struct ProgramLaunch *launch = &k->source.launch;
  launch->scale = op->attributes.reduce.scale;
  launch->reduced = r->reduced;
  launch->lanes = r->lanes;
  launch->sums = r->outputs;
  switch (kind) {
  case TEMPLATE_REDUCE_ROWS:
    return plan_rows(k, r);
  case TEMPLATE_REDUCE_PERIODIC:
    return plan_periodic(k, r);
  case TEMPLATE_REDUCE_BLOCKED:
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
  launch.vectorized = k->vectorized;
  launch.partials = launch.chunks > 1 ? workspace : NULL;
  generated_source_bind(&k->source, &launch, inputs, outputs);
  TRY(nvrtc_launch(k->code, (dim3){k->blocks, 1, 1}, GENERATED_THREADS, 0, &launch, k->stream,
                   error));
  if (launch.chunks > 1) {
    ReduceFinishLaunch finish = k->finish;
    finish.partials = workspace;
    finish.out = outputs[0].data;
    TRY(launch_reduce_finish(&finish, k->stream, error));
  }
done:
  return status;
}

static void kernel_free(Kernel *base) {
  generated_source_free(&((ReduceKernel *)base)->source);
  free(base);
}

static Status plan(ReduceKernel *k, const Op *op, const Tensor *inputs, const Tensor *outputs,
                   Error *error) {
  Status status = OK;
  const Shape full = op->attributes.reduce.full;
  const Reduction r = reduction_of(full, op->attributes.reduce.axes);
  const KernelTemplate kind = reduction_template(op, inputs);
  char have[SHAPE_TEXT_SIZE];
  if (outputs[0].dtype != DTYPE_F32 || shape_count(outputs[0].shape) != r.outputs) {
    FAIL(error, ERROR_INTERNAL, "%s: cuda: reduce: the output is %s %s, expected %lld f32 elements",
         op->name, dtype_name(outputs[0].dtype), shape_text(outputs[0].shape, have),
         (long long)r.outputs);
  }
  TRY(generated_source_new(&k->source, kind, op, &op->attributes.reduce.program, inputs, outputs,
                           full, error));
  const int64_t blocks = plan_launch(k, kind, &r, op);
  if (blocks > INT32_MAX) {
    FAIL(error, ERROR_INTERNAL, "%s: cuda: reduce: %lld blocks, at most %d fit in one launch",
         op->name, (long long)blocks, INT32_MAX);
  }
  k->blocks = (unsigned)blocks;
  k->finish.outputs = r.outputs;
  k->finish.chunks = k->source.launch.chunks;
  k->finish.scale = op->attributes.reduce.scale;
  k->finish.group = group_size(divide_up(k->finish.chunks, MIN_STEPS));
done:
  return status;
}

Status cuda_reduce_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                       Kernel **out, Error *error) {
  Status status = OK;
  ReduceKernel *k = mem_new(1, sizeof *k);
  *out = NULL;
  TRY(plan(k, op, inputs, outputs, error));
  TRY(nvrtc_kernel(cuda_backend(backend)->nvrtc, k->source.name, k->source.text.data, &k->code,
                   error));
  k->stream = cuda_backend(backend)->stream;
  const int64_t partials = k->finish.chunks > 1 ? k->finish.chunks * k->finish.outputs : 0;
  k->base = (Kernel){.workspace = memory_align((size_t)partials * sizeof(double)),
                     .run = run,
                     .free = kernel_free};
  *out = &k->base;
  k = NULL;
done:
  if (k) kernel_free(&k->base);
  return status;
}
