#include "trainer/eval/bicubic_resize.h"

#include <math.h>
#include <stdlib.h>

#include "base/bulk_memory.h"

enum { CHANNELS = 3 };
static const double KERNEL_RADIUS = 2;

/* The input pixels of each output pixel along one axis. */
typedef struct Taps {
  int capacity;    /* of each output pixel's weights */
  int *first;      /* [outputs] */
  int *count;      /* [outputs] */
  double *weights; /* [outputs, capacity] */
} Taps;

static double cubic(double x) {
  const double a = -0.5;
  x = fabs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

static void taps_free(Taps *taps) {
  free(taps->first);
  free(taps->count);
  free(taps->weights);
}

static void fill_taps(Taps *taps, int output, int inputs, double scale) {
  double spread = fmax(scale, 1), radius = KERNEL_RADIUS * spread, sum = 0;
  double center = (output + 0.5) * scale;
  int first = (int)fmax(center - radius + 0.5, 0);
  int end = (int)fmin(center + radius + 0.5, inputs);
  double *weights = taps->weights + (int64_t)output * taps->capacity;
  for (int i = first; i < end; i++) {
    weights[i - first] = cubic((i - center + 0.5) / spread);
    sum += weights[i - first];
  }
  for (int i = first; i < end; i++) weights[i - first] /= sum;
  taps->first[output] = first;
  taps->count[output] = end - first;
}

static Status taps_new(int inputs, int outputs, Taps *taps, Error *error) {
  Status status = OK;
  double scale = (double)inputs / outputs;
  size_t count = (size_t)outputs;
  *taps = (Taps){.capacity = 2 * (int)ceil(KERNEL_RADIUS * fmax(scale, 1)) + 1};
  TRY(mem_bulk(count * sizeof(int), "resize positions", (void **)&taps->first, error));
  TRY(mem_bulk(count * sizeof(int), "resize positions", (void **)&taps->count, error));
  TRY(mem_bulk(count * (size_t)taps->capacity * sizeof(double), "resize weights",
               (void **)&taps->weights, error));
  for (int i = 0; i < outputs; i++) fill_taps(taps, i, inputs, scale);
done:
  return status;
}

/* One row of pixels: `out` [side,3] from u8 [width,3]. */
static void resize_row(const Taps *taps, const uint8_t *row, int side, float *out) {
  for (int x = 0; x < side; x++) {
    const double *weights = taps->weights + (int64_t)x * taps->capacity;
    const uint8_t *pixels = row + (int64_t)taps->first[x] * CHANNELS;
    for (int c = 0; c < CHANNELS; c++) {
      double sum = 0;
      for (int i = 0; i < taps->count[x]; i++) sum += weights[i] * pixels[i * CHANNELS + c];
      out[x * CHANNELS + c] = (float)sum;
    }
  }
}

/* Row y of the result from the resized rows [height,side,3]. */
static void resize_columns(const Taps *taps, const float *rows, int y, int side, float *out) {
  const double *weights = taps->weights + (int64_t)y * taps->capacity;
  int64_t length = (int64_t)side * CHANNELS;
  for (int64_t j = 0; j < length; j++) {
    const float *column = rows + taps->first[y] * length + j;
    double sum = 0;
    for (int i = 0; i < taps->count[y]; i++) sum += weights[i] * (double)column[i * length];
    out[j] = fminf(fmaxf((float)sum, 0), 255);
  }
}

Status bicubic_resize(const uint8_t *rgb, int height, int width, int side, float *out,
                      Error *error) {
  Status status = OK;
  Taps across = {0}, down = {0};
  int64_t length = (int64_t)side * CHANNELS;
  float *rows = NULL;
  TRY(taps_new(width, side, &across, error));
  TRY(taps_new(height, side, &down, error));
  TRY(mem_bulk((size_t)height * (size_t)length * sizeof *rows, "resized rows", (void **)&rows,
               error));
  for (int y = 0; y < height; y++)
    resize_row(&across, rgb + (int64_t)y * width * CHANNELS, side, rows + y * length);
  for (int y = 0; y < side; y++) resize_columns(&down, rows, y, side, out + y * length);
done:
  taps_free(&across);
  taps_free(&down);
  free(rows);
  return status;
}
