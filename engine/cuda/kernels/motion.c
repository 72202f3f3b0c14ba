/* Kernel constructors of OP_WARP and OP_TRANSLATE, for the launchers in motion.cu. */
#include "engine/cuda/kernels/motion.h"

#include <stdlib.h>

#include "base/memory.h"
#include "engine/backend/op_arguments.h"
#include "engine/cuda/runtime/cuda.h"

typedef Status MotionLauncher(const MotionLaunch *p, cudaStream_t stream, Error *error);

typedef struct MotionKernel {
  Kernel base;
  cudaStream_t stream;
  MotionLauncher *launcher;
  MotionLaunch launch;
} MotionKernel;

static Status motion_run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                         Error *error) {
  (void)workspace;
  const MotionKernel *kernel = (const MotionKernel *)(void *)base;
  MotionLaunch launch = kernel->launch;
  launch.x = inputs[0].data;
  launch.by = inputs[1].data;
  launch.y = outputs[0].data;
  return kernel->launcher(&launch, kernel->stream, error);
}

static void motion_free(Kernel *kernel) {
  free(kernel);
}

static Status motion_new(Backend *backend, const Op *op, const Tensor *inputs,
                         const Tensor *outputs, MotionLauncher *launcher, Kernel **out,
                         Error *error) {
  MotionArguments motion;
  *out = NULL;
  const Status status = motion_arguments(op, inputs, outputs, backend->name, &motion, error);
  if (status != OK) return status;
  MotionKernel *kernel = mem_new(1, sizeof *kernel);
  kernel->base = (Kernel){.run = motion_run, .free = motion_free};
  kernel->stream = cuda_backend(backend)->stream;
  kernel->launcher = launcher;
  kernel->launch = (MotionLaunch){.bf16 = motion.dtype == DTYPE_BF16,
                                  .negated = motion.negated,
                                  .samples = motion.samples,
                                  .times = motion.times,
                                  .height = motion.height,
                                  .width = motion.width,
                                  .channels = motion.channels,
                                  .flow_times = motion.flow_times};
  *out = &kernel->base;
  return OK;
}

Status cuda_warp_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                     Kernel **out, Error *error) {
  return motion_new(backend, op, inputs, outputs, launch_warp, out, error);
}

Status cuda_translate_new(Backend *backend, const Op *op, const Tensor *inputs,
                          const Tensor *outputs, Kernel **out, Error *error) {
  return motion_new(backend, op, inputs, outputs, launch_translate, out, error);
}
