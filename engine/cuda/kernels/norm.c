/* Kernel constructors of OP_NORM and OP_NORM_BACKWARD, for the launchers in rms_norm.cu,
 * rms_norm_wide.cu and instance_norm.cu. */
#include "engine/cuda/kernels/norm.h"

#include <stdlib.h>

#include "base/memory.h"
#include "engine/cuda/runtime/cuda.h"

typedef struct NormKernel {
  Kernel base;
  cudaStream_t stream;
  NormArguments arguments;
  NormLaunch launch; /* without addresses */
} NormKernel;

static void norm_free(Kernel *kernel) {
  free(kernel);
}

static bool is_aligned(const void *pointer) {
  return ((uintptr_t)pointer & 15u) == 0;
}

static bool can_vectorize(const NormLaunch *p) {
  return p->channels % (p->bf16 ? 8 : 4) == 0 && is_aligned(p->x) && is_aligned(p->residual) &&
         is_aligned(p->y) && is_aligned(p->dy) && is_aligned(p->dx);
}

/* --- Running ---------------------------------------------------------------------------------- */

static size_t partials_floats(const NormLaunch *p, NormKind kind) {
  const int64_t rows = kind == NORM_RMS ? p->chunks : p->frames * p->chunks;
  return memory_align((size_t)(rows * 2 * p->channels) * sizeof(float)) / sizeof(float);
}

static size_t statistics_floats(const NormLaunch *p, NormKind kind) {
  const int64_t count = kind == NORM_RMS ? p->frames * p->pixels : p->frames * 2 * p->channels;
  return memory_align((size_t)count * sizeof(float)) / sizeof(float);
}

/* The launch with workspace, and with gain and bias, which are inputs `at` and `at` + 1. */
static NormLaunch bind(const NormKernel *kernel, const Tensor *inputs, int at, void *workspace) {
  NormLaunch launch = kernel->launch;
  launch.gain = kernel->arguments.parameters ? inputs[at].data : NULL;
  launch.bias = kernel->arguments.parameters ? inputs[at + 1].data : NULL;
  launch.partials = workspace;
  launch.statistics = launch.partials + partials_floats(&launch, kernel->arguments.kind);
  launch.means = launch.statistics + statistics_floats(&launch, kernel->arguments.kind);
  return launch;
}

static Status launch_norm(const NormKernel *kernel, NormLaunch *launch, Error *error) {
  launch->vectorized = can_vectorize(launch);
  return kernel->arguments.kind == NORM_RMS ? launch_rms_norm(launch, kernel->stream, error)
                                            : launch_instance_norm(launch, kernel->stream, error);
}

static Status forward_run(Kernel *base, const Tensor *inputs, const Tensor *outputs,
                          void *workspace, Error *error) {
  const NormKernel *kernel = (const NormKernel *)(void *)base;
  NormLaunch launch = bind(kernel, inputs, 1, workspace);
  launch.x = inputs[0].data;
  launch.y = outputs[0].data;
  if (kernel->arguments.residual) launch.residual = inputs[3].data;
  if (kernel->arguments.kind == NORM_RMS) launch.partials = NULL;
  return launch_norm(kernel, &launch, error);
}

static Status backward_run(Kernel *base, const Tensor *inputs, const Tensor *outputs,
                           void *workspace, Error *error) {
  const NormKernel *kernel = (const NormKernel *)(void *)base;
  NormLaunch launch = bind(kernel, inputs, 2, workspace);
  launch.dy = inputs[0].data;
  launch.x = inputs[1].data;
  launch.dx = outputs[0].data;
  if (kernel->arguments.dgain) launch.dgain = outputs[1].data;
  if (kernel->arguments.dbias) launch.dbias = outputs[2].data;
  if (kernel->arguments.kind == NORM_RMS && !launch.dgain && !launch.dbias) launch.partials = NULL;
  return launch_norm(kernel, &launch, error);
}

/* --- Constructors ----------------------------------------------------------------------------- */

/* Chooses the number of chunks: enough blocks to fill the device, with enough pixels each. */
static void choose_chunks(NormLaunch *p, NormKind kind, int multiprocessors) {
  enum { MIN_PIXELS = 64, MANY_PIXELS = 512, BLOCKS_PER_SM = 12 };
  const int64_t pixels = kind == NORM_RMS ? p->frames * p->pixels : p->pixels;
  const int64_t useful = (pixels + MIN_PIXELS - 1) / MIN_PIXELS;
  int64_t most = NORM_MAX_CHUNKS / p->frames;
  p->blocks = BLOCKS_PER_SM * multiprocessors;
  if (kind == NORM_RMS) most = pixels / p->blocks >= MANY_PIXELS ? p->blocks : p->blocks / 2;
  if (most < 1) most = 1;
  if (useful < most) most = useful;
  p->chunk_length = (pixels + most - 1) / most;
  p->chunks = (pixels + p->chunk_length - 1) / p->chunk_length;
}

static Status norm_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                       NormKernel **out, Error *error) {
  Status status = OK;
  NormArguments arguments;
  TRY(norm_arguments(op, inputs, outputs, backend->name, &arguments, error));
  NormKernel *kernel = mem_new(1, sizeof *kernel);
  kernel->stream = cuda_backend(backend)->stream;
  kernel->arguments = arguments;
  kernel->launch = (NormLaunch){
      .bf16 = arguments.dtype == DTYPE_BF16,
      .frames = arguments.frames,
      .pixels = arguments.pixels,
      .height = (int)arguments.height,
      .width = (int)arguments.width,
      .padded = arguments.padded,
      .outer = arguments.outer,
      .residual_outer = arguments.residual_outer,
      .channels = arguments.channels,
      .groups = arguments.groups,
      .epsilon = arguments.epsilon,
      .slope = arguments.slope,
  };
  choose_chunks(&kernel->launch, arguments.kind, cuda_backend(backend)->info.multiProcessorCount);
  kernel->base.free = norm_free;
  *out = kernel;
done:
  return status;
}

Status cuda_norm_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                     Kernel **out, Error *error) {
  Status status = OK;
  NormKernel *kernel = NULL;
  *out = NULL;
  TRY(norm_new(backend, op, inputs, outputs, &kernel, error));
  const NormLaunch *launch = &kernel->launch;
  const NormKind kind = kernel->arguments.kind;
  kernel->base.run = forward_run;
  if (kind != NORM_RMS)
    kernel->base.workspace =
        sizeof(float) * (partials_floats(launch, kind) + statistics_floats(launch, kind));
  *out = &kernel->base;
done:
  return status;
}

Status cuda_norm_backward_new(Backend *backend, const Op *op, const Tensor *inputs,
                              const Tensor *outputs, Kernel **out, Error *error) {
  Status status = OK;
  NormKernel *kernel = NULL;
  *out = NULL;
  TRY(norm_new(backend, op, inputs, outputs, &kernel, error));
  const NormLaunch *launch = &kernel->launch;
  const NormKind kind = kernel->arguments.kind;
  kernel->base.run = backward_run;
  kernel->base.workspace = sizeof(float) * (partials_floats(launch, kind) +
                                            statistics_floats(launch, kind) *
                                                (kind == NORM_RMS ? 1 : 2)); /* 2: and means */
  *out = &kernel->base;
done:
  return status;
}
