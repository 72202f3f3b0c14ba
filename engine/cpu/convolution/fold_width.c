#include "engine/cpu/convolution/fold_width.h"

#include <math.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "engine/cpu/cpu.h"

/* A row of the narrow tensor with what the windows reach beyond it. */
static int64_t padded_pixels(const Fold *fold) {
  return (fold->positions - 1) * fold->step + fold->taps;
}

/* Room for the windows and for the whole row, whichever ends later. */
static size_t row_bytes(const Fold *fold) {
  int64_t windows = padded_pixels(fold), row = fold->offset + fold->width;
  return memory_align((size_t)((windows > row ? windows : row) * fold->channels) * sizeof(float));
}

size_t fold_workspace(const Fold *fold) {
  return row_bytes(fold) * (size_t)fold->threads;
}

static char *own_row(const Fold *fold, void *workspace) {
#ifdef _OPENMP
  return (char *)workspace + row_bytes(fold) * (size_t)omp_get_thread_num();
#else
  (void)fold;
  return workspace;
#endif
}

void fold_unfold(const Fold *fold, const void *narrow, void *folded, DType dtype, void *workspace) {
  size_t pixel = (size_t)fold->channels * dtype_size(dtype);
  size_t window = (size_t)fold->taps * pixel, step = (size_t)fold->step * pixel;
  size_t offset = (size_t)fold->offset * pixel, count = (size_t)fold->width * pixel;
#pragma omp parallel num_threads(fold->threads)
  {
    char *row = own_row(fold, workspace);
    memset(row, 0, row_bytes(fold));
#pragma omp for schedule(static)
    for (int64_t r = 0; r < fold->rows; r++) {
      char *to = (char *)folded + (size_t)(r * fold->positions) * window;
      memcpy(row + offset, (const char *)narrow + (size_t)r * count, count);
      for (int64_t p = 0; p < fold->positions; p++)
        memcpy(to + (size_t)p * window, row + (size_t)p * step, window);
    }
  }
}

void fold_finish_row(int64_t width, int64_t channels, const float *bias, Activation activation,
                     float slope, float *row) {
  int64_t count = width * channels;
  if (bias)
    for (int64_t v = 0; v < width; v++)
      for (int64_t c = 0; c < channels; c++) row[v * channels + c] += bias[c];
  if (activation == ACTIVATION_LEAKY_RELU)
    for (int64_t i = 0; i < count; i++) row[i] = row[i] > 0 ? row[i] : slope * row[i];
  if (activation == ACTIVATION_TANH)
    for (int64_t i = 0; i < count; i++) row[i] = tanhf(row[i]);
}

void fold_add(const Fold *fold, const float *folded, const float *bias, Activation activation,
              float slope, void *narrow, DType dtype, void *workspace) {
  int64_t window = fold->taps * fold->channels, step = fold->step * fold->channels;
  int64_t count = fold->width * fold->channels;
#pragma omp parallel for num_threads(fold->threads) schedule(static)
  for (int64_t r = 0; r < fold->rows; r++) {
    float *row = (float *)(void *)own_row(fold, workspace);
    const float *from = folded + r * fold->positions * window;
    memset(row, 0, row_bytes(fold));
    for (int64_t p = 0; p < fold->positions; p++) {
      float *to = row + p * step;
      for (int64_t i = 0; i < window; i++) to[i] += from[p * window + i];
    }
    row += fold->offset * fold->channels;
    fold_finish_row(fold->width, fold->channels, bias, activation, slope, row);
    cpu_store(narrow, dtype, r * count, row, count);
  }
}

/* Where a run of input channels lies in either order, in runs. */
static size_t plain_place(MirrorShape shape, int64_t o, int64_t plane, int64_t tap) {
  return (size_t)((o * shape.planes + plane) * shape.taps + tap);
}

static size_t mirrored_place(MirrorShape shape, int64_t o, int64_t plane, int64_t tap) {
  return (size_t)(((shape.taps - 1 - tap) * shape.out_channels + o) * shape.planes + plane);
}

void fold_mirror_weights(MirrorShape shape, const void *plain, void *mirrored, size_t size) {
  size_t run = (size_t)shape.in_channels * size;
  for (int64_t o = 0; o < shape.out_channels; o++)
    for (int64_t plane = 0; plane < shape.planes; plane++)
      for (int64_t tap = 0; tap < shape.taps; tap++)
        memcpy((char *)mirrored + mirrored_place(shape, o, plane, tap) * run,
               (const char *)plain + plain_place(shape, o, plane, tap) * run, run);
}

void fold_unmirror_weights(MirrorShape shape, const void *mirrored, void *plain, size_t size) {
  size_t run = (size_t)shape.in_channels * size;
  for (int64_t o = 0; o < shape.out_channels; o++)
    for (int64_t plane = 0; plane < shape.planes; plane++)
      for (int64_t tap = 0; tap < shape.taps; tap++)
        memcpy((char *)plain + plain_place(shape, o, plane, tap) * run,
               (const char *)mirrored + mirrored_place(shape, o, plane, tap) * run, run);
}
