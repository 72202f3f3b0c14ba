/* OP_NORM and OP_NORM_BACKWARD: from tensors to the launches of norm_pixels.cu and norm_frames.cu.
 */
#include "engine/cuda/norm.h"

#include <stdlib.h>

#include "base/memory.h"
#include "engine/cuda/cuda.h"

typedef struct NormKernel {
  Kernel base;
  cudaStream_t stream;
  NormKind kind;
  bool parameters, residual, dgain, dbias;
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
  return cuda_align((size_t)(rows * 2 * p->channels) * sizeof(float)) / sizeof(float);
}

static size_t statistics_floats(const NormLaunch *p, NormKind kind) {
  const int64_t count = kind == NORM_RMS ? p->frames * p->pixels : p->frames * 2 * p->channels;
  return cuda_align((size_t)count * sizeof(float)) / sizeof(float);
}

/* The launch with its workspace and the parameters, which lie at `at` in the inputs. */
static NormLaunch bind(const NormKernel *kernel, const Tensor *inputs, int at, void *workspace) {
  NormLaunch launch = kernel->launch;
  launch.gain = kernel->parameters ? inputs[at].data : NULL;
  launch.bias = kernel->parameters ? inputs[at + 1].data : NULL;
  launch.partials = workspace;
  launch.statistics = launch.partials + partials_floats(&launch, kernel->kind);
  launch.means = launch.statistics + statistics_floats(&launch, kernel->kind);
  return launch;
}

static Status launch_norm(const NormKernel *kernel, const NormLaunch *launch, Error *error) {
  return kernel->kind == NORM_RMS ? launch_norm_pixels(launch, kernel->stream, error)
                                  : launch_norm_frames(launch, kernel->stream, error);
}

static Status forward_run(Kernel *base, const Tensor *inputs, const Tensor *outputs,
                          void *workspace, Error *error) {
  const NormKernel *kernel = (NormKernel *)(void *)base;
  NormLaunch launch = bind(kernel, inputs, 1, workspace);
  launch.x = inputs[0].data;
  launch.y = outputs[0].data;
  if (kernel->residual) launch.residual = inputs[3].data;
  if (kernel->kind == NORM_RMS) launch.partials = NULL;
  return launch_norm(kernel, &launch, error);
}

static Status backward_run(Kernel *base, const Tensor *inputs, const Tensor *outputs,
                           void *workspace, Error *error) {
  const NormKernel *kernel = (NormKernel *)(void *)base;
  NormLaunch launch = bind(kernel, inputs, 2, workspace);
  launch.dy = inputs[0].data;
  launch.x = inputs[1].data;
  launch.dx = outputs[0].data;
  if (kernel->dgain) launch.dgain = outputs[1].data;
  if (kernel->dbias) launch.dbias = outputs[2].data;
  if (kernel->kind == NORM_RMS && !launch.dgain && !launch.dbias) launch.partials = NULL;
  return launch_norm(kernel, &launch, error);
}

/* --- Constructors ----------------------------------------------------------------------------- */

static Status check(const Op *op, const Tensor *x, const Tensor *y, const Tensor *other,
                    Error *error) {
  Status status = OK;
  const NormAttributes *norm = &op->attributes.norm;
  const int64_t channels = x->shape.dim[AXIS_C];
  if (x->dtype == DTYPE_U8 || y->dtype != x->dtype || other->dtype != x->dtype)
    FAIL(error, ERROR_INTERNAL, "%s: cuda: %s: tensors are %s, %s, %s; all must be f32 or all bf16",
         op->name, op_kind_name(op->kind), dtype_name(x->dtype), dtype_name(y->dtype),
         dtype_name(other->dtype));
  if (norm->activation == ACTIVATION_TANH)
    FAIL(error, ERROR_INTERNAL, "%s: cuda: %s: activation is tanh; allowed are none and leaky ReLU",
         op->name, op_kind_name(op->kind));
  if (norm->kind == NORM_GROUP && (norm->groups < 1 || channels % norm->groups != 0))
    FAIL(error, ERROR_INTERNAL, "%s: cuda: %s: %d groups do not divide %lld channels", op->name,
         op_kind_name(op->kind), norm->groups, (long long)channels);
done:
  return status;
}

/* Enough pieces to fill a device, of pixels enough to be worth a block. */
static int64_t pieces_of(const NormLaunch *p, NormKind kind) {
  enum { LEAST_PIXELS = 64 };
  const int64_t pixels = kind == NORM_RMS ? p->frames * p->pixels : p->pixels;
  const int64_t useful = (pixels + LEAST_PIXELS - 1) / LEAST_PIXELS;
  int64_t most = kind == NORM_RMS ? NORM_MOST_PIECES : NORM_MOST_PIECES / p->frames;
  if (most < 1) most = 1;
  return useful < most ? useful : most;
}

static NormKernel *make(Backend *backend, const Op *op, const Tensor *x, bool parameters) {
  const NormAttributes *attributes = &op->attributes.norm;
  const int64_t *dim = x->shape.dim;
  NormKernel *kernel = mem_new(1, sizeof *kernel);
  NormLaunch *launch = &kernel->launch;
  kernel->stream = cuda_backend(backend)->stream;
  kernel->kind = attributes->kind;
  kernel->parameters = parameters;
  *launch = (NormLaunch){
      .bf16 = x->dtype == DTYPE_BF16,
      .frames = dim[AXIS_N] * dim[AXIS_T],
      .pixels = dim[AXIS_H] * dim[AXIS_W],
      .channels = dim[AXIS_C],
      .groups = attributes->kind == NORM_GROUP ? attributes->groups : dim[AXIS_C],
      .epsilon = attributes->epsilon,
      .slope = attributes->activation == ACTIVATION_LEAKY_RELU ? attributes->slope : 1.0f,
  };
  launch->pieces = pieces_of(launch, kernel->kind);
  kernel->base.free = norm_free;
  return kernel;
}

Status cuda_norm_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                     Kernel **out, Error *error) {
  Status status = OK;
  *out = NULL;
  const bool residual = cuda_has_input(op, inputs, 3);
  TRY(check(op, &inputs[0], &outputs[0], residual ? &inputs[3] : &inputs[0], error));
  NormKernel *kernel = make(backend, op, &inputs[0], cuda_has_input(op, inputs, 1));
  const NormLaunch *launch = &kernel->launch;
  kernel->residual = residual;
  kernel->base.run = forward_run;
  if (kernel->kind != NORM_RMS)
    kernel->base.workspace = sizeof(float) * (partials_floats(launch, kernel->kind) +
                                              statistics_floats(launch, kernel->kind));
  *out = &kernel->base;
done:
  return status;
}

Status cuda_norm_backward_new(Backend *backend, const Op *op, const Tensor *inputs,
                              const Tensor *outputs, Kernel **out, Error *error) {
  Status status = OK;
  *out = NULL;
  TRY(check(op, &inputs[1], &outputs[0], &inputs[0], error));
  NormKernel *kernel = make(backend, op, &inputs[1], cuda_has_input(op, inputs, 2));
  const NormLaunch *launch = &kernel->launch;
  kernel->dgain = cuda_has_output(op, outputs, 1);
  kernel->dbias = cuda_has_output(op, outputs, 2);
  kernel->base.run = backward_run;
  kernel->base.workspace = sizeof(float) * (partials_floats(launch, kernel->kind) +
                                            statistics_floats(launch, kernel->kind) *
                                                (kernel->kind == NORM_RMS ? 1 : 2)); /* and means */
  *out = &kernel->base;
done:
  return status;
}
