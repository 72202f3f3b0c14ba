#include "data/loader/edge_smoothing.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/memory.h"
#include "data/flow/optical_flow.h"

enum {
  LOW_THRESHOLD = 100, /* of |dx| + |dy| */
  HIGH_THRESHOLD = 200,
  RADIUS = 2, /* of dilation and blur */
};

/* tan(22.5 degrees) in fixed point with 15 fractional bits. */
enum { TAN_BITS = 15, TAN_22_5 = 13573 };

typedef enum EdgeState { EDGE_NONE, EDGE_WEAK, EDGE_STRONG } EdgeState;

/* Arrays with a border of one pixel have (height + 2) rows of (width + 2) values. */
struct EdgeSmoother {
  int height, width;
  uint8_t *grey;      /* [height,width] */
  int16_t *dx, *dy;   /* [height,width] */
  int32_t *magnitude; /* with a border of zeros */
  uint8_t *state;     /* EdgeState, with a border of EDGE_NONE */
  int32_t *found;     /* stack of indices into `state`: strong pixels whose neighbours are unseen */
  uint8_t *rows, *region; /* [height,width] the edges dilated along rows; dilated along both */
  uint16_t *sums; /* [width+4,3] a row blurred along the columns, RADIUS pixels more at the ends */
  uint8_t *blurred; /* [width,3] the row blurred along both */
};

static size_t row_of(const EdgeSmoother *s) {
  return (size_t)s->width + 2;
}

/* Index of a pixel in an array with a border. */
static size_t bordered(const EdgeSmoother *s, int y, int x) {
  return ((size_t)y + 1) * row_of(s) + (size_t)x + 1;
}

Status edge_smoother_new(int height, int width, EdgeSmoother **out, Error *error) {
  Status status = OK;
  static const char what[] = "edge smoothing";
  size_t pixels = (size_t)height * (size_t)width;
  size_t padded = ((size_t)height + 2) * ((size_t)width + 2);
  EdgeSmoother *s = mem_new(1, sizeof *s);
  *out = NULL;
  s->height = height;
  s->width = width;
  TRY(mem_bulk(pixels, what, (void **)&s->grey, error));
  TRY(mem_bulk(pixels * sizeof *s->dx, what, (void **)&s->dx, error));
  TRY(mem_bulk(pixels * sizeof *s->dy, what, (void **)&s->dy, error));
  TRY(mem_bulk(padded * sizeof *s->magnitude, what, (void **)&s->magnitude, error));
  TRY(mem_bulk(padded, what, (void **)&s->state, error));
  TRY(mem_bulk(pixels * sizeof *s->found, what, (void **)&s->found, error));
  TRY(mem_bulk(pixels, what, (void **)&s->rows, error));
  TRY(mem_bulk(pixels, what, (void **)&s->region, error));
  TRY(mem_bulk(3 * ((size_t)width + 2 * RADIUS) * sizeof *s->sums, what, (void **)&s->sums, error));
  TRY(mem_bulk(3 * (size_t)width, what, (void **)&s->blurred, error));
  *out = s;
  s = NULL;
done:
  edge_smoother_free(s);
  return status;
}

void edge_smoother_free(EdgeSmoother *s) {
  if (!s) return;
  free(s->grey);
  free(s->dx);
  free(s->dy);
  free(s->magnitude);
  free(s->state);
  free(s->found);
  free(s->rows);
  free(s->region);
  free(s->sums);
  free(s->blurred);
  free(s);
}

/* --- Canny ------------------------------------------------------------------------------------ */

static int clamp(int i, int size) {
  return i < 0 ? 0 : i >= size ? size - 1 : i;
}

/* Sobel derivatives, the border repeated, and their magnitude |dx| + |dy|. */
static void compute_gradient(EdgeSmoother *s) {
  for (int y = 0; y < s->height; y++) {
    const uint8_t *above = s->grey + (size_t)clamp(y - 1, s->height) * (size_t)s->width;
    const uint8_t *here = s->grey + (size_t)y * (size_t)s->width;
    const uint8_t *below = s->grey + (size_t)clamp(y + 1, s->height) * (size_t)s->width;
    int16_t *dx = s->dx + (size_t)y * (size_t)s->width, *dy = s->dy + (size_t)y * (size_t)s->width;
    int32_t *magnitude = s->magnitude + bordered(s, y, 0);
    for (int x = 0; x < s->width; x++) {
      int l = clamp(x - 1, s->width), r = clamp(x + 1, s->width);
      int across = above[r] - above[l] + 2 * (here[r] - here[l]) + below[r] - below[l];
      int down = below[l] - above[l] + 2 * (below[x] - above[x]) + below[r] - above[r];
      dx[x] = (int16_t)across;
      dy[x] = (int16_t)down;
      magnitude[x] = abs(across) + abs(down);
    }
  }
}

/* True if the magnitude is a maximum along the gradient, whose direction is rounded to 45 degrees.
 * Of two equal pixels side by side, the right or lower one is suppressed in horizontal and vertical
 * directions, as in OpenCV. */
static bool is_maximum(const EdgeSmoother *s, int dx, int dy, size_t at) {
  const int32_t *m = s->magnitude + at;
  ptrdiff_t row = (ptrdiff_t)row_of(s);
  int64_t x = abs(dx), y = (int64_t)abs(dy) << TAN_BITS;
  int64_t low = x * TAN_22_5, high = low + (x << (TAN_BITS + 1)); /* tan 67.5 = tan 22.5 + 2 */
  if (y < low) return m[0] > m[-1] && m[0] >= m[1];
  if (y > high) return m[0] > m[-row] && m[0] >= m[row];
  ptrdiff_t diagonal = (dx ^ dy) < 0 ? -1 : 1;
  return m[0] > m[-row - diagonal] && m[0] > m[row + diagonal];
}

