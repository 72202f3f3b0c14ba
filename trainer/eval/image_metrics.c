#include "trainer/eval/image_metrics.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/memory.h"
#include "data/flow/visibility.h"

enum { SSIM_WINDOW = 11 };
static const double SSIM_DEVIATION = 1.5;
static const double SSIM_C1 = (0.01 * 255) * (0.01 * 255), SSIM_C2 = (0.03 * 255) * (0.03 * 255);

static double luma(const uint8_t *rgb) {
  return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2];
}

double image_metrics_luma_mse(const uint8_t *a, const uint8_t *b, int64_t pixels) {
  double sum = 0;
  for (int64_t i = 0; i < pixels; i++) {
    double difference = luma(a + 3 * i) - luma(b + 3 * i);
    sum += difference * difference;
  }
  return pixels > 0 ? sum / (double)pixels : 0;
}

double image_metrics_psnr(double mse) {
  return mse > 0 ? 10 * log10(255.0 * 255.0 / mse) : 100;
}

double image_metrics_temporal_error(const uint8_t *a_before, const uint8_t *a,
                                    const uint8_t *b_before, const uint8_t *b, int64_t pixels) {
  double sum = 0;
  for (int64_t i = 0; i < 3 * pixels; i += 3)
    sum += fabs((luma(a + i) - luma(a_before + i)) - (luma(b + i) - luma(b_before + i)));
  return pixels > 0 ? sum / (double)pixels : 0;
}

/* --- SSIM ------------------------------------------------------------------------------------- */

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

/* Computes moments [columns][MOMENTS] of one row of both images. */
static void filter_row(const uint8_t *a, const uint8_t *b, const Window *window, int columns,
                       double *moments) {
  for (int x = 0; x < columns; x++) {
    double sums[MOMENTS] = {0};
    for (int k = 0; k < window->size; k++) {
      double p = luma(a + 3 * (x + k)), q = luma(b + 3 * (x + k)), weight = window->weights[k];
      sums[0] += weight * p;
      sums[1] += weight * q;
      sums[2] += weight * p * p;
      sums[3] += weight * q * q;
      sums[4] += weight * p * q;
    }
    for (int m = 0; m < MOMENTS; m++) moments[MOMENTS * x + m] = sums[m];
  }
}

static double ssim_of(const double m[MOMENTS]) {
  double variance_a = m[2] - m[0] * m[0], variance_b = m[3] - m[1] * m[1];
  double covariance = m[4] - m[0] * m[1];
  return (2 * m[0] * m[1] + SSIM_C1) * (2 * covariance + SSIM_C2) /
         ((m[0] * m[0] + m[1] * m[1] + SSIM_C1) * (variance_a + variance_b + SSIM_C2));
}

double image_metrics_ssim(const uint8_t *a, const uint8_t *b, int height, int width) {
  Window across = gaussian_window(width < SSIM_WINDOW ? width : SSIM_WINDOW);
  Window down = gaussian_window(height < SSIM_WINDOW ? height : SSIM_WINDOW);
  int columns = width - across.size + 1, rows = height - down.size + 1;
  size_t row_length = (size_t)columns * MOMENTS;
  double *filtered = mem_new((size_t)height * row_length, sizeof *filtered);
  for (int y = 0; y < height; y++)
    filter_row(a + (size_t)y * (size_t)width * 3, b + (size_t)y * (size_t)width * 3, &across,
               columns, filtered + (size_t)y * row_length);
  double sum = 0;
  for (int y = 0; y < rows; y++)
    for (int x = 0; x < columns; x++) {
      double m[MOMENTS] = {0};
      for (int k = 0; k < down.size; k++)
        for (int i = 0; i < MOMENTS; i++)
          m[i] +=
              down.weights[k] * filtered[(size_t)(y + k) * row_length + (size_t)(x * MOMENTS + i)];
      sum += ssim_of(m);
    }
  free(filtered);
  return sum / ((double)rows * columns);
}

/* --- Motion ----------------------------------------------------------------------------------- */

double image_metrics_endpoint_error(const float *a, const float *b, int64_t pixels) {
  double sum = 0;
  for (int64_t i = 0; i < 2 * pixels; i += 2) {
    double dx = (double)a[i] - b[i], dy = (double)a[i + 1] - b[i + 1];
    sum += sqrt(dx * dx + dy * dy);
  }
  return pixels > 0 ? sum / (double)pixels : 0;
}

double image_metrics_warp_error(const uint8_t *frame, const uint8_t *next, const float *forward,
                                const uint8_t *visible, int height, int width) {
  double sum = 0;
  int64_t count = 0;
  for (int y = 0; y < height; y++)
    for (int x = 0; x < width; x++) {
      size_t here = (size_t)y * (size_t)width + (size_t)x;
      if (!visible[here]) continue;
      FlowEndpoint there = flow_endpoint(forward, y, x, height, width);
      for (size_t c = 0; c < 3; c++) {
        double warped = 0;
        for (int i = 0; i < 4; i++) warped += there.weights[i] * next[3 * there.at[i] + c];
        sum += (warped - frame[3 * here + c]) * (warped - frame[3 * here + c]);
      }
      count += 3;
    }
  return count > 0 ? sum / (double)count / (255.0 * 255.0) : 0;
}
