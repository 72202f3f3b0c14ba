/* The displacement of every pixel on one pyramid level, from the polynomial expansions of both
 * images (section 4 of the paper). */
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "data/flow/optical_flow_internal.h"

enum {
  ITERATIONS = 3,
  WINDOW = 2 * WINDOW_RADIUS + 1,
  BORDER = 5,
};
static const double REGULARIZATION = 1e-3; /* of the determinant: no motion in flat regions */

/* The weight of an equation near the border. Where a side is too short for two borders, OpenCV
 * treats their intersection as the border. */
static float border_weight(int i, int size) {
  static const float WEIGHTS[BORDER] = {0.14f, 0.14f, 0.4472f, 0.4472f, 0.4472f};
  float weight = i < BORDER ? WEIGHTS[i] : 1;
  return i >= size - BORDER ? weight * WEIGHTS[size - 1 - i] : weight;
}

static bool in_border(int i, int size) {
  bool low = i < BORDER, high = i >= size - BORDER;
  return size < 2 * BORDER ? low && high : low || high;
}

static float blend(const float weights[4], float a, float b, float c, float d) {
  return weights[0] * a + weights[1] * b + weights[2] * c + weights[3] * d;
}

/* Interpolates bilinearly at (x, y), which lies before the last column and row. */
static Quadratic interpolate(const Quadratic *image, int width, float x, float y) {
  int left = (int)x, top = (int)y;
  float right = x - (float)left, low = y - (float)top;
  const Quadratic *p = image + (size_t)top * (size_t)width + left, *q = p + width;
  float weights[4] = {(1 - right) * (1 - low), right * (1 - low), (1 - right) * low, right * low};
  return (Quadratic){.x = blend(weights, p[0].x, p[1].x, q[0].x, q[1].x),
                     .y = blend(weights, p[0].y, p[1].y, q[0].y, q[1].y),
                     .xx = blend(weights, p[0].xx, p[1].xx, q[0].xx, q[1].xx),
                     .yy = blend(weights, p[0].yy, p[1].yy, q[0].yy, q[1].yy),
                     .xy = blend(weights, p[0].xy, p[1].xy, q[0].xy, q[1].xy)};
}

/* The normal equations A^T A d = A^T b of A d = b: A is half the mean of both images' second
 * derivatives, b half the difference of their first derivatives plus A times the displacement so
 * far. `b` NULL: the pixel leaves the second image. */
static Equations equations_of(const Quadratic *a, const Quadratic *b, const float d[2],
                              float weight) {
  float xx = a->xx, yy = a->yy, xy = a->xy * 0.5f, x = a->x * 0.5f, y = a->y * 0.5f;
  if (b) {
    xx = (xx + b->xx) * 0.5f;
    yy = (yy + b->yy) * 0.5f;
    xy = (a->xy + b->xy) * 0.25f;
    x = (a->x - b->x) * 0.5f;
    y = (a->y - b->y) * 0.5f;
  }
  x = (x + (xy * d[1] + xx * d[0])) * weight;
  y = (y + (yy * d[1] + xy * d[0])) * weight;
  xx *= weight;
  yy *= weight;
  xy *= weight;
  return (Equations){.xx = xx * xx + xy * xy,
                     .xy = (xx + yy) * xy,
                     .yy = yy * yy + xy * xy,
                     .x = xx * x + xy * y,
                     .y = xy * x + yy * y};
}

static void build_equations(const Flow *flow, const Level *level, const Quadratic *a,
                            const Quadratic *b, const float *displacement, int y) {
  int width = level->width, height = level->height;
  size_t start = (size_t)y * (size_t)width;
  bool edge_row = in_border(y, height);
  for (int x = 0; x < width; x++) {
    const float *d = displacement + 2 * (start + (size_t)x);
    float at_x = (float)x + d[0], at_y = (float)y + d[1], weight = 1;
    /* OpenCV counts the last row and column as outside. */
    bool inside = at_x >= 0 && at_y >= 0 && at_x < (float)(width - 1) && at_y < (float)(height - 1);
    if (edge_row || in_border(x, width))
      weight = border_weight(x, width) * border_weight(y, height);
    Quadratic there;
    if (inside) there = interpolate(b, width, at_x, at_y);
    flow->equations[start + (size_t)x] =
        equations_of(&a[start + (size_t)x], inside ? &there : NULL, d, weight);
  }
}

