/* OP_NORM and OP_NORM_BACKWARD: from tensors to the launches of norm_pixels.cu, norm_wide.cu and
 * norm_frames.cu. */
#include "engine/cuda/kernels/norm.h"

#include <stdlib.h>

#include "base/memory.h"
#include "engine/cuda/runtime/cuda.h"

typedef struct NormKernel {
  Kernel base;
  cudaStream_t stream;
  NormTask task;
  NormLaunch launch; /* but for addresses */
} NormKernel;

static void norm_free(Kernel *kernel) {
  free(kernel);
}

static bool aligned(const void *pointer) {
  return ((uintptr_t)pointer & 15u) == 0;
}

bool norm_in_vectors(const NormLaunch *p) {
  return p->channels % (p->bf16 ? 8 : 4) == 0 && aligned(p->x) && aligned(p->residual) &&
         aligned(p->y) && aligned(p->dy) && aligned(p->dx);
}

/* --- Running ---------------------------------------------------------------------------------- */

static size_t partials_floats(const NormLaunch *p, NormKind kind) {
  const int64_t rows = kind == NORM_RMS ? p->pieces : p->frames * p->pieces;
  return memory_align((size_t)(rows * 2 * p->channels) * sizeof(float)) / sizeof(float);
}

static size_t statistics_floats(const NormLaunch *p, NormKind kind) {
  const int64_t count = kind == NORM_RMS ? p->frames * p->pixels : p->frames * 2 * p->channels;
  return memory_align((size_t)count * sizeof(float)) / sizeof(float);
}

/* The launch with its workspace and the parameters, which lie at `at` in the inputs. */
static NormLaunch bind(const NormKernel *kernel, const Tensor *inputs, int at, void *workspace) {
  NormLaunch launch = kernel->launch;
  launch.gain = kernel->task.parameters ? inputs[at].data : NULL;
  launch.bias = kernel->task.parameters ? inputs[at + 1].data : NULL;
  launch.partials = workspace;
  launch.statistics = launch.partials + partials_floats(&launch, kernel->task.kind);
  launch.means = launch.statistics + statistics_floats(&launch, kernel->task.kind);
  return launch;
}

static Status launch_norm(const NormKernel *kernel, const NormLaunch *launch, Error *error) {
  return kernel->task.kind == NORM_RMS ? launch_norm_pixels(launch, kernel->stream, error)
                                       : launch_norm_frames(launch, kernel->stream, error);
}

static Status forward_run(Kernel *base, const Tensor *inputs, const Tensor *outputs,
                          void *workspace, Error *error) {
  const NormKernel *kernel = (NormKernel *)(void *)base;
  NormLaunch launch = bind(kernel, inputs, 1, workspace);
  launch.x = inputs[0].data;
  launch.y = outputs[0].data;
  if (kernel->task.residual) launch.residual = inputs[3].data;
  if (kernel->task.kind == NORM_RMS) launch.partials = NULL;
  return launch_norm(kernel, &launch, error);
}

static Status backward_run(Kernel *base, const Tensor *inputs, const Tensor *outputs,
                           void *workspace, Error *error) {
  const NormKernel *kernel = (NormKernel *)(void *)base;
  NormLaunch launch = bind(kernel, inputs, 2, workspace);
  launch.dy = inputs[0].data;
  launch.x = inputs[1].data;
  launch.dx = outputs[0].data;
  if (kernel->task.dgain) launch.dgain = outputs[1].data;
  if (kernel->task.dbias) launch.dbias = outputs[2].data;
  if (kernel->task.kind == NORM_RMS && !launch.dgain && !launch.dbias) launch.partials = NULL;
  return launch_norm(kernel, &launch, error);
}

/* --- Constructors ----------------------------------------------------------------------------- */

/* Enough pieces to fill a device, of pixels enough to be worth a block. */
static void cut(NormLaunch *p, NormKind kind, int multiprocessors) {
  enum { LEAST_PIXELS = 64, MANY_PIXELS = 512, ROUND = 12 };
  const int64_t pixels = kind == NORM_RMS ? p->frames * p->pixels : p->pixels;
  const int64_t useful = (pixels + LEAST_PIXELS - 1) / LEAST_PIXELS;
  int64_t most = NORM_MOST_PIECES / p->frames;
  p->blocks = ROUND * multiprocessors;
  if (kind == NORM_RMS) most = pixels / p->blocks >= MANY_PIXELS ? p->blocks : p->blocks / 2;
  if (most < 1) most = 1;
  if (useful < most) most = useful;
  p->piece_length = (pixels + most - 1) / most;
  p->pieces = (pixels + p->piece_length - 1) / p->piece_length;
}

static Status norm_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                       NormKernel **out, Error *error) {
  Status status = OK;
  NormTask task;
  TRY(norm_task(op, inputs, outputs, backend->name, &task, error));
  NormKernel *kernel = mem_new(1, sizeof *kernel);
  kernel->stream = cuda_backend(backend)->stream;
  kernel->task = task;
  kernel->launch = (NormLaunch){
      .bf16 = task.dtype == DTYPE_BF16,
      .frames = task.frames,
      .pixels = task.pixels,
      .height = (int)task.height,
      .width = (int)task.width,
      .padded = task.padded,
      .outer = task.outer,
      .residual_outer = task.residual_outer,
      .channels = task.channels,
      .groups = task.groups,
      .epsilon = task.epsilon,
      .slope = task.slope,
  };
  cut(&kernel->launch, task.kind, cuda_backend(backend)->info.multiProcessorCount);
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
  const NormKind kind = kernel->task.kind;
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
  const NormKind kind = kernel->task.kind;
  kernel->base.run = backward_run;
  kernel->base.workspace = sizeof(float) * (partials_floats(launch, kind) +
                                            statistics_floats(launch, kind) *
                                                (kind == NORM_RMS ? 1 : 2)); /* and means */
  *out = &kernel->base;
done:
  return status;
}
