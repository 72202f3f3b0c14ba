/* A stand-in for engine/cuda/autotune and cuDNN: the convolutions of the CPU backend, run in the
 * order of the stream. */
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "emulator.h"
#include "engine/cuda/runtime/cuda.h"

struct Autotuner {
  Backend *cpu;
};

Status autotuner_new(CudaBackend *backend, struct Autotuner **out, Error *error) {
  Status status = OK;
  struct Autotuner *made = mem_new(1, sizeof *made);
  (void)backend;
  *out = NULL;
  TRY(backend_cpu_new(1, &made->cpu, error));
  *out = made;
  made = NULL;
done:
  free(made);
  return status;
}

void autotuner_free(struct Autotuner *autotuner) {
  if (!autotuner) return;
  autotuner->cpu->free(autotuner->cpu);
  free(autotuner);
}

Status conv_self_test(CudaBackend *backend, Error *error) {
  (void)backend, (void)error;
  return OK;
}

int cuda_cudnn_version(void) {
  return 90000;
}

typedef struct ConvKernel {
  Kernel base;
  Kernel *kernel; /* the CPU's */
  cudaStream_t stream;
  int inputs, outputs;
} ConvKernel;

typedef struct Call {
  Kernel *kernel;
  Tensor inputs[OP_MAX_INPUTS], outputs[OP_MAX_OUTPUTS];
  void *workspace;
} Call;

/* Copies the tensors without their buffers: the CPU backend caches by buffer version, and the
 * version at the time of the call is not the one at which the work runs. */
static void copy_tensors(Tensor *to, const Tensor *from, int count) {
  for (int i = 0; i < count; i++) {
    to[i] = from[i];
    to[i].buffer = NULL;
  }
}

static bool run_call(void *context) {
  const Call *call = context;
  Error error = {0};
  if (call->kernel->run(call->kernel, call->inputs, call->outputs, call->workspace, &error) == OK)
    return true;
  fprintf(stderr, "emulator: a convolution: %s\n", error.message);
  abort();
}

static Status run(Kernel *kernel, const Tensor *inputs, const Tensor *outputs, void *workspace,
                  Error *error) {
  Status status = OK;
  const ConvKernel *self = (const ConvKernel *)(void *)kernel;
  Call call = {.kernel = self->kernel, .workspace = workspace};
  copy_tensors(call.inputs, inputs, self->inputs);
  copy_tensors(call.outputs, outputs, self->outputs);
  CUDA_TRY(emulator_enqueue_copy(self->stream, run_call, &call, sizeof call));
done:
  return status;
}

static void free_kernel(Kernel *kernel) {
  const ConvKernel *self = (const ConvKernel *)(void *)kernel;
  cudaDeviceSynchronize();
  self->kernel->free(self->kernel);
  free(kernel);
}

static Status conv_kernel_new(Backend *backend, const Op *op, const Tensor *inputs,
                              const Tensor *outputs, Kernel **out, Error *error) {
  Status status = OK;
  Backend *cpu = cuda_backend(backend)->autotuner->cpu;
  Tensor cpu_inputs[OP_MAX_INPUTS] = {0}, cpu_outputs[OP_MAX_OUTPUTS] = {0};
  ConvKernel *made = mem_new(1, sizeof *made);
  *out = NULL;
  copy_tensors(cpu_inputs, inputs, op->input_count);
  copy_tensors(cpu_outputs, outputs, op->output_count);
  TRY(cpu->kernel_new(cpu, op, cpu_inputs, cpu_outputs, &made->kernel, error));
  made->base = (Kernel){.workspace = made->kernel->workspace, .run = run, .free = free_kernel};
  made->stream = cuda_backend(backend)->stream;
  made->inputs = op->input_count;
  made->outputs = op->output_count;
  *out = &made->base;
  made = NULL;
done:
  free(made);
  return status;
}

void cuda_prepare(Backend *backend, const KernelRequest *requests, int count) {
  (void)backend, (void)requests, (void)count; /* no kernel takes long to build here */
}

Status cuda_conv3d_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                       Kernel **out, Error *error) {
  return conv_kernel_new(backend, op, inputs, outputs, out, error);
}

Status cuda_conv3d_backward_data_new(Backend *backend, const Op *op, const Tensor *inputs,
                                     const Tensor *outputs, Kernel **out, Error *error) {
  return conv_kernel_new(backend, op, inputs, outputs, out, error);
}

Status cuda_conv3d_backward_weights_new(Backend *backend, const Op *op, const Tensor *inputs,
                                        const Tensor *outputs, Kernel **out, Error *error) {
  return conv_kernel_new(backend, op, inputs, outputs, out, error);
}
