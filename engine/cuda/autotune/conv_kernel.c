#include "engine/cuda/autotune/conv_kernel.h"

#include <stdlib.h>

#include "base/memory.h"
#include "engine/cuda/autotune/autotune.h"
#include "engine/cuda/convolution/conv_run.h"

typedef struct ConvolutionKernel {
  Kernel base;
  ConvRun sequence;
  cudnnHandle_t handle;
  cudaStream_t stream;
  char *name; /* of the op */
} ConvolutionKernel;

static Status run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                  Error *error) {
  const ConvolutionKernel *kernel = (const ConvolutionKernel *)(void *)base;
  const ConvPointers tensors = conv_pointers(&kernel->sequence.convolution, inputs, outputs);
  if (conv_run_enqueue(&kernel->sequence, kernel->handle, kernel->stream, &tensors, workspace,
                       error) == OK)
    return OK;
  Text text = {0};
  char variant[64];
  convolution_text(&kernel->sequence.convolution, &text);
  const Status status = error_context(error, "%s: %s: %s, %s", kernel->name, text.data,
                                      conv_variant_name(&kernel->sequence.variant, variant),
                                      kernel->sequence.plan->details);
  text_free(&text);
  return status;
}

static void free_kernel(Kernel *base) {
  ConvolutionKernel *kernel = (ConvolutionKernel *)(void *)base;
  if (!kernel) return;
  free(kernel->name);
  free(kernel);
}

Status conv_kernel_new(Backend *backend, const Op *op, ConvolutionPass pass,
                       const ConvVariant *only, const Tensor *inputs, const Tensor *outputs,
                       Kernel **out, Error *error) {
  Status status = OK;
  CudaBackend *cuda = cuda_backend(backend);
  Convolution convolution;
  ConvChoice choice;
  *out = NULL;
  TRY(convolution_from_op(pass, op, inputs, outputs, &convolution, error));
  if (autotuner_choose(cuda->autotuner, &convolution, only, &choice, error) != OK) {
    status = error_context(error, "%s", op->name);
    goto done;
  }
  ConvolutionKernel *kernel = mem_new(1, sizeof *kernel);
  kernel->sequence = conv_run_layout(&convolution, &choice.variant, choice.plan);
  kernel->base = (Kernel){.workspace = kernel->sequence.workspace, .run = run, .free = free_kernel};
  kernel->handle = autotuner_handle(cuda->autotuner);
  kernel->stream = cuda->stream;
  kernel->name = mem_string(op->name ? op->name : op_kind_name(op->kind));
  *out = &kernel->base;
done:
  return status;
}

Status cuda_conv3d_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                       Kernel **out, Error *error) {
  return conv_kernel_new(backend, op, CONVOLUTION_FORWARD, NULL, inputs, outputs, out, error);
}

Status cuda_conv3d_backward_data_new(Backend *backend, const Op *op, const Tensor *inputs,
                                     const Tensor *outputs, Kernel **out, Error *error) {
  return conv_kernel_new(backend, op, CONVOLUTION_BACKWARD_DATA, NULL, inputs, outputs, out, error);
}

Status cuda_conv3d_backward_weights_new(Backend *backend, const Op *op, const Tensor *inputs,
                                        const Tensor *outputs, Kernel **out, Error *error) {
  return conv_kernel_new(backend, op, CONVOLUTION_BACKWARD_WEIGHTS, NULL, inputs, outputs, out,
                         error);
}

void cuda_prepare(Backend *backend, const KernelRequest *requests, int count) {
  Convolution *convolutions = mem_new((size_t)count, sizeof *convolutions);
  Error error = {0};
  int found = 0;
  for (int i = 0; i < count; i++) {
    const KernelRequest *request = &requests[i];
    if (request->op->kind < OP_CONV3D || request->op->kind > OP_CONV3D_BACKWARD_WEIGHTS) continue;
    const ConvolutionPass pass = (ConvolutionPass)(request->op->kind - OP_CONV3D);
    if (convolution_from_op(pass, request->op, request->inputs, request->outputs,
                            &convolutions[found], &error) == OK)
      found++;
  }
  /* Largest first: autotuning may end early, and a long build that starts last delays the end. */
  convolutions_sort_by_flops(convolutions, found);
  autotuner_prepare(cuda_backend(backend)->autotuner, convolutions, found);
  free(convolutions);
}
