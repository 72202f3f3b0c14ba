/* A picture expanded in quadratics, level by level. */
#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "trainer/eval/optical_flow_internal.h"

/* --- Smoothing and sampling ------------------------------------------------------------------- */

/* Mirrored at the outermost pixel, as often as it takes. */
static int mirror(int i, int size) {
  if (size == 1) return 0;
  while (i < 0 || i >= size) i = i < 0 ? -i : 2 * (size - 1) - i;
  return i;
}

static void smooth_row_across(const Level *level, int width, const uint8_t *row, float *out) {
  int radius = level->smooth_radius;
  const float *weights = level->smooth;
  for (int x = 0; x < width; x++) out[x] = weights[0] * (float)row[x];
  for (int k = 1; k <= radius; k++) {
    int inner = width - k > k ? width - k : k; /* from here on the right neighbour is mirrored */
    for (int x = 0; x < k && x < width; x++)
      out[x] += weights[k] * (float)(row[mirror(x - k, width)] + row[mirror(x + k, width)]);
    for (int x = k; x < inner && x < width; x++)
      out[x] += weights[k] * (float)(row[x - k] + row[x + k]);
    for (int x = inner; x < width; x++)
      out[x] += weights[k] * (float)(row[mirror(x - k, width)] + row[mirror(x + k, width)]);
  }
}

static void smooth_row_down(const Level *level, int height, int width, const float *from, int y,
                            float *out) {
  const float *row = from + (size_t)y * (size_t)width;
  for (int x = 0; x < width; x++) out[x] = level->smooth[0] * row[x];
  for (int k = 1; k <= level->smooth_radius; k++) {
    const float *above = from + (size_t)mirror(y - k, height) * (size_t)width;
    const float *below = from + (size_t)mirror(y + k, height) * (size_t)width;
    for (int x = 0; x < width; x++) out[x] += level->smooth[k] * (above[x] + below[x]);
  }
}

static void smooth(const Flow *flow, const Level *level, const uint8_t *grey, float *out) {
  int height = flow->level[0].height, width = flow->level[0].width, threads = flow->threads;
  (void)threads; /* where the compiler has no OpenMP */
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int y = 0; y < height; y++)
    smooth_row_across(level, width, grey + (size_t)y * (size_t)width,
                      flow->across + (size_t)y * (size_t)width);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int y = 0; y < height; y++)
    smooth_row_down(level, height, width, flow->across, y, out + (size_t)y * (size_t)width);
}

/* Between which two pixels of an axis an output pixel's centre lies. */
typedef struct Place {
  int first, second;
  float part; /* of the second */
} Place;

static Place place_of(int i, int from, int to) {
  double centre = (i + 0.5) * ((double)from / to) - 0.5;
  float at = (float)centre;
  int first = (int)floorf(at);
  return (Place){flow_clamp(first, from), flow_clamp(first + 1, from), at - floorf(at)};
}

void flow_sample(const float *from, const Level *of, float *to, const Level *onto, int channels,
                 float scale) {
  Place *across = mem_new((size_t)onto->width, sizeof *across);
  for (int x = 0; x < onto->width; x++) across[x] = place_of(x, of->width, onto->width);
  size_t length = (size_t)of->width * (size_t)channels;
  for (int y = 0; y < onto->height; y++) {
    Place down = place_of(y, of->height, onto->height);
    const float *above = from + (size_t)down.first * length;
    const float *below = from + (size_t)down.second * length;
    for (int x = 0; x < onto->width; x++)
      for (int c = 0; c < channels; c++) {
        int left = across[x].first * channels + c, right = across[x].second * channels + c;
        float part = across[x].part;
        float upper = above[left] * (1 - part) + above[right] * part;
        float lower = below[left] * (1 - part) + below[right] * part;
        *to++ = scale * (upper * (1 - down.part) + lower * down.part);
      }
  }
  free(across);
}

/* --- Expansion -------------------------------------------------------------------------------- */

/* One row's sums over the weighted neighbours above and below: of f, k f and k^2 f, k the distance.
 */
typedef struct FitRows {
  float *of[3]; /* [FIT_RADIUS + width + FIT_RADIUS] each */
} FitRows;

static FitRows fit_rows(const Flow *flow, int band) {
  size_t length = (size_t)flow->level[0].width + (size_t)(2 * FIT_RADIUS);
  FitRows rows;
  for (int i = 0; i < 3; i++) rows.of[i] = flow->rows + ((size_t)(3 * band + i)) * length;
  return rows;
}

/* The sums down, at the borders over the outermost pixels again. */
static void fit_down(const Flow *flow, const float *picture, const Level *level, int y,
                     const FitRows *rows) {
  int width = level->width;
  float *sum = rows->of[0] + FIT_RADIUS, *first = rows->of[1] + FIT_RADIUS;
  float *second = rows->of[2] + FIT_RADIUS;
  const float *row = picture + (size_t)y * (size_t)width;
  for (int x = 0; x < width; x++) {
    sum[x] = row[x] * flow->fit[0];
    first[x] = second[x] = 0;
  }
  for (int k = 1; k <= FIT_RADIUS; k++) {
    float weight = flow->fit[k], linear = (float)k * weight, square = (float)(k * k) * weight;
    const float *above = picture + (size_t)flow_clamp(y - k, level->height) * (size_t)width;
    const float *below = picture + (size_t)flow_clamp(y + k, level->height) * (size_t)width;
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

/* The fit's normal equations fall apart: of 1, x, y, x^2, y^2, xy only 1, x^2 and y^2 are not
 * orthogonal to each other under the Gaussian, and those are once its second moment is taken off
 * the squares. So there is nothing to invert (section 3 of the paper, written out). */
static void fit_across(const Flow *flow, const FitRows *rows, int width, Quadratic *out) {
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

static void expand_band(const Flow *flow, const float *picture, const Level *level, int band,
                        Quadratic *out) {
  FitRows rows = fit_rows(flow, band);
  int end = (band + 1) * BAND < level->height ? (band + 1) * BAND : level->height;
  for (int y = band * BAND; y < end; y++) {
    fit_down(flow, picture, level, y, &rows);
    fit_across(flow, &rows, level->width, out + (size_t)y * (size_t)level->width);
  }
}

void flow_expand(Flow *flow, const uint8_t *grey, FlowPicture *out) {
  int threads = flow->threads;
  (void)threads;
  for (int i = 0; i < flow->levels; i++) {
    const Level *level = &flow->level[i];
    int bands = (level->height + BAND - 1) / BAND;
    smooth(flow, level, grey, flow->smoothed);
    if (i > 0) flow_sample(flow->smoothed, &flow->level[0], flow->sampled, level, 1, 1);
    const float *picture = i > 0 ? flow->sampled : flow->smoothed;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int band = 0; band < bands; band++) expand_band(flow, picture, level, band, out->level[i]);
  }
}
