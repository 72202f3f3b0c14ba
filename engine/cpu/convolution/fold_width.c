#include "engine/cpu/convolution/fold_width.h"

#include <math.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "engine/cpu/cpu.h"

/* Pixels that the windows of a row cover, including those beyond its ends. */
static int64_t padded_pixels(const WidthFold *fold) {
  return (fold->positions - 1) * fold->step + fold->kernel_width;
}

/* Space for the windows or the whole row, whichever is longer. */
static size_t row_bytes(const WidthFold *fold) {
  int64_t windows = padded_pixels(fold), row = fold->offset + fold->width;
  return memory_align((size_t)((windows > row ? windows : row) * fold->channels) * sizeof(float));
}

size_t width_fold_workspace(const WidthFold *fold) {
  return row_bytes(fold) * (size_t)fold->threads;
}

static char *own_row(const WidthFold *fold, void *workspace) {
#ifdef _OPENMP
  return (char *)workspace + row_bytes(fold) * (size_t)omp_get_thread_num();
#else
  (void)fold;
  return workspace;
#endif
}

void width_unfold(const WidthFold *fold, const void *narrow, void *folded, DType dtype,
                  void *workspace) {
  size_t pixel = (size_t)fold->channels * dtype_size(dtype);
  size_t window = (size_t)fold->kernel_width * pixel, step = (size_t)fold->step * pixel;
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

void finish_output_row(int64_t width, int64_t channels, const float *bias, Activation activation,
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

void width_fold(const WidthFold *fold, const float *folded, const float *bias,
                Activation activation, float slope, void *narrow, DType dtype, void *workspace) {
  int64_t window = fold->kernel_width * fold->channels, step = fold->step * fold->channels;
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
    finish_output_row(fold->width, fold->channels, bias, activation, slope, row);
    cpu_store(narrow, dtype, r * count, row, count);
  }
}

/* The position of a run of input channels in either order of the weights, counted in runs. */
static size_t plain_place(MirrorShape shape, int64_t o, int64_t plane, int64_t column) {
  return (size_t)((o * shape.planes + plane) * shape.kernel_width + column);
}

static size_t mirrored_place(MirrorShape shape, int64_t o, int64_t plane, int64_t column) {
  return (size_t)(((shape.kernel_width - 1 - column) * shape.out_channels + o) * shape.planes +
                  plane);
}

void mirror_weights(MirrorShape shape, const void *plain, void *mirrored, size_t size) {
  size_t run = (size_t)shape.in_channels * size;
  for (int64_t o = 0; o < shape.out_channels; o++)
    for (int64_t plane = 0; plane < shape.planes; plane++)
      for (int64_t column = 0; column < shape.kernel_width; column++)
        memcpy((char *)mirrored + mirrored_place(shape, o, plane, column) * run,
               (const char *)plain + plain_place(shape, o, plane, column) * run, run);
}

void unmirror_weights(MirrorShape shape, const void *mirrored, void *plain, size_t size) {
  size_t run = (size_t)shape.in_channels * size;
  for (int64_t o = 0; o < shape.out_channels; o++)
    for (int64_t plane = 0; plane < shape.planes; plane++)
      for (int64_t column = 0; column < shape.kernel_width; column++)
        memcpy((char *)plain + plain_place(shape, o, plane, column) * run,
               (const char *)mirrored + mirrored_place(shape, o, plane, column) * run, run);
}