/* Marks maxima as weak or strong by the thresholds. Returns the number of strong ones, in `found`.
 */
static size_t find_maxima(EdgeSmoother *s) {
  size_t count = 0;
  for (int y = 0; y < s->height; y++)
    for (int x = 0; x < s->width; x++) {
      size_t pixel = (size_t)y * (size_t)s->width + (size_t)x, at = bordered(s, y, x);
      EdgeState state = EDGE_NONE;
      if (s->magnitude[at] > LOW_THRESHOLD && is_maximum(s, s->dx[pixel], s->dy[pixel], at))
        state = s->magnitude[at] > HIGH_THRESHOLD ? EDGE_STRONG : EDGE_WEAK;
      s->state[at] = (uint8_t)state;
      if (state == EDGE_STRONG) s->found[count++] = (int32_t)at;
    }
  return count;
}

/* Hysteresis: weak pixels that touch a strong one, also diagonally, become strong. */
static void follow_edges(EdgeSmoother *s, size_t count) {
  ptrdiff_t row = (ptrdiff_t)row_of(s);
  const ptrdiff_t around[8] = {-row - 1, -row, -row + 1, -1, 1, row - 1, row, row + 1};
  while (count > 0) {
    int32_t at = s->found[--count];
    for (int i = 0; i < 8; i++) {
      uint8_t *neighbour = s->state + at + around[i];
      if (*neighbour != EDGE_WEAK) continue;
      *neighbour = EDGE_STRONG;
      s->found[count++] = (int32_t)(neighbour - s->state);
    }
  }
}

/* --- Region and blur -------------------------------------------------------------------------- */

/* Dilates the strong pixels by RADIUS, first along rows, then along columns. */
static void dilate(EdgeSmoother *s) {
  size_t width = (size_t)s->width;
  memset(s->rows, 0, (size_t)s->height * width);
  memset(s->region, 0, (size_t)s->height * width);
  for (int y = 0; y < s->height; y++)
    for (int x = 0; x < s->width; x++) {
      if (s->state[bordered(s, y, x)] != EDGE_STRONG) continue;
      int first = clamp(x - RADIUS, s->width), last = clamp(x + RADIUS, s->width);
      memset(s->rows + (size_t)y * width + (size_t)first, 1, (size_t)(last - first + 1));
    }
  for (int y = 0; y < s->height; y++)
    for (int k = clamp(y - RADIUS, s->height); k <= clamp(y + RADIUS, s->height); k++)
      for (size_t x = 0; x < width; x++)
        s->region[(size_t)y * width + x] |= s->rows[(size_t)k * width + x];
}

/* Mirrors a position outside of the image at the centre of the border pixel. */
static int reflect(int i, int size) {
  if (size == 1) return 0;
  while (i < 0 || i >= size) i = i < 0 ? -i : 2 * (size - 1) - i;
  return i;
}

/* Blurs row y along the columns into s->sums, and repeats that at both ends by reflection. */
static void blur_columns(EdgeSmoother *s, const uint8_t *rgb, int y) {
  const uint8_t *rows[2 * RADIUS + 1];
  size_t values = 3 * (size_t)s->width;
  uint16_t *sums = s->sums + 3 * RADIUS;
  for (int j = -RADIUS; j <= RADIUS; j++)
    rows[j + RADIUS] = rgb + (size_t)reflect(y + j, s->height) * values;
  for (size_t i = 0; i < values; i++)
    sums[i] =
        (uint16_t)(rows[0][i] + 4 * rows[1][i] + 6 * rows[2][i] + 4 * rows[3][i] + rows[4][i]);
  for (int k = 1; k <= RADIUS; k++)
    for (int c = 0; c < 3; c++) {
      sums[-3 * k + c] = sums[3 * reflect(-k, s->width) + c];
      sums[3 * (s->width - 1 + k) + c] = sums[3 * reflect(s->width - 1 + k, s->width) + c];
    }
}

/* Replaces the pixels of the region in row y of `out` by the blurred ones. The weights of both
 * directions add up to 256. */
static void blur_row(EdgeSmoother *s, const uint8_t *rgb, int y, uint8_t *out) {
  size_t values = 3 * (size_t)s->width;
  const uint8_t *region = s->region + (size_t)y * (size_t)s->width;
  const uint16_t *sums = s->sums + 3 * RADIUS;
  if (!memchr(region, 1, (size_t)s->width)) return;
  blur_columns(s, rgb, y);
  for (ptrdiff_t i = 0; i < (ptrdiff_t)values; i++) {
    int sum = sums[i - 6] + 4 * sums[i - 3] + 6 * sums[i] + 4 * sums[i + 3] + sums[i + 6];
    s->blurred[i] = (uint8_t)((sum + 128) >> 8);
  }
  for (size_t x = 0; x < (size_t)s->width; x++)
    if (region[x]) memcpy(out + (size_t)y * values + 3 * x, s->blurred + 3 * x, 3);
}

void edge_smoother_apply(EdgeSmoother *s, const uint8_t *rgb, uint8_t *out) {
  size_t pixels = (size_t)s->height * (size_t)s->width;
  flow_grey(rgb, (int64_t)pixels, s->grey);
  compute_gradient(s);
  follow_edges(s, find_maxima(s));
  dilate(s);
  memcpy(out, rgb, 3 * pixels);
  for (int y = 0; y < s->height; y++) blur_row(s, rgb, y, out);
}
