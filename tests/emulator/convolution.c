/* Stands in for cuDNN: the CPU backend's convolutions, run as work of the stream. */
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "emulator.h"
#include "engine/cuda/runtime/cuda.h"

struct Cudnn {
  Backend *cpu;
};

Status cudnn_new(CudaBackend *backend, struct Cudnn **out, Error *error) {
  Status status = OK;
  struct Cudnn *made = mem_new(1, sizeof *made);
  (void)backend;
  *out = NULL;
  TRY(backend_cpu_new(1, &made->cpu, error));
  *out = made;
  made = NULL;
done:
  free(made);
  return status;
}

void cudnn_free(struct Cudnn *cudnn) {
  if (!cudnn) return;
  cudnn->cpu->free(cudnn->cpu);
  free(cudnn);
}

int cuda_cudnn_version(void) {
  return 90000;
}

typedef struct Convolution {
  Kernel base;
  Kernel *kernel; /* the CPU's */
  cudaStream_t stream;
  int inputs, outputs;
} Convolution;

typedef struct Call {
  Kernel *kernel;
  Tensor inputs[OP_MAX_INPUTS], outputs[OP_MAX_OUTPUTS];
  void *workspace;
} Call;

/* Without their buffers: what the CPU backend caches would be judged by versions of the time at
 * which work was enqueued. */
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
  const Convolution *self = (const Convolution *)(void *)kernel;
  Call call = {.kernel = self->kernel, .workspace = workspace};
  copy_tensors(call.inputs, inputs, self->inputs);
  copy_tensors(call.outputs, outputs, self->outputs);
  CUDA_TRY(emulator_enqueue_copy(self->stream, run_call, &call, sizeof call));
done:
  return status;
}

static void free_kernel(Kernel *kernel) {
  const Convolution *self = (const Convolution *)(void *)kernel;
  cudaDeviceSynchronize();
  self->kernel->free(self->kernel);
  free(kernel);
}

static Status convolution_new(Backend *backend, const Op *op, const Tensor *inputs,
                              const Tensor *outputs, Kernel **out, Error *error) {
  Status status = OK;
  Backend *cpu = cuda_backend(backend)->cudnn->cpu;
  Tensor of_inputs[OP_MAX_INPUTS] = {0}, of_outputs[OP_MAX_OUTPUTS] = {0};
  Convolution *made = mem_new(1, sizeof *made);
  *out = NULL;
  copy_tensors(of_inputs, inputs, op->input_count);
  copy_tensors(of_outputs, outputs, op->output_count);
  TRY(cpu->kernel_new(cpu, op, of_inputs, of_outputs, &made->kernel, error));
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
  (void)backend, (void)requests, (void)count; /* nothing takes long here */
}

Status cuda_conv3d_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                       Kernel **out, Error *error) {
  return convolution_new(backend, op, inputs, outputs, out, error);
}

Status cuda_conv3d_backward_data_new(Backend *backend, const Op *op, const Tensor *inputs,
                                     const Tensor *outputs, Kernel **out, Error *error) {
  return convolution_new(backend, op, inputs, outputs, out, error);
}

Status cuda_conv3d_backward_weights_new(Backend *backend, const Op *op, const Tensor *inputs,
                                        const Tensor *outputs, Kernel **out, Error *error) {
  return convolution_new(backend, op, inputs, outputs, out, error);
}
