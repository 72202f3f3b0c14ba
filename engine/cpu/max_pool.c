/* Max pooling and its gradient, one row of windows at a time. */
#include <stdlib.h>

#include "base/memory.h"
#include "engine/backend/shared/maximum.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/partition.h"

enum { CHUNK = 256 }; /* channels at a time */

typedef struct PoolKernel {
  Kernel base;
  DType dtype;
  int size;
  bool has_values; /* a second input, read at the argmax of x */
  float slope;     /* backward: factor of dy where the maximum is not above 0 */
  int64_t frames, height, width, channels; /* of x */
  int64_t rows, columns;                   /* of windows, per frame */
  int parts;
} PoolKernel;

/* The first element of a pixel of x. */
static int64_t pixel_of(const PoolKernel *k, int64_t frame, int64_t h, int64_t w) {
  return ((frame * k->height + h) * k->width + w) * k->channels;
}

/* Some channels of a window: the first element in x, and their number. */
typedef struct Window {
  int64_t first, count;
} Window;

/* The first element in x of cell (i, j) of the window. */
static int64_t cell_of(const PoolKernel *k, const Window *window, int i, int j) {
  return window->first + (i * k->width + j) * k->channels;
}

/* The maximum of each channel, and the number of its cell. */
static void find_largest(const PoolKernel *k, const Tensor *x, const Window *window,
                         float largest[restrict CHUNK], int32_t which[restrict CHUNK]) {
  float cell[CHUNK];
  cpu_load(largest, x->data, k->dtype, window->first, window->count);
  for (int64_t c = 0; c < window->count; c++) which[c] = 0;
  for (int32_t number = 1; number < k->size * k->size; number++) {
    cpu_load(cell, x->data, k->dtype, cell_of(k, window, number / k->size, number % k->size),
             window->count);
    for (int64_t c = 0; c < window->count; c++) {
      const bool takes = replaces_maximum(cell[c], largest[c]);
      largest[c] = takes ? cell[c] : largest[c];
      which[c] = takes ? number : which[c];
    }
  }
}

/* value[c] = the element of `values` in cell which[c]. */
static void read_where(const PoolKernel *k, const Tensor *values, const Window *window,
                       const int32_t which[restrict CHUNK], float value[restrict CHUNK]) {
  float cell[CHUNK];
  for (int32_t number = 0; number < k->size * k->size; number++) {
    cpu_load(cell, values->data, k->dtype, cell_of(k, window, number / k->size, number % k->size),
             window->count);
    for (int64_t c = 0; c < window->count; c++) value[c] = which[c] == number ? cell[c] : value[c];
  }
}

/* dx = dy in cell which[c], 0 in the other cells of the window. */
static void write_where(const PoolKernel *k, Tensor *dx, const Window *window,
                        const int32_t which[restrict CHUNK], const float dy[restrict CHUNK]) {
  float cell[CHUNK];
  for (int32_t number = 0; number < k->size * k->size; number++) {
    for (int64_t c = 0; c < window->count; c++) cell[c] = which[c] == number ? dy[c] : 0.0f;
    cpu_store(dx->data, k->dtype, cell_of(k, window, number / k->size, number % k->size), cell,
              window->count);
  }
}

/* Called for each window of a row and chunk of channels; `pooled` is the first element in y. */
typedef void EachWindow(const PoolKernel *k, const Tensor *inputs, const Tensor *outputs,
                        const Window *window, int64_t pooled);

static void run_row(const PoolKernel *k, const Tensor *inputs, const Tensor *outputs, int64_t row,
                    EachWindow *each) {
  const int64_t frame = row / k->rows, h = row % k->rows * k->size;
  for (int64_t w = 0; w < k->columns; w++) {
    const int64_t pixel = pixel_of(k, frame, h, w * k->size);
    const int64_t pooled = (row * k->columns + w) * k->channels;
    for (int64_t c = 0; c < k->channels; c += CHUNK) {
      const int64_t rest = k->channels - c;
      const Window window = {pixel + c, rest < CHUNK ? rest : CHUNK};
      each(k, inputs, outputs, &window, pooled + c);
    }
  }
}

static void run_rows(const PoolKernel *k, const Tensor *inputs, const Tensor *outputs,
                     EachWindow *each) {
#pragma omp parallel for num_threads(k->parts) schedule(static, 1)
  for (int part = 0; part < k->parts; part++) {
    const int64_t rows = k->frames * k->rows, end = cpu_part_begin(rows, part + 1, k->parts);
    for (int64_t row = cpu_part_begin(rows, part, k->parts); row < end; row++)
      run_row(k, inputs, outputs, row, each);
  }
}

/* --- Forward ---------------------------------------------------------------------------------- */

