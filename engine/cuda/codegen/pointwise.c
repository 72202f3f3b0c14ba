/* Kernel constructor of OP_POINTWISE: generates and compiles a kernel (generate.h). */
#include <stdlib.h>

#include "base/memory.h"
#include "engine/cuda/codegen/generate.h"
#include "engine/cuda/nvrtc/nvrtc.h"
#include "engine/cuda/runtime/cuda.h"

typedef struct PointwiseKernel {
  Kernel base;
  cudaStream_t stream;
  GeneratedSource source;
  NvrtcKernel *code;
  unsigned blocks;
} PointwiseKernel;

static Status run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                  Error *error) {
  (void)workspace;
  const PointwiseKernel *kernel = (const PointwiseKernel *)base;
  struct ProgramLaunch launch = kernel->source.launch;
  launch.vectorized = 1;
  generated_source_bind(&kernel->source, &launch, inputs, outputs);
  return nvrtc_launch(kernel->code, (dim3){kernel->blocks, 1, 1}, GENERATED_THREADS, 0, &launch,
                      kernel->stream, error);
}

static void kernel_free(Kernel *base) {
  generated_source_free(&((PointwiseKernel *)base)->source);
  free(base);
}

Status cuda_pointwise_new(Backend *backend, const Op *op, const Tensor *inputs,
                          const Tensor *outputs, Kernel **out, Error *error) {
  Status status = OK;
  char have[SHAPE_TEXT_SIZE];
  PointwiseKernel *kernel = mem_new(1, sizeof *kernel);
  *out = NULL;
  for (int k = 0; k < op->output_count; k++) {
    if (outputs[k].dtype == DTYPE_U8 || !shape_equal(outputs[k].shape, outputs[0].shape)) {
      FAIL(error, ERROR_INTERNAL,
           "%s: cuda: pointwise: output %d is %s %s, expected f32 or bf16 of the shape of output 0",
           op->name, k, dtype_name(outputs[k].dtype), shape_text(outputs[k].shape, have));
    }
  }
  TRY(generated_source_new(&kernel->source, TEMPLATE_POINTWISE, op, &op->attributes.pointwise,
                           inputs, outputs, outputs[0].shape, error));
  TRY(nvrtc_kernel(cuda_backend(backend)->nvrtc, kernel->source.name, kernel->source.text.data,
                   &kernel->code, error));
  const int64_t count = kernel->source.launch.count;
  const int64_t per_block = (int64_t)GENERATED_THREADS * kernel->source.vector;
  const int64_t blocks = (count + per_block - 1) / per_block;
  if (blocks > INT32_MAX) {
    FAIL(error, ERROR_INTERNAL, "%s: cuda: pointwise: %lld blocks, at most %d fit in one launch",
         op->name, (long long)blocks, INT32_MAX);
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
