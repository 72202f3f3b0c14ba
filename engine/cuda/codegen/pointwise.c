/* Pointwise programs: source.h's kernels. The floor is each input and output once over the bus. */
#include <stdlib.h>

#include "base/memory.h"
#include "engine/cuda/codegen/generate.h"
#include "engine/cuda/nvrtc/nvrtc.h"
#include "engine/cuda/runtime/cuda.h"

typedef struct PointwiseKernel {
  Kernel base;
  cudaStream_t stream;
  ProgramSource source;
  JitKernel *code;
  unsigned blocks;
} PointwiseKernel;

static Status run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                  Error *error) {
  (void)workspace;
  const PointwiseKernel *kernel = (const PointwiseKernel *)base;
  struct ProgramLaunch launch = kernel->source.launch;
  launch.wide = 1;
  source_bind(&kernel->source, &launch, inputs, outputs);
  return jit_launch(kernel->code, (dim3){kernel->blocks, 1, 1}, SOURCE_THREADS, 0, &launch,
                    kernel->stream, error);
}

static void kernel_free(Kernel *base) {
  source_free(&((PointwiseKernel *)base)->source);
  free(base);
}

Status cuda_pointwise_new(Backend *backend, const Op *op, const Tensor *inputs,
                          const Tensor *outputs, Kernel **out, Error *error) {
  Status status = OK;
  PointwiseKernel *kernel = mem_new(1, sizeof *kernel);
  *out = NULL;
  for (int k = 0; k < op->output_count; k++) {
    if (outputs[k].dtype == DTYPE_U8 || !shape_equal(outputs[k].shape, outputs[0].shape)) {
      FAIL(error, ERROR_INTERNAL, "%s: cuda: pointwise: outputs must be f32 or bf16 of one shape",
           op->name);
    }
  }
  TRY(source_new(&kernel->source, SOURCE_POINTWISE, op, &op->attributes.pointwise, inputs, outputs,
                 outputs[0].shape, error));
  TRY(jit_kernel(cuda_backend(backend)->jit, kernel->source.name, kernel->source.text.data,
                 &kernel->code, error));
  const int64_t count = kernel->source.launch.count;
  const int64_t per_block = (int64_t)SOURCE_THREADS * kernel->source.vector;
  const int64_t blocks = (count + per_block - 1) / per_block;
  if (blocks > INT32_MAX) {
    FAIL(error, ERROR_INTERNAL, "%s: cuda: %lld elements are more than one launch can hold",
         op->name, (long long)count);
  }
  kernel->blocks = (unsigned)blocks;
  kernel->stream = cuda_backend(backend)->stream;
  kernel->base = (Kernel){.run = run, .free = kernel_free};
  *out = &kernel->base;
  kernel = NULL;
done:
  if (kernel) kernel_free(&kernel->base);
  return status;
}
