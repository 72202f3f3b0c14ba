/* RMS norm (Zhang, Sennrich 2019, "Root Mean Square Layer Normalization"): one pass over memory, a
 * pixel's channels at a time.
 *
 *   r = 1 / sqrt(mean(x^2) + eps), n = x r, y = activation(gain n + bias) + residual
 *   g = dy activation'(gain n + bias), dgain = sum g n, dbias = sum g, h = g gain
 *   dx = r (h - n mean(h n)) */
#include <math.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "engine/cpu/norm.h"

/* Pixels summed in f32 before the sum is added to a double one. */
enum { BLOCK = 128 };

/* A thread's part of the workspace: rows of doubles, then of floats. */
enum { DOUBLE_ROWS = 2, FLOAT_ROWS = 6 };
typedef struct Space {
  double *dgain, *dbias;
  float *block_dgain, *block_dbias, *x, *other, *out, *h;
} Space;

static size_t space_bytes(const Norm *norm) {
  return (size_t)norm_row(norm) * (DOUBLE_ROWS * sizeof(double) + FLOAT_ROWS * sizeof(float));
}

size_t norm_pixels_workspace(const Norm *norm) {
  return space_bytes(norm) * (size_t)norm->threads;
}

static Space space_of(const Norm *norm, void *workspace, int thread) {
  int64_t row = norm_row(norm);
  char *own = (char *)workspace + space_bytes(norm) * (size_t)thread;
  double *doubles = (double *)(void *)own;
  float *floats = (float *)(void *)(doubles + DOUBLE_ROWS * row);
  return (Space){doubles,          doubles + row,    floats,           floats + row,
                 floats + 2 * row, floats + 3 * row, floats + 4 * row, floats + 5 * row};
}

static Space own_space(const Norm *norm, void *workspace) {
#ifdef _OPENMP
  return space_of(norm, workspace, omp_get_thread_num());
#else
  return space_of(norm, workspace, 0);
#endif
}

static inline float inverse_rms(const float *x, int64_t channels, float epsilon) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < channels; c++) sum += x[c] * x[c];
  return 1.0f / sqrtf(sum / (float)channels + epsilon);
}

static inline __attribute__((always_inline)) void forward_pixels(const Norm *norm,
                                                                 const Space *space, int64_t first,
                                                                 int64_t last, int64_t channels) {
  const float *gain = norm->gain, *bias = norm->bias;
  const float slope = norm->slope;
  for (int64_t p = first; p < last; p++) {
    const float *x = norm_read(&norm->x, p * channels, channels, space->x);
    float *y = norm_place(&norm->y, p * channels, space->out);
    float r = inverse_rms(x, channels, norm->epsilon);
    if (norm->residual.data) {
      const float *residual = norm_read(&norm->residual, p * channels, channels, space->other);
#pragma omp simd
      for (int64_t c = 0; c < channels; c++) {
        float v = gain[c] * (x[c] * r) + bias[c];
        y[c] = (v > 0 ? v : slope * v) + residual[c];
      }
    } else {
#pragma omp simd
      for (int64_t c = 0; c < channels; c++) {
        float v = gain[c] * (x[c] * r) + bias[c];
        y[c] = v > 0 ? v : slope * v;
      }
    }
    norm_write(&norm->y, p * channels, channels, y);
  }
}

static inline __attribute__((always_inline)) void backward_pixels(const Norm *norm,
                                                                  const Space *space, int64_t first,
                                                                  int64_t last, int64_t channels) {
  const float *gain = norm->gain, *bias = norm->bias;
  const float slope = norm->slope;
  float *dgain = space->block_dgain, *dbias = space->block_dbias, *h = space->h;
  for (int64_t p = first; p < last; p++) {
    const float *x = norm_read(&norm->x, p * channels, channels, space->x);
    const float *dy = norm_read(&norm->dy, p * channels, channels, space->other);
    float *dx = norm_place(&norm->dx, p * channels, space->out);
    float r = inverse_rms(x, channels, norm->epsilon), along = 0;
#pragma omp simd reduction(+ : along)
    for (int64_t c = 0; c < channels; c++) {
      float n = x[c] * r;
      float g = gain[c] * n + bias[c] > 0 ? dy[c] : slope * dy[c];
      dgain[c] += g * n;
      dbias[c] += g;
      h[c] = g * gain[c];
      along += h[c] * n;
    }
    float back = along * r / (float)channels;
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) dx[c] = r * (h[c] - x[c] * back);
    norm_write(&norm->dx, p * channels, channels, dx);
  }
}

/* The usual numbers of channels as constants, for which the compiler unrolls the loops. */
#define WITH_CHANNELS(call, ...)                                                                   \
  switch (norm->channels) {                                                                        \
  case 16:                                                                                         \
    call(__VA_ARGS__, 16);                                                                         \
    break;                                                                                         \
  case 32:                                                                                         \
    call(__VA_ARGS__, 32);                                                                         \
    break;                                                                                         \
  case 64:                                                                                         \
    call(__VA_ARGS__, 64);                                                                         \
    break;                                                                                         \
  default:                                                                                         \
    call(__VA_ARGS__, norm->channels);                                                             \
    break;                                                                                         \
  }

static int64_t block_count(const Norm *norm) {
  return (norm->frames * norm->pixels + BLOCK - 1) / BLOCK;
}

static int64_t block_end(const Norm *norm, int64_t block) {
  int64_t end = (block + 1) * BLOCK, all = norm->frames * norm->pixels;
  return end < all ? end : all;
}

void norm_pixels_forward(const Norm *norm, void *workspace) {
#pragma omp parallel num_threads(norm->threads)
  {
    Space space = own_space(norm, workspace);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < block_count(norm); b++)
      WITH_CHANNELS(forward_pixels, norm, &space, b * BLOCK, block_end(norm, b))
  }
}

static void add_block(const Norm *norm, const Space *space) {
  for (int64_t c = 0; c < norm->channels; c++) {
    space->dgain[c] += (double)space->block_dgain[c];
    space->dbias[c] += (double)space->block_dbias[c];
  }
}

static void add_threads(const Norm *norm, void *workspace) {
  for (int64_t c = 0; c < norm->channels; c++) {
    double dgain = 0, dbias = 0;
    for (int thread = 0; thread < norm->threads; thread++) {
      Space space = space_of(norm, workspace, thread);
      dgain += space.dgain[c];
      dbias += space.dbias[c];
    }
    if (norm->dgain) norm->dgain[c] = (float)dgain;
    if (norm->dbias) norm->dbias[c] = (float)dbias;
  }
}

void norm_pixels_backward(const Norm *norm, void *workspace) {
  memset(workspace, 0, norm_pixels_workspace(norm));
#pragma omp parallel num_threads(norm->threads)
  {
    Space space = own_space(norm, workspace);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < block_count(norm); b++) {
      memset(space.block_dgain, 0, (size_t)norm_row(norm) * sizeof(float));
      memset(space.block_dbias, 0, (size_t)norm_row(norm) * sizeof(float));
      WITH_CHANNELS(backward_pixels, norm, &space, b * BLOCK, block_end(norm, b))
      add_block(norm, &space);
    }
  }
  add_threads(norm, workspace);
}
