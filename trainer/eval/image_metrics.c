#include "trainer/eval/image_metrics.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/memory.h"
#include "data/flow/visibility.h"
#include "trainer/eval/ssim.h"

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

double image_metrics_ssim(const uint8_t *a, const uint8_t *b, int height, int width) {
  size_t pixels = (size_t)height * (size_t)width;
  double *planes = mem_new(2 * pixels, sizeof *planes);
  for (size_t i = 0; i < pixels; i++) {
    planes[i] = luma(a + 3 * i);
    planes[pixels + i] = luma(b + 3 * i);
  }
  double ssim = ssim_planes(planes, planes + pixels, height, width);
  free(planes);
  return ssim;
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
