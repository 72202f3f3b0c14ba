#include "data/flow/optical_flow.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "base/bulk_memory.h"
#include "base/memory.h"
#include "data/flow/optical_flow_internal.h"

enum { MIN_SIDE = 32 }; /* of the coarsest level */
static const double FIT_DEVIATION = 1.2;

static size_t pixels_of(const Level *level) {
  return (size_t)level->height * (size_t)level->width;
}

/* Fixed point: the luma weights times 2^15. */
void flow_grey(const uint8_t *rgb, int64_t pixels, uint8_t *grey) {
  for (int64_t i = 0; i < pixels; i++)
    grey[i] = (uint8_t)((9798 * rgb[3 * i] + 19235 * rgb[3 * i + 1] + 3735 * rgb[3 * i + 2] +
                         (1 << 14)) >>
                        15);
}

/* --- Coarse to fine --------------------------------------------------------------------------- */

void flow_between(Flow *flow, const FlowPyramid *a, const FlowPyramid *b, float *out) {
  float *coarse = flow->coarse, *fine = flow->fine;
  for (int i = flow->levels - 1; i >= 0; i--) {
    const Level *level = &flow->level[i];
    float *displacement = i > 0 ? fine : out;
    if (i == flow->levels - 1)
      memset(displacement, 0, 2 * pixels_of(level) * sizeof *displacement);
    else
      flow_resample(coarse, &flow->level[i + 1], displacement, level, 2, 2);
    flow_refine(flow, level, a->level[i], b->level[i], displacement);
    fine = coarse;
    coarse = displacement;
  }
}

/* --- Setup ------------------------------------------------------------------------------------ */

/* lrint rounds halves to even, as OpenCV does. */
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
  size_t pixels = (size_t)height * (size_t)width,
         bands = ((size_t)height + BAND_ROWS - 1) / BAND_ROWS;
  size_t row = (size_t)width + (size_t)(2 * FIT_RADIUS);
  size_t sums = ((size_t)width + (size_t)(2 * WINDOW_RADIUS) + 2) * EQUATION_VALUES;
  static const char what[] = "optical flow";
  *out = NULL;
  flow->threads = threads > 0 ? threads : default_threads();
  set_levels(flow, height, width);
  set_fit(flow);
  TRY(mem_bulk(pixels * sizeof(float), what, (void **)&flow->smoothed_rows, error));
  TRY(mem_bulk(pixels * sizeof(float), what, (void **)&flow->smoothed, error));
  TRY(mem_bulk(pixels * sizeof(float), what, (void **)&flow->resampled, error));
  TRY(mem_bulk(bands * 3 * row * sizeof(float), what, (void **)&flow->fit_rows, error));
  TRY(mem_bulk(bands * sums * sizeof(double), what, (void **)&flow->window_sums, error));
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
  free(flow->smoothed_rows);
  free(flow->smoothed);
  free(flow->resampled);
  free(flow->fit_rows);
  free(flow->window_sums);
  free(flow->equations);
  free(flow->coarse);
  free(flow->fine);
  free(flow);
}

Status flow_pyramid_new(const Flow *flow, FlowPyramid **out, Error *error) {
  Status status = OK;
  FlowPyramid *pyramid = mem_new(1, sizeof *pyramid);
  *out = NULL;
  pyramid->levels = flow->levels;
  for (int i = 0; i < flow->levels; i++)
    TRY(mem_bulk(pixels_of(&flow->level[i]) * sizeof(Quadratic), "a polynomial expansion",
                 (void **)&pyramid->level[i], error));
  *out = pyramid;
  pyramid = NULL;
done:
  flow_pyramid_free(pyramid);
  return status;
}

void flow_pyramid_free(FlowPyramid *pyramid) {
  if (!pyramid) return;
  for (int i = 0; i < pyramid->levels; i++) free(pyramid->level[i]);
  free(pyramid);
}
