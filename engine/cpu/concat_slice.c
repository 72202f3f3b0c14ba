/* Concat and slice: strided copies. */
#include <stdlib.h>

#include "base/memory.h"
#include "engine/backend/strided_copy.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/partition.h"

#define COPY_ROWS_OF(bytes)                                                                        \
  case bytes:                                                                                      \
    for (int64_t i = 0; i < rows; i++)                                                             \
      memcpy(to + (size_t)i * to_step, from + (size_t)i * from_step, bytes);                       \
    break

/* Copies rows; short ones (few channels) by inlined copies of a constant size. */
static void copy_rows(char *to, size_t to_step, const char *from, size_t from_step, int64_t rows,
                      size_t bytes) {
  switch (bytes) {
    COPY_ROWS_OF(2);
    COPY_ROWS_OF(4);
    COPY_ROWS_OF(6);
    COPY_ROWS_OF(8);
    COPY_ROWS_OF(12);
    COPY_ROWS_OF(16);
    COPY_ROWS_OF(24);
    COPY_ROWS_OF(32);
    COPY_ROWS_OF(64);
    COPY_ROWS_OF(128);
  default:
    for (int64_t i = 0; i < rows; i++) {
      memcpy(to + (size_t)i * to_step, from + (size_t)i * from_step, bytes);
    }
  }
}

/* Copies rows [first, end). */
static void copy_part(const StridedCopy *copy, char *to, const char *from, int64_t first,
                      int64_t end) {
  const int64_t inner = copy->levels > 0 ? copy->length[0] : 1;
  const size_t to_step = copy->levels > 0 ? copy->to_step[0] : 0;
  const size_t from_step = copy->levels > 0 ? copy->from_step[0] : 0;
  while (first < end) {
    int64_t rest = first / inner;
    const int64_t skip = first % inner;
    int64_t rows = inner - skip;
    if (rows > end - first) rows = end - first;
    size_t to_at = copy->to_begin + (size_t)skip * to_step;
    size_t from_at = copy->from_begin + (size_t)skip * from_step;
    for (int level = 1; level < copy->levels; level++) {
      const size_t position = (size_t)(rest % copy->length[level]);
      to_at += position * copy->to_step[level];
      from_at += position * copy->from_step[level];
      rest /= copy->length[level];
    }
    copy_rows(to + to_at, to_step, from + from_at, from_step, rows, copy->row);
    first += rows;
  }
}

typedef struct CopyKernel {
  Kernel base;
  int parts;
  int count;
  StridedCopy copies[OP_MAX_INPUTS]; /* one for each input */
} CopyKernel;

static Status copy_run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                       Error *error) {
  (void)workspace, (void)error;
  const CopyKernel *k = (const CopyKernel *)base;
#pragma omp parallel for num_threads(k->parts) schedule(static, 1)
  for (int part = 0; part < k->parts; part++) {
    for (int i = 0; i < k->count; i++) {
      const StridedCopy *copy = &k->copies[i];
      const size_t row = copy->row;
      if (copy->rows > 1) {
        copy_part(copy, outputs[0].data, inputs[i].data, cpu_part_begin(copy->rows, part, k->parts),
                  cpu_part_begin(copy->rows, part + 1, k->parts));
      } else { /* a single row is split among the threads */
        const size_t begin = row * (size_t)part / (size_t)k->parts;
        const size_t end = row * (size_t)(part + 1) / (size_t)k->parts;
        memcpy((char *)outputs[0].data + copy->to_begin + begin,
               (const char *)inputs[i].data + copy->from_begin + begin, end - begin);
      }
    }
  }
  return OK;
}

static void copy_free(Kernel *kernel) {
  free(kernel);
}

static CopyKernel *copy_kernel_new(const Backend *backend, const Tensor *output) {
  CopyKernel *k = mem_new(1, sizeof *k);
  k->parts = cpu_parts(backend, shape_count(output->shape), 32768);
  k->base = (Kernel){.run = copy_run, .free = copy_free};
  return k;
}

Status cpu_concat_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                      Kernel **out, Error *error) {
  Status status = OK;
  const int axis = op->attributes.concat.axis;
  CopyKernel *k = copy_kernel_new(backend, &outputs[0]);
  Shape begin = {{0}};
  *out = NULL;
  for (int i = 0; i < op->input_count; i++) {
    if (inputs[i].dtype != outputs[0].dtype) {
      FAIL(error, ERROR_INTERNAL, "%s: cpu: concat: input %d is %s, but the output is %s", op->name,
           i, dtype_name(inputs[i].dtype), dtype_name(outputs[0].dtype));
    }
    k->copies[k->count++] = strided_copy(inputs[i].shape, outputs[0].shape, begin, inputs[i].shape,
                                         (Shape){{0}}, dtype_size(inputs[i].dtype));
    begin.dim[axis] += inputs[i].shape.dim[axis];
  }
  *out = &k->base;
  k = NULL;
done:
  free(k);
  return status;
}

Status cpu_slice_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                     Kernel **out, Error *error) {
  *out = NULL;
  if (inputs[0].dtype != outputs[0].dtype) {
    return error_set(error, ERROR_INTERNAL, "%s: cpu: slice: input is %s, but the output is %s",
                     op->name, dtype_name(inputs[0].dtype), dtype_name(outputs[0].dtype));
  }
  CopyKernel *k = copy_kernel_new(backend, &outputs[0]);
  k->copies[k->count++] =
      strided_copy(outputs[0].shape, outputs[0].shape, (Shape){{0}}, inputs[0].shape,
                   op->attributes.slice.begin, dtype_size(inputs[0].dtype));
  *out = &k->base;
  return OK;
}
