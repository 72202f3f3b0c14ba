/* The three kernels of the convolution. */
#include "engine/cuda/convolution/convolution.h"

#include <stdlib.h>

#include "base/memory.h"

typedef struct ConvolutionKernel {
  Kernel base;
  ConvolutionSteps steps;
  cudnnHandle_t handle;
  cudaStream_t stream;
  char *name; /* of the op */
} ConvolutionKernel;

static Status convolution_run(Kernel *base, const Tensor *inputs, const Tensor *outputs,
                              void *workspace, Error *error) {
  const ConvolutionKernel *kernel = (const ConvolutionKernel *)(void *)base;
  const ConvolutionTensors tensors =
      convolution_tensors(&kernel->steps.convolution, inputs, outputs);
  if (convolution_steps_run(&kernel->steps, kernel->handle, kernel->stream, &tensors, workspace,
                            error) == OK)
    return OK;
  Text text = {0};
  char form[64];
  convolution_text(&kernel->steps.convolution, &text);
  const Status status =
      error_context(error, "%s: %s: %s, %s", kernel->name, text.data,
                    convolution_form_name(&kernel->steps.form, form), kernel->steps.plan->details);
  text_free(&text);
  return status;
}

static void convolution_free(Kernel *base) {
  ConvolutionKernel *kernel = (ConvolutionKernel *)(void *)base;
  if (!kernel) return;
  free(kernel->name);
  free(kernel);
}

Status convolution_new(Backend *backend, const Op *op, ConvolutionPass pass,
                       const ConvolutionForm *only, const Tensor *inputs, const Tensor *outputs,
                       Kernel **out, Error *error) {
  Status status = OK;
  CudaBackend *cuda = cuda_backend(backend);
  Convolution convolution;
  CudnnChoice choice;
  *out = NULL;
  TRY(convolution_of(pass, op, inputs, outputs, &convolution, error));
  if (cudnn_choose(cuda->cudnn, &convolution, only, &choice, error) != OK) {
    status = error_context(error, "%s", op->name);
    goto done;
  }
  ConvolutionKernel *kernel = mem_new(1, sizeof *kernel);
  kernel->steps = convolution_steps(&convolution, &choice.form, choice.plan);
  kernel->base = (Kernel){
      .workspace = kernel->steps.workspace, .run = convolution_run, .free = convolution_free};
  kernel->handle = cudnn_handle(cuda->cudnn);
  kernel->stream = cuda->stream;
  kernel->name = mem_string(op->name ? op->name : op_kind_name(op->kind));
  *out = &kernel->base;
done:
  return status;
}

Status cuda_conv3d_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                       Kernel **out, Error *error) {
  return convolution_new(backend, op, CONVOLUTION_FORWARD, NULL, inputs, outputs, out, error);
}

Status cuda_conv3d_backward_data_new(Backend *backend, const Op *op, const Tensor *inputs,
                                     const Tensor *outputs, Kernel **out, Error *error) {
  return convolution_new(backend, op, CONVOLUTION_BACKWARD_DATA, NULL, inputs, outputs, out, error);
}

Status cuda_conv3d_backward_weights_new(Backend *backend, const Op *op, const Tensor *inputs,
                                        const Tensor *outputs, Kernel **out, Error *error) {
  return convolution_new(backend, op, CONVOLUTION_BACKWARD_WEIGHTS, NULL, inputs, outputs, out,
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
    if (convolution_of(pass, request->op, request->inputs, request->outputs, &convolutions[found],
                       &error) == OK)
      found++;
  }
  /* Where time to tune them ends early, it ends with those that matter least; and long ones that
   * are begun last would be waited for. */
  convolutions_by_flops(convolutions, found);
  cudnn_prepare(cuda_backend(backend)->cudnn, convolutions, found);
  free(convolutions);
}
