/* The polynomial expansion of an image on every pyramid level. */
#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "data/flow/optical_flow_internal.h"

/* --- Smoothing and sampling ------------------------------------------------------------------- */

/* Reflects an index at the first and last pixel until it is inside. */
static int reflect(int i, int size) {
  if (size == 1) return 0;
  while (i < 0 || i >= size) i = i < 0 ? -i : 2 * (size - 1) - i;
  return i;
}

static void smooth_along_row(const Level *level, int width, const uint8_t *row, float *out) {
  int radius = level->smooth_radius;
  const float *weights = level->smooth;
  for (int x = 0; x < width; x++) out[x] = weights[0] * (float)row[x];
  for (int k = 1; k <= radius; k++) {
    int inner = width - k > k ? width - k : k; /* from here on the right neighbour is reflected */
    for (int x = 0; x < k && x < width; x++)
      out[x] += weights[k] * (float)(row[reflect(x - k, width)] + row[reflect(x + k, width)]);
    for (int x = k; x < inner && x < width; x++)
      out[x] += weights[k] * (float)(row[x - k] + row[x + k]);
    for (int x = inner; x < width; x++)
      out[x] += weights[k] * (float)(row[reflect(x - k, width)] + row[reflect(x + k, width)]);
  }
}

static void smooth_down_columns(const Level *level, int height, int width, const float *from, int y,
                                float *out) {
  const float *row = from + (size_t)y * (size_t)width;
  for (int x = 0; x < width; x++) out[x] = level->smooth[0] * row[x];
  for (int k = 1; k <= level->smooth_radius; k++) {
    const float *above = from + (size_t)reflect(y - k, height) * (size_t)width;
    const float *below = from + (size_t)reflect(y + k, height) * (size_t)width;
    for (int x = 0; x < width; x++) out[x] += level->smooth[k] * (above[x] + below[x]);
  }
}

static void smooth(const Flow *flow, const Level *level, const uint8_t *grey, float *out) {
  int height = flow->level[0].height, width = flow->level[0].width, threads = flow->threads;
  (void)threads; /* unused without OpenMP */
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int y = 0; y < height; y++)
    smooth_along_row(level, width, grey + (size_t)y * (size_t)width,
                     flow->smoothed_rows + (size_t)y * (size_t)width);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int y = 0; y < height; y++)
    smooth_down_columns(level, height, width, flow->smoothed_rows, y,
                        out + (size_t)y * (size_t)width);
}

/* The two input pixels on either side of an output pixel's centre, along one axis. */
typedef struct Neighbours {
  int first, second;
  float fraction; /* weight of the second */
} Neighbours;

static Neighbours neighbours_of(int i, int from, int to) {
  double centre = (i + 0.5) * ((double)from / to) - 0.5;
  float at = (float)centre;
  int first = (int)floorf(at);
  return (Neighbours){flow_clamp(first, from), flow_clamp(first + 1, from), at - floorf(at)};
}

void flow_resample(const float *from, const Level *from_level, float *to, const Level *to_level,
                   int channels, float scale) {
  Neighbours *columns = mem_new((size_t)to_level->width, sizeof *columns);
  for (int x = 0; x < to_level->width; x++)
    columns[x] = neighbours_of(x, from_level->width, to_level->width);
  size_t length = (size_t)from_level->width * (size_t)channels;
  for (int y = 0; y < to_level->height; y++) {
    Neighbours rows = neighbours_of(y, from_level->height, to_level->height);
    const float *above = from + (size_t)rows.first * length;
    const float *below = from + (size_t)rows.second * length;
    for (int x = 0; x < to_level->width; x++)
      for (int c = 0; c < channels; c++) {
        int left = columns[x].first * channels + c, right = columns[x].second * channels + c;
        float fraction = columns[x].fraction;
        float upper = above[left] * (1 - fraction) + above[right] * fraction;
        float lower = below[left] * (1 - fraction) + below[right] * fraction;
        *to++ = scale * (upper * (1 - rows.fraction) + lower * rows.fraction);
      }
  }
  free(columns);
}

/* --- Expansion -------------------------------------------------------------------------------- */

/* Sums of one row over the weighted neighbours at distance k above and below: of f, k f, k^2 f. */
typedef struct FitRows {
  float *of[3]; /* [FIT_RADIUS + width + FIT_RADIUS] each */
} FitRows;

static FitRows fit_rows(const Flow *flow, int band) {
  size_t length = (size_t)flow->level[0].width + (size_t)(2 * FIT_RADIUS);
  FitRows rows;
  for (int i = 0; i < 3; i++) rows.of[i] = flow->fit_rows + ((size_t)(3 * band + i)) * length;
  return rows;
}