/* Adds `times` a row of equations; rows outside the image are those at its edge. */
static void add_row(const Flow *flow, const Level *level, int y, double times, double *sums) {
  size_t length = (size_t)level->width * EQUATION_VALUES;
  const float *row =
      &flow->equations[(size_t)flow_clamp(y, level->height) * (size_t)level->width].xx;
  for (size_t i = 0; i < length; i++) sums[i] += times * row[i];
}

/* Pads both ends of a row of sums with the outermost ones. */
static void pad_row(double *sums, int width) {
  const double *last = sums + (ptrdiff_t)EQUATION_VALUES * (width - 1);
  for (int x = 1; x <= WINDOW_RADIUS + 1; x++)
    for (int i = 0; i < EQUATION_VALUES; i++) {
      sums[i - EQUATION_VALUES * x] = sums[i];
      sums[EQUATION_VALUES * (width - 1 + x) + i] = last[i];
    }
}

/* Slides the window along a row of padded column sums and solves the averaged equations. */
static void solve_row(const double *sums, int width, float *out) {
  double window[EQUATION_VALUES] = {0}, weight = 1.0 / (WINDOW * WINDOW);
  for (int x = -WINDOW_RADIUS - 1; x < WINDOW_RADIUS; x++)
    for (int i = 0; i < EQUATION_VALUES; i++) window[i] += sums[EQUATION_VALUES * x + i];
  for (int x = 0; x < width; x++) {
    const double *enters = sums + (ptrdiff_t)EQUATION_VALUES * (x + WINDOW_RADIUS);
    const double *leaves = sums + (ptrdiff_t)EQUATION_VALUES * (x - WINDOW_RADIUS - 1);
    double mean[EQUATION_VALUES];
    for (int i = 0; i < EQUATION_VALUES; i++) {
      window[i] += enters[i] - leaves[i];
      mean[i] = window[i] * weight;
    }
    double scale = 1 / (mean[0] * mean[2] - mean[1] * mean[1] + REGULARIZATION);
    out[2 * x] = (float)((mean[2] * mean[3] - mean[1] * mean[4]) * scale);
    out[2 * x + 1] = (float)((mean[0] * mean[4] - mean[1] * mean[3]) * scale);
  }
}

static void solve_band(const Flow *flow, const Level *level, int band, float *displacement) {
  int width = level->width, begin = band * BAND_ROWS;
  int end = begin + BAND_ROWS < level->height ? begin + BAND_ROWS : level->height;
  size_t pad = (size_t)(WINDOW_RADIUS + 1) * EQUATION_VALUES;
  size_t length = (size_t)width * EQUATION_VALUES;
  double *sums = flow->window_sums + (size_t)band * (length + 2 * pad) + pad;
  memset(sums, 0, length * sizeof *sums);
  for (int y = begin - WINDOW_RADIUS; y < begin + WINDOW_RADIUS; y++)
    add_row(flow, level, y, 1, sums);
  for (int y = begin; y < end; y++) {
    add_row(flow, level, y + WINDOW_RADIUS, 1, sums);
    pad_row(sums, width);
    solve_row(sums, width, displacement + 2 * (size_t)y * (size_t)width);
    add_row(flow, level, y - WINDOW_RADIUS, -1, sums);
  }
}

void flow_refine(const Flow *flow, const Level *level, const Quadratic *a, const Quadratic *b,
                 float *displacement) {
  int threads = flow->threads, bands = (level->height + BAND_ROWS - 1) / BAND_ROWS;
  (void)threads;
  for (int i = 0; i < ITERATIONS; i++) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int y = 0; y < level->height; y++) build_equations(flow, level, a, b, displacement, y);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int band = 0; band < bands; band++) solve_band(flow, level, band, displacement);
  }
}
