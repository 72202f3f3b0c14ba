/* Warping: each output pixel interpolates four pixels of x. Rows are shared among the threads. */
#include <stdlib.h>

#include "base/memory.h"
#include "engine/backend/op_arguments.h"
#include "engine/backend/shared/motion.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/partition.h"

enum { BLOCK = 64 }; /* pixels whose positions are computed together */

typedef struct WarpKernel {
  Kernel base;
  MotionArguments motion;
  int parts;
} WarpKernel;

/* The first elements in x of the four neighbours of each output pixel of a block, and the parts of
 * the right and lower ones. */
typedef struct Block {
  int64_t upper_left[BLOCK], upper_right[BLOCK], lower_left[BLOCK], lower_right[BLOCK];
  float part_w[BLOCK], part_h[BLOCK];
} Block;

/* `flow`: of pixel (h, w) and the following `count` - 1; `frame`: first element of the frame. */
static void find_positions(const MotionArguments *m, const float *flow, int64_t frame, int h, int w,
                           int count, Block *block) {
  const int height = (int)m->height, width = (int)m->width;
  const int64_t row = m->width * m->channels;
  for (int i = 0; i < count; i++) {
    const WarpPosition x = warp_position(w + i, flow[2 * i], width);
    const WarpPosition y = warp_position(h, flow[2 * i + 1], height);
    const int64_t upper = frame + y.lower * row, lower = frame + y.upper * row;
    const int64_t left = x.lower * m->channels, right = x.upper * m->channels;
    block->upper_left[i] = upper + left;
    block->upper_right[i] = upper + right;
    block->lower_left[i] = lower + left;
    block->lower_right[i] = lower + right;
    block->part_w[i] = x.part;
    block->part_h[i] = y.part;
  }
}

/* The pixels of a block, `channels` each; `to` is the first element of the block in y. A constant
 * number of channels makes the inner loop straight code. */
static inline __attribute__((always_inline)) void
interpolate_f32(const Block *block, int count, int64_t channels, const float *x, float *to) {
  for (int i = 0; i < count; i++, to += channels) {
    const float *a = x + block->upper_left[i], *b = x + block->upper_right[i];
    const float *c = x + block->lower_left[i], *d = x + block->lower_right[i];
    const float part_w = block->part_w[i], part_h = block->part_h[i];
#pragma omp simd
    for (int64_t k = 0; k < channels; k++)
      to[k] = warp_value(a[k], b[k], c[k], d[k], part_w, part_h);
  }
}

static inline __attribute__((always_inline)) void
interpolate_bf16(const Block *block, int count, int64_t channels, const uint16_t *x, uint16_t *to) {
  for (int i = 0; i < count; i++, to += channels) {
    const uint16_t *a = x + block->upper_left[i], *b = x + block->upper_right[i];
    const uint16_t *c = x + block->lower_left[i], *d = x + block->lower_right[i];
    const float part_w = block->part_w[i], part_h = block->part_h[i];
#pragma omp simd
    for (int64_t k = 0; k < channels; k++)
      to[k] = bf16_from_f32(warp_value(bf16_to_f32(a[k]), bf16_to_f32(b[k]), bf16_to_f32(c[k]),
                                       bf16_to_f32(d[k]), part_w, part_h));
  }
}

static void interpolate(const MotionArguments *m, const Block *block, int count, const Tensor *x,
                        const Tensor *y, int64_t first) {
  const bool rgb = m->channels == 3;
  if (m->dtype == DTYPE_F32)
    interpolate_f32(block, count, rgb ? 3 : m->channels, x->data, (float *)y->data + first);
  else
    interpolate_bf16(block, count, rgb ? 3 : m->channels, x->data, (uint16_t *)y->data + first);
}

/* Row h of frame t of sample n. */
static void warp_row(const MotionArguments *m, const Tensor *inputs, const Tensor *y, int64_t n,
                     int64_t t, int64_t h) {
  const int64_t frame = n * m->times + t, flow_frame = m->flow_times == 1 ? n : frame;
  const int64_t frame_elements = m->height * m->width * m->channels;
  const float *flow = (const float *)inputs[1].data + (flow_frame * m->height + h) * m->width * 2;
  const int64_t row = frame * frame_elements + h * m->width * m->channels;
  Block block;
  for (int64_t w = 0; w < m->width; w += BLOCK) {
    const int count = m->width - w < BLOCK ? (int)(m->width - w) : BLOCK;
    find_positions(m, flow + 2 * w, frame * frame_elements, (int)h, (int)w, count, &block);
    interpolate(m, &block, count, &inputs[0], y, row + w * m->channels);
  }
}

static Status run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                  Error *error) {
  (void)workspace, (void)error;
  const WarpKernel *k = (const WarpKernel *)base;
  const MotionArguments *m = &k->motion;
  const int64_t rows = m->samples * m->times * m->height;
#pragma omp parallel for num_threads(k->parts) schedule(static, 1)
  for (int part = 0; part < k->parts; part++) {
    const int64_t end = cpu_part_begin(rows, part + 1, k->parts);
    for (int64_t row = cpu_part_begin(rows, part, k->parts); row < end; row++) {
      const int64_t frame = row / m->height;
      warp_row(m, inputs, &outputs[0], frame / m->times, frame % m->times, row % m->height);
    }
  }
  return OK;
}

static void kernel_free(Kernel *base) {
  free(base);
}

Status cpu_warp_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                    Kernel **out, Error *error) {
  MotionArguments motion;
  *out = NULL;
  const Status status = motion_arguments(op, inputs, outputs, backend->name, &motion, error);
  if (status != OK) return status;
  WarpKernel *k = mem_new(1, sizeof *k);
  k->motion = motion;
  k->parts = cpu_parts(backend, shape_count(outputs[0].shape), 8192);
  k->base = (Kernel){.run = run, .free = kernel_free};
  *out = &k->base;
  return OK;
}