/* Sums along columns; pixels outside the image are those at its edge. */
static void fit_along_columns(const Flow *flow, const float *image, const Level *level, int y,
                              const FitRows *rows) {
  int width = level->width;
  float *sum = rows->of[0] + FIT_RADIUS, *first = rows->of[1] + FIT_RADIUS;
  float *second = rows->of[2] + FIT_RADIUS;
  const float *row = image + (size_t)y * (size_t)width;
  for (int x = 0; x < width; x++) {
    sum[x] = row[x] * flow->fit[0];
    first[x] = second[x] = 0;
  }
  for (int k = 1; k <= FIT_RADIUS; k++) {
    float weight = flow->fit[k], linear = (float)k * weight, square = (float)(k * k) * weight;
    const float *above = image + (size_t)flow_clamp(y - k, level->height) * (size_t)width;
    const float *below = image + (size_t)flow_clamp(y + k, level->height) * (size_t)width;
    for (int x = 0; x < width; x++) {
      float both = above[x] + below[x];
      sum[x] += weight * both;
      first[x] += linear * (below[x] - above[x]);
      second[x] += square * both;
    }
  }
  for (int i = 0; i < 3; i++)
    for (int k = 1; k <= FIT_RADIUS; k++) {
      float *values = rows->of[i] + FIT_RADIUS;
      values[-k] = values[0];
      values[width - 1 + k] = values[width - 1];
    }
}

/* Completes the weighted least-squares fit in closed form. Under the Gaussian weight the basis 1,
 * x, y, x^2, y^2, xy is orthogonal except for 1, x^2 and y^2, which become orthogonal after
 * subtracting the second moment from the squares; so no matrix has to be inverted (section 3 of the
 * paper). */
static void fit_along_row(const Flow *flow, const FitRows *rows, int width, Quadratic *out) {
  const float *sum = rows->of[0] + FIT_RADIUS, *first = rows->of[1] + FIT_RADIUS;
  const float *second = rows->of[2] + FIT_RADIUS;
  double moment = flow->fit_second, of_square = 1 / (flow->fit_fourth - moment * moment);
  double of_linear = 1 / moment, of_product = 1 / (moment * moment);
  for (int x = 0; x < width; x++) {
    double f = sum[x] * flow->fit[0], fy = first[x] * flow->fit[0], fyy = second[x] * flow->fit[0];
    double fx = 0, fxx = 0, fxy = 0;
    for (int k = 1; k <= FIT_RADIUS; k++) {
      double weight = flow->fit[k], both = (double)sum[x + k] + sum[x - k];
      f += weight * both;
      fx += k * weight * (sum[x + k] - sum[x - k]);
      fxx += k * k * weight * both;
      fy += weight * (first[x + k] + first[x - k]);
      fxy += k * weight * (first[x + k] - first[x - k]);
      fyy += weight * (second[x + k] + second[x - k]);
    }
    out[x] = (Quadratic){.x = (float)(fx * of_linear),
                         .y = (float)(fy * of_linear),
                         .xx = (float)((fxx - moment * f) * of_square),
                         .yy = (float)((fyy - moment * f) * of_square),
                         .xy = (float)(fxy * of_product)};
  }
}

static void expand_band(const Flow *flow, const float *image, const Level *level, int band,
                        Quadratic *out) {
  FitRows rows = fit_rows(flow, band);
  int end = (band + 1) * BAND_ROWS < level->height ? (band + 1) * BAND_ROWS : level->height;
  for (int y = band * BAND_ROWS; y < end; y++) {
    fit_along_columns(flow, image, level, y, &rows);
    fit_along_row(flow, &rows, level->width, out + (size_t)y * (size_t)level->width);
  }
}

void flow_expand(Flow *flow, const uint8_t *grey, FlowPyramid *out) {
  int threads = flow->threads;
  (void)threads;
  for (int i = 0; i < flow->levels; i++) {
    const Level *level = &flow->level[i];
    int bands = (level->height + BAND_ROWS - 1) / BAND_ROWS;
    smooth(flow, level, grey, flow->smoothed);
    if (i > 0) flow_resample(flow->smoothed, &flow->level[0], flow->resampled, level, 1, 1);
    const float *image = i > 0 ? flow->resampled : flow->smoothed;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int band = 0; band < bands; band++) expand_band(flow, image, level, band, out->level[i]);
  }
}
