/* Kernel constructors of OP_CONCAT and OP_SLICE, for the launcher in concat_slice.cu. */
#include "engine/cuda/kernels/concat_slice.h"

#include <stdlib.h>

#include "base/memory.h"
#include "engine/backend/strided_copy.h"
#include "engine/cuda/runtime/cuda.h"

typedef struct ConcatSliceKernel {
  Kernel base;
  cudaStream_t stream;
  int count;
  StridedCopy copies[CONCAT_SLICE_MAX_COPIES]; /* from each input to the output */
} ConcatSliceKernel;

static ConcatSliceCopy bind_copy(const StridedCopy *copy, const Tensor *to, const Tensor *from) {
  ConcatSliceCopy bound = {.to = (char *)to->data + copy->to_begin,
                           .from = (const char *)from->data + copy->from_begin,
                           .rows = copy->rows,
                           .row = (int64_t)copy->row,
                           .levels = copy->levels};
  for (int level = 0; level < copy->levels; level++) {
    bound.length[level] = copy->length[level];
    bound.to_step[level] = (int64_t)copy->to_step[level];
    bound.from_step[level] = (int64_t)copy->from_step[level];
  }
  return bound;
}

static Status concat_slice_run(Kernel *base, const Tensor *inputs, const Tensor *outputs,
                               void *workspace, Error *error) {
  (void)workspace;
  const ConcatSliceKernel *kernel = (const ConcatSliceKernel *)(void *)base;
  ConcatSliceLaunch launch = {.count = kernel->count};
  for (int i = 0; i < kernel->count; i++)
    launch.copies[i] = bind_copy(&kernel->copies[i], &outputs[0], &inputs[i]);
  return launch_concat_slice(&launch, kernel->stream, error);
}

static void concat_slice_free(Kernel *kernel) {
  free(kernel);
}

static Status check(const Op *op, const Tensor *inputs, const Tensor *output, Error *error) {
  Status status = OK;
  if (op->input_count > CONCAT_SLICE_MAX_COPIES)
    FAIL(error, ERROR_INTERNAL, "%s: cuda: %s: %d inputs, at most %d are supported", op->name,
         op_kind_name(op->kind), op->input_count, CONCAT_SLICE_MAX_COPIES);
  for (int i = 0; i < op->input_count; i++) {
    if (inputs[i].dtype == output->dtype) continue;
    FAIL(error, ERROR_INTERNAL, "%s: cuda: %s: input %d is %s, expected %s as the output", op->name,
         op_kind_name(op->kind), i, dtype_name(inputs[i].dtype), dtype_name(output->dtype));
  }
done:
  return status;
}

static ConcatSliceKernel *concat_slice_new(Backend *backend) {
  ConcatSliceKernel *kernel = mem_new(1, sizeof *kernel);
  kernel->stream = cuda_backend(backend)->stream;
  kernel->base = (Kernel){.run = concat_slice_run, .free = concat_slice_free};
  return kernel;
}

Status cuda_concat_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                       Kernel **out, Error *error) {
  Status status = OK;
  const int axis = op->attributes.concat.axis;
  Shape begin = {{0}};
  *out = NULL;
  TRY(check(op, inputs, &outputs[0], error));
  ConcatSliceKernel *kernel = concat_slice_new(backend);
  for (int i = 0; i < op->input_count; i++) {
    kernel->copies[kernel->count++] =
        strided_copy(inputs[i].shape, outputs[0].shape, begin, inputs[i].shape, (Shape){{0}},
                     dtype_size(inputs[i].dtype));
    begin.dim[axis] += inputs[i].shape.dim[axis];
  }
  *out = &kernel->base;
done:
  return status;
}

Status cuda_slice_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                      Kernel **out, Error *error) {
  Status status = OK;
  *out = NULL;
  TRY(check(op, inputs, &outputs[0], error));
  ConcatSliceKernel *kernel = concat_slice_new(backend);
  kernel->copies[kernel->count++] =
      strided_copy(outputs[0].shape, outputs[0].shape, (Shape){{0}}, inputs[0].shape,
                   op->attributes.slice.begin, dtype_size(inputs[0].dtype));
  *out = &kernel->base;
done:
  return status;
}
