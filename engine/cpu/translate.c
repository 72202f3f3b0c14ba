/* Translation by whole pixels: copies of parts of rows. */
#include <stdlib.h>

#include "base/memory.h"
#include "engine/backend/op_arguments.h"
#include "engine/backend/shared/motion.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/partition.h"

typedef struct TranslateKernel {
  Kernel base;
  MotionArguments motion;
  size_t pixel; /* bytes */
  int parts;
} TranslateKernel;

/* y = the row `x` moved by `dx` pixels to the right; NULL: zeros. */
static void translate_row(const TranslateKernel *k, const char *x, int64_t dx, char *y) {
  const int64_t width = k->motion.width;
  int64_t begin = dx > 0 ? dx : 0, end = dx < 0 ? width + dx : width;
  if (!x || begin >= end) begin = end = 0;
  memset(y, 0, (size_t)begin * k->pixel);
  if (begin < end)
    memcpy(y + (size_t)begin * k->pixel, x + (size_t)(begin - dx) * k->pixel,
           (size_t)(end - begin) * k->pixel);
  memset(y + (size_t)end * k->pixel, 0, (size_t)(width - end) * k->pixel);
}

static Status run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                  Error *error) {
  (void)workspace, (void)error;
  const TranslateKernel *k = (const TranslateKernel *)base;
  const MotionArguments *m = &k->motion;
  const char *x = inputs[0].data;
  const float *offsets = inputs[1].data;
  char *y = outputs[0].data;
  const int64_t rows = m->samples * m->times * m->height;
  const size_t row_bytes = (size_t)m->width * k->pixel;
#pragma omp parallel for num_threads(k->parts) schedule(static, 1)
  for (int part = 0; part < k->parts; part++) {
    const int64_t last = cpu_part_begin(rows, part + 1, k->parts);
    for (int64_t row = cpu_part_begin(rows, part, k->parts); row < last; row++) {
      const float *offset = offsets + row / m->height / m->times * 2;
      const int64_t dx = translate_pixels(offset[0], m->negated);
      const int64_t dy = translate_pixels(offset[1], m->negated);
      const int64_t h = row % m->height - dy;
      const bool inside = h >= 0 && h < m->height;
      translate_row(k, inside ? x + (size_t)(row - dy) * row_bytes : NULL, dx,
                    y + (size_t)row * row_bytes);
    }
  }
  return OK;
}

static void kernel_free(Kernel *base) {
  free(base);
}

Status cpu_translate_new(Backend *backend, const Op *op, const Tensor *inputs,
                         const Tensor *outputs, Kernel **out, Error *error) {
  MotionArguments motion;
  *out = NULL;
  const Status status = motion_arguments(op, inputs, outputs, backend->name, &motion, error);
  if (status != OK) return status;
  TranslateKernel *k = mem_new(1, sizeof *k);
  k->motion = motion;
  k->pixel = (size_t)motion.channels * dtype_size(motion.dtype);
  k->parts = cpu_parts(backend, shape_count(outputs[0].shape), 32768);
  k->base = (Kernel){.run = run, .free = kernel_free};
  *out = &k->base;
  return OK;
}
