#include "trainer/eval/optical_flow.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "base/memory.h"
#include "trainer/eval/optical_flow_internal.h"

enum {
  MIN_SIDE = 32, /* of the coarsest level */
  ITERATIONS = 3,
  WINDOW_RADIUS = 7,
  WINDOW = 2 * WINDOW_RADIUS + 1,
  BORDER = 5,
  EQUATION_VALUES = sizeof(Equations) / sizeof(float),
};
static const double FIT_DEVIATION = 1.2;
static const double REGULARIZATION = 1e-3; /* of the determinant: still where nothing can be seen */

static size_t pixels_of(const Level *level) {
  return (size_t)level->height * (size_t)level->width;
}

/* --- Displacement ----------------------------------------------------------------------------- */

/* How far equations near the border count. Where a side is too short for both borders, OpenCV takes
 * what lies in both of them for the border; its last row and column are where `a` sees nothing of
 * `b`. */
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

/* At (x, y), which is at least one pixel from the last column and row. */
static Quadratic quadratic_at(const Quadratic *picture, int width, float x, float y) {
  int left = (int)x, top = (int)y;
  float right = x - (float)left, low = y - (float)top;
  const Quadratic *p = picture + (size_t)top * (size_t)width + left, *q = p + width;
  float weights[4] = {(1 - right) * (1 - low), right * (1 - low), (1 - right) * low, right * low};
  return (Quadratic){.x = blend(weights, p[0].x, p[1].x, q[0].x, q[1].x),
                     .y = blend(weights, p[0].y, p[1].y, q[0].y, q[1].y),
                     .xx = blend(weights, p[0].xx, p[1].xx, q[0].xx, q[1].xx),
                     .yy = blend(weights, p[0].yy, p[1].yy, q[0].yy, q[1].yy),
                     .xy = blend(weights, p[0].xy, p[1].xy, q[0].xy, q[1].xy)};
}

/* A d = b, with A the mean of both pictures' second derivatives (halved, as are b's), and b what
 * their first derivatives leave at the displacement so far, made A^T A d = A^T b. */
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

static void set_up_row(const Flow *flow, const Level *level, const Quadratic *a, const Quadratic *b,
                       const float *displacement, int y) {
  int width = level->width, height = level->height;
  size_t start = (size_t)y * (size_t)width;
  bool edge_row = in_border(y, height);
  for (int x = 0; x < width; x++) {
    const float *d = displacement + 2 * (start + (size_t)x);
    float at_x = (float)x + d[0], at_y = (float)y + d[1], weight = 1;
    bool seen = at_x >= 0 && at_y >= 0 && at_x < (float)(width - 1) && at_y < (float)(height - 1);
    if (edge_row || in_border(x, width))
      weight = border_weight(x, width) * border_weight(y, height);
    Quadratic there;
    if (seen) there = quadratic_at(b, width, at_x, at_y);
    flow->equations[start + (size_t)x] =
        equations_of(&a[start + (size_t)x], seen ? &there : NULL, d, weight);
  }
}

/* Adds a row of equations, clamped to the picture, `times` over. */
static void add_row(const Flow *flow, const Level *level, int y, double times, double *sums) {
  size_t length = (size_t)level->width * EQUATION_VALUES;
  const float *row =
      &flow->equations[(size_t)flow_clamp(y, level->height) * (size_t)level->width].xx;
  for (size_t i = 0; i < length; i++) sums[i] += times * row[i];
}

/* The ends of a row of sums are padded with the outermost ones. */
static void pad_row(double *sums, int width) {
  const double *last = sums + (ptrdiff_t)EQUATION_VALUES * (width - 1);
  for (int x = 1; x <= WINDOW_RADIUS + 1; x++)
    for (int i = 0; i < EQUATION_VALUES; i++) {
      sums[i - EQUATION_VALUES * x] = sums[i];
      sums[EQUATION_VALUES * (width - 1 + x) + i] = last[i];
    }
}

/* The window moves along a row of padded column sums. */
static void solve_row(const double *sums, int width, float *out) {
  double window[EQUATION_VALUES] = {0}, share = 1.0 / (WINDOW * WINDOW);
  for (int x = -WINDOW_RADIUS - 1; x < WINDOW_RADIUS; x++)
    for (int i = 0; i < EQUATION_VALUES; i++) window[i] += sums[EQUATION_VALUES * x + i];
  for (int x = 0; x < width; x++) {
    const double *enters = sums + (ptrdiff_t)EQUATION_VALUES * (x + WINDOW_RADIUS);
    const double *leaves = sums + (ptrdiff_t)EQUATION_VALUES * (x - WINDOW_RADIUS - 1);
    double mean[EQUATION_VALUES];
    for (int i = 0; i < EQUATION_VALUES; i++) {
      window[i] += enters[i] - leaves[i];
      mean[i] = window[i] * share;
    }
    double scale = 1 / (mean[0] * mean[2] - mean[1] * mean[1] + REGULARIZATION);
    out[2 * x] = (float)((mean[2] * mean[3] - mean[1] * mean[4]) * scale);
    out[2 * x + 1] = (float)((mean[0] * mean[4] - mean[1] * mean[3]) * scale);
  }
}

static void solve_band(const Flow *flow, const Level *level, int band, float *displacement) {
  int width = level->width, begin = band * BAND;
  int end = begin + BAND < level->height ? begin + BAND : level->height;
  size_t pad = (size_t)(WINDOW_RADIUS + 1) * EQUATION_VALUES;
  size_t length = (size_t)width * EQUATION_VALUES;
  double *sums = flow->sums + (size_t)band * (length + 2 * pad) + pad;
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

static void refine(const Flow *flow, const Level *level, const Quadratic *a, const Quadratic *b,
                   float *displacement) {
  int threads = flow->threads, bands = (level->height + BAND - 1) / BAND;
  (void)threads;
  for (int i = 0; i < ITERATIONS; i++) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int y = 0; y < level->height; y++) set_up_row(flow, level, a, b, displacement, y);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int band = 0; band < bands; band++) solve_band(flow, level, band, displacement);
  }
}