static void pool_window(const PoolKernel *k, const Tensor *inputs, const Tensor *outputs,
                        const Window *window, int64_t pooled) {
  float value[CHUNK];
  int32_t which[CHUNK];
  find_largest(k, &inputs[0], window, value, which);
  if (k->has_values) read_where(k, &inputs[1], window, which, value);
  cpu_store(outputs[0].data, k->dtype, pooled, value, window->count);
}

static Status run_forward(Kernel *base, const Tensor *inputs, const Tensor *outputs,
                          void *workspace, Error *error) {
  (void)workspace, (void)error;
  run_rows((const PoolKernel *)base, inputs, outputs, pool_window);
  return OK;
}

/* --- Backward --------------------------------------------------------------------------------- */

static void spread_window(const PoolKernel *k, const Tensor *inputs, const Tensor *outputs,
                          const Window *window, int64_t pooled) {
  float largest[CHUNK], dy[CHUNK];
  int32_t which[CHUNK];
  Tensor dx = outputs[0];
  find_largest(k, &inputs[1], window, largest, which);
  cpu_load(dy, inputs[0].data, k->dtype, pooled, window->count);
  for (int64_t c = 0; c < window->count; c++) dy[c] *= largest[c] > 0 ? 1.0f : k->slope;
  write_where(k, &dx, window, which, dy);
}

static void clear(const PoolKernel *k, const Tensor *dx, int64_t first, int64_t count) {
  const size_t size = dtype_size(k->dtype);
  memset((char *)dx->data + (size_t)first * size, 0, (size_t)count * size);
}

/* Rows and columns at the end that do not fill a window. */
static void clear_rest(const PoolKernel *k, const Tensor *dx) {
  const int64_t h_end = k->rows * k->size, w_end = k->columns * k->size;
  for (int64_t frame = 0; frame < k->frames; frame++) {
    for (int64_t h = 0; w_end < k->width && h < h_end; h++)
      clear(k, dx, pixel_of(k, frame, h, w_end), (k->width - w_end) * k->channels);
    if (h_end < k->height)
      clear(k, dx, pixel_of(k, frame, h_end, 0), (k->height - h_end) * k->width * k->channels);
  }
}

static Status run_backward(Kernel *base, const Tensor *inputs, const Tensor *outputs,
                           void *workspace, Error *error) {
  (void)workspace, (void)error;
  const PoolKernel *k = (const PoolKernel *)base;
  run_rows(k, inputs, outputs, spread_window);
  clear_rest(k, &outputs[0]);
  return OK;
}

/* --- Constructors ----------------------------------------------------------------------------- */

static void kernel_free(Kernel *base) {
  free(base);
}

static Status pool_new(Backend *backend, const Op *op, const Tensor *x, const Tensor *pooled,
                       PoolKernel **out, Error *error) {
  if (x->dtype != pooled->dtype || !dtype_is_float(x->dtype))
    return error_set(error, ERROR_INTERNAL,
                     "%s: cpu: max_pool: x is %s, pooled %s, expected both f32 or both bf16",
                     op->name, dtype_name(x->dtype), dtype_name(pooled->dtype));
  const bool steps = op->attributes.max_pool.activation == ACTIVATION_LEAKY_RELU;
  PoolKernel *k = mem_new(1, sizeof *k);
  *k = (PoolKernel){
      .base.free = kernel_free,
      .dtype = x->dtype,
      .size = op->attributes.max_pool.size,
      .slope = steps ? op->attributes.max_pool.slope : 1,
      .frames = x->shape.dim[AXIS_N] * x->shape.dim[AXIS_T],
      .height = x->shape.dim[AXIS_H],
      .width = x->shape.dim[AXIS_W],
      .channels = x->shape.dim[AXIS_C],
      .rows = pooled->shape.dim[AXIS_H],
      .columns = pooled->shape.dim[AXIS_W],
      .parts = cpu_parts(backend, shape_count(x->shape), 16384),
  };
  *out = k;
  return OK;
}

Status cpu_max_pool_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                        Kernel **out, Error *error) {
  PoolKernel *k = NULL;
  *out = NULL;
  Status status = pool_new(backend, op, &inputs[0], &outputs[0], &k, error);
  if (status != OK) return status;
  k->has_values = op->input_count > 1;
  k->base.run = run_forward;
  *out = &k->base;
  return OK;
}

Status cpu_max_pool_backward_new(Backend *backend, const Op *op, const Tensor *inputs,
                                 const Tensor *outputs, Kernel **out, Error *error) {
  PoolKernel *k = NULL;
  *out = NULL;
  Status status = pool_new(backend, op, &outputs[0], &inputs[0], &k, error);
  if (status != OK) return status;
  k->base.run = run_backward;
  *out = &k->base;
  return OK;
}
