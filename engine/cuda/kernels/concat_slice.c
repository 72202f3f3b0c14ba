/* OP_CONCAT and OP_SLICE: from tensors to the launch of movement.cu. */
#include "engine/cuda/kernels/concat_slice.h"

#include <stdlib.h>

#include "base/memory.h"
#include "engine/backend/strided_copy.h"
#include "engine/cuda/runtime/cuda.h"

typedef struct MovementKernel {
  Kernel base;
  cudaStream_t stream;
  int count;
  BoxCopy copies[MOVEMENT_MOST_COPIES]; /* of each input, into the one output */
} MovementKernel;

static RowsCopy rows_copy(const BoxCopy *box, const Tensor *to, const Tensor *from) {
  RowsCopy copy = {.to = (char *)to->data + box->to_begin,
                   .from = (const char *)from->data + box->from_begin,
                   .rows = box->rows,
                   .row = (int64_t)box->row,
                   .levels = box->levels};
  for (int level = 0; level < box->levels; level++) {
    copy.length[level] = box->length[level];
    copy.to_step[level] = (int64_t)box->to_step[level];
    copy.from_step[level] = (int64_t)box->from_step[level];
  }
  return copy;
}

static Status movement_run(Kernel *base, const Tensor *inputs, const Tensor *outputs,
                           void *workspace, Error *error) {
  (void)workspace;
  const MovementKernel *kernel = (const MovementKernel *)(void *)base;
  MovementLaunch launch = {.count = kernel->count};
  for (int i = 0; i < kernel->count; i++)
    launch.copies[i] = rows_copy(&kernel->copies[i], &outputs[0], &inputs[i]);
  return launch_movement(&launch, kernel->stream, error);
}

static void movement_free(Kernel *kernel) {
  free(kernel);
}

static Status check(const Op *op, const Tensor *inputs, const Tensor *output, Error *error) {
  Status status = OK;
  if (op->input_count > MOVEMENT_MOST_COPIES)
    FAIL(error, ERROR_INTERNAL, "%s: cuda: %s: %d inputs; at most %d", op->name,
         op_kind_name(op->kind), op->input_count, MOVEMENT_MOST_COPIES);
  for (int i = 0; i < op->input_count; i++) {
    if (inputs[i].dtype == output->dtype) continue;
    FAIL(error, ERROR_INTERNAL, "%s: cuda: %s: input %d is %s, the output %s", op->name,
         op_kind_name(op->kind), i, dtype_name(inputs[i].dtype), dtype_name(output->dtype));
  }
done:
  return status;
}

static MovementKernel *make(Backend *backend) {
  MovementKernel *kernel = mem_new(1, sizeof *kernel);
  kernel->stream = cuda_backend(backend)->stream;
  kernel->base = (Kernel){.run = movement_run, .free = movement_free};
  return kernel;
}

Status cuda_concat_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                       Kernel **out, Error *error) {
  Status status = OK;
  const int axis = op->attributes.concat.axis;
  Shape begin = {{0}};
  *out = NULL;
  TRY(check(op, inputs, &outputs[0], error));
  MovementKernel *kernel = make(backend);
  for (int i = 0; i < op->input_count; i++) {
    kernel->copies[kernel->count++] =
        box_copy(inputs[i].shape, outputs[0].shape, begin, inputs[i].shape, (Shape){{0}},
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
  MovementKernel *kernel = make(backend);
  kernel->copies[kernel->count++] =
      box_copy(outputs[0].shape, outputs[0].shape, (Shape){{0}}, inputs[0].shape,
               op->attributes.slice.begin, dtype_size(inputs[0].dtype));
  *out = &kernel->base;
done:
  return status;
}