void flow_between(Flow *flow, const FlowPicture *a, const FlowPicture *b, float *out) {
  float *coarse = flow->coarse, *fine = flow->fine;
  for (int i = flow->levels - 1; i >= 0; i--) {
    const Level *level = &flow->level[i];
    float *displacement = i > 0 ? fine : out;
    if (i == flow->levels - 1)
      memset(displacement, 0, 2 * pixels_of(level) * sizeof *displacement);
    else
      flow_sample(coarse, &flow->level[i + 1], displacement, level, 2, 2);
    refine(flow, level, a->level[i], b->level[i], displacement);
    fine = coarse;
    coarse = displacement;
  }
}

/* --- Making ----------------------------------------------------------------------------------- */

/* Halves are rounded to the even neighbour. */
static void set_level(Level *level, int height, int width, int halvings) {
  double scale = 1.0 / (1 << halvings), deviation = (1 / scale - 1) * 0.5, sum;
  level->height = (int)lrint(height * scale);
  level->width = (int)lrint(width * scale);
  int size = (int)lrint(deviation * 5) | 1;
  level->smooth_radius = size < 3 ? 1 : size / 2;
  if (halvings == 0) deviation = 1 / sqrt(2 * log(2)); /* 1/4, 1/2, 1/4 */
  sum = 0;
  for (int k = 0; k <= level->smooth_radius; k++)
    sum += (k > 0 ? 2 : 1) * exp(-k * k / (2 * deviation * deviation));
  for (int k = 0; k <= level->smooth_radius; k++)
    level->smooth[k] = (float)(exp(-k * k / (2 * deviation * deviation)) / sum);
}

static void set_levels(Flow *flow, int height, int width) {
  double scale = 1;
  do {
    set_level(&flow->level[flow->levels], height, width, flow->levels);
    flow->levels++;
    scale /= 2;
  } while (flow->levels <= HALVINGS && height * scale >= MIN_SIDE && width * scale >= MIN_SIDE);
}

static void set_fit(Flow *flow) {
  double sum = 0;
  for (int k = -FIT_RADIUS; k <= FIT_RADIUS; k++)
    sum += exp(-k * k / (2 * FIT_DEVIATION * FIT_DEVIATION));
  for (int k = 0; k <= FIT_RADIUS; k++)
    flow->fit[k] = (float)(exp(-k * k / (2 * FIT_DEVIATION * FIT_DEVIATION)) / sum);
  for (int k = 1; k <= FIT_RADIUS; k++) {
    flow->fit_second += 2.0 * flow->fit[k] * k * k;
    flow->fit_fourth += 2.0 * flow->fit[k] * k * k * k * k;
  }
}

static int default_threads(void) {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

Status flow_new(int height, int width, int threads, Flow **out, Error *error) {
  Status status = OK;
  Flow *flow = mem_new(1, sizeof *flow);
  size_t pixels = (size_t)height * (size_t)width, bands = ((size_t)height + BAND - 1) / BAND;
  size_t row = (size_t)width + (size_t)(2 * FIT_RADIUS);
  size_t sums = ((size_t)width + (size_t)(2 * WINDOW_RADIUS) + 2) * EQUATION_VALUES;
  static const char what[] = "optical flow";
  *out = NULL;
  flow->threads = threads > 0 ? threads : default_threads();
  set_levels(flow, height, width);
  set_fit(flow);
  TRY(mem_bulk(pixels * sizeof(float), what, (void **)&flow->across, error));
  TRY(mem_bulk(pixels * sizeof(float), what, (void **)&flow->smoothed, error));
  TRY(mem_bulk(pixels * sizeof(float), what, (void **)&flow->sampled, error));
  TRY(mem_bulk(bands * 3 * row * sizeof(float), what, (void **)&flow->rows, error));
  TRY(mem_bulk(bands * sums * sizeof(double), what, (void **)&flow->sums, error));
  TRY(mem_bulk(pixels * sizeof(Equations), what, (void **)&flow->equations, error));
  TRY(mem_bulk(pixels * 2 * sizeof(float), what, (void **)&flow->coarse, error));
  TRY(mem_bulk(pixels * 2 * sizeof(float), what, (void **)&flow->fine, error));
  *out = flow;
  flow = NULL;
done:
  flow_free(flow);
  return status;
}

void flow_free(Flow *flow) {
  if (!flow) return;
  free(flow->across);
  free(flow->smoothed);
  free(flow->sampled);
  free(flow->rows);
  free(flow->sums);
  free(flow->equations);
  free(flow->coarse);
  free(flow->fine);
  free(flow);
}

Status flow_picture_new(const Flow *flow, FlowPicture **out, Error *error) {
  Status status = OK;
  FlowPicture *picture = mem_new(1, sizeof *picture);
  *out = NULL;
  picture->levels = flow->levels;
  for (int i = 0; i < flow->levels; i++)
    TRY(mem_bulk(pixels_of(&flow->level[i]) * sizeof(Quadratic), "a picture's expansion",
                 (void **)&picture->level[i], error));
  *out = picture;
  picture = NULL;
done:
  flow_picture_free(picture);
  return status;
}

void flow_picture_free(FlowPicture *picture) {
  if (!picture) return;
  for (int i = 0; i < picture->levels; i++) free(picture->level[i]);
  free(picture);
}
