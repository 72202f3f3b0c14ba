#include "trainer/eval/ssim.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>

#include "base/memory.h"

enum { SSIM_WINDOW = 11 };
static const double SSIM_DEVIATION = 1.5;
static const double SSIM_C1 = (0.01 * 255) * (0.01 * 255), SSIM_C2 = (0.03 * 255) * (0.03 * 255);

/* Windowed means of a, b, aa, bb, ab, computed along rows, then along columns. */
enum { MOMENTS = 5 };

typedef struct Window {
  int size;
  double weights[SSIM_WINDOW];
} Window;

static Window gaussian_window(int size) {
  Window window = {.size = size};
  double sum = 0;
  for (int i = 0; i < size; i++) {
    double x = i - (size - 1) / 2.0;
    sum += window.weights[i] = exp(-x * x / (2 * SSIM_DEVIATION * SSIM_DEVIATION));
  }
  for (int i = 0; i < size; i++) window.weights[i] /= sum;
  return window;
}

/* Computes moments [columns][MOMENTS] of one row of both planes. */
static void filter_row(const double *a, const double *b, const Window *window, int columns,
                       double *moments) {
  for (int x = 0; x < columns; x++) {
    double sums[MOMENTS] = {0};
    for (int k = 0; k < window->size; k++) {
      double p = a[x + k], q = b[x + k], weight = window->weights[k];
      sums[0] += weight * p;
      sums[1] += weight * q;
      sums[2] += weight * p * p;
      sums[3] += weight * q * q;
      sums[4] += weight * p * q;
    }
    for (int m = 0; m < MOMENTS; m++) moments[MOMENTS * x + m] = sums[m];
  }
}

/* A weighted mean in the making. */
typedef struct Pool {
  double sum, weights;
} Pool;
typedef void PoolWindow(const double m[MOMENTS], Pool *pool);

static void pool_similarity(const double m[MOMENTS], Pool *pool) {
  double variance_a = m[2] - m[0] * m[0], variance_b = m[3] - m[1] * m[1];
  double covariance = m[4] - m[0] * m[1];
  pool->sum += (2 * m[0] * m[1] + SSIM_C1) * (2 * covariance + SSIM_C2) /
               ((m[0] * m[0] + m[1] * m[1] + SSIM_C1) * (variance_a + variance_b + SSIM_C2));
  pool->weights += 1;
}

static void pool_structure(const double m[MOMENTS], Pool *pool) {
  double deviation_a = sqrt(fmax(m[2] - m[0] * m[0], 0));
  double deviation_b = sqrt(fmax(m[3] - m[1] * m[1], 0));
  if (deviation_a < 1) return;
  pool->sum += (m[4] - m[0] * m[1]) / fmax(deviation_b, 1); /* correlation times weight */
  pool->weights += deviation_a;
}

static Pool pool_windows(const double *a, const double *b, int height, int width, PoolWindow *add) {
  Window across = gaussian_window(width < SSIM_WINDOW ? width : SSIM_WINDOW);
  Window down = gaussian_window(height < SSIM_WINDOW ? height : SSIM_WINDOW);
  int columns = width - across.size + 1, rows = height - down.size + 1;
  size_t row_length = (size_t)columns * MOMENTS;
  double *filtered = mem_new((size_t)height * row_length, sizeof *filtered);
  Pool pool = {0};
  for (int y = 0; y < height; y++)
    filter_row(a + (size_t)y * (size_t)width, b + (size_t)y * (size_t)width, &across, columns,
               filtered + (size_t)y * row_length);
  for (int y = 0; y < rows; y++)
    for (int x = 0; x < columns; x++) {
      double m[MOMENTS] = {0};
      for (int k = 0; k < down.size; k++)
        for (int i = 0; i < MOMENTS; i++)
          m[i] +=
              down.weights[k] * filtered[(size_t)(y + k) * row_length + (size_t)(x * MOMENTS + i)];
      add(m, &pool);
    }
  free(filtered);
  return pool;
}

double ssim_planes(const double *a, const double *b, int height, int width) {
  Pool pool = pool_windows(a, b, height, width, pool_similarity);
  return pool.sum / pool.weights;
}

double structure_planes(const double *a, const double *b, int height, int width) {
  Pool pool = pool_windows(a, b, height, width, pool_structure);
  return pool.weights > 0 ? pool.sum / pool.weights : 1;
}
