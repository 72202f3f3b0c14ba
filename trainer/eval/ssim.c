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

static double similarity(const double m[MOMENTS], SsimTerm term) {
  double variance_a = m[2] - m[0] * m[0], variance_b = m[3] - m[1] * m[1];
  double covariance = m[4] - m[0] * m[1];
  if (term == SSIM_STRUCTURE) {
    double deviations = sqrt(fmax(variance_a, 0) * fmax(variance_b, 0));
    return (covariance + SSIM_C2 / 2) / (deviations + SSIM_C2 / 2);
  }
  return (2 * m[0] * m[1] + SSIM_C1) * (2 * covariance + SSIM_C2) /
         ((m[0] * m[0] + m[1] * m[1] + SSIM_C1) * (variance_a + variance_b + SSIM_C2));
}

double ssim_planes(const double *a, const double *b, int height, int width, SsimTerm term) {
  Window across = gaussian_window(width < SSIM_WINDOW ? width : SSIM_WINDOW);
  Window down = gaussian_window(height < SSIM_WINDOW ? height : SSIM_WINDOW);
  int columns = width - across.size + 1, rows = height - down.size + 1;
  size_t row_length = (size_t)columns * MOMENTS;
  double *filtered = mem_new((size_t)height * row_length, sizeof *filtered);
  for (int y = 0; y < height; y++)
    filter_row(a + (size_t)y * (size_t)width, b + (size_t)y * (size_t)width, &across, columns,
               filtered + (size_t)y * row_length);
  double sum = 0;
  for (int y = 0; y < rows; y++)
    for (int x = 0; x < columns; x++) {
      double m[MOMENTS] = {0};
      for (int k = 0; k < down.size; k++)
        for (int i = 0; i < MOMENTS; i++)
          m[i] +=
              down.weights[k] * filtered[(size_t)(y + k) * row_length + (size_t)(x * MOMENTS + i)];
      sum += similarity(m, term);
    }
  free(filtered);
  return sum / ((double)rows * columns);
}
