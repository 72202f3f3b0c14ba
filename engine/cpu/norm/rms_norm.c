/* RMS norm (Zhang, Sennrich 2019, "Root Mean Square Layer Normalization") in one pass over memory,
 * one pixel at a time.
 *
 *   r = 1 / sqrt(mean(x^2) + eps), n = x r, y = activation(gain n + bias) + residual
 *   g = dy activation'(gain n + bias), dgain = sum g n, dbias = sum g, h = g gain
 *   dx = r (h - n mean(h n)) */
#include <math.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "engine/backend/shared/norm.h"
#include "engine/cpu/norm/rms_norm.h"
#include "engine/cpu/simd.h"

/* Pixels whose gradients are summed in f32 before the sum is added to one in double. */
enum { BLOCK = 128 };

/* The part of the workspace of a thread: rows of doubles, rows of floats, blocks of pixels. */
enum { DOUBLE_ROWS = 2, FLOAT_ROWS = 6, PIXEL_BLOCKS = 2 };
typedef struct Space {
  double *dgain, *dbias;
  float *block_dgain, *block_dbias, *x, *other, *out, *h;
  float *gathered, *seen; /* BLOCK pixels each; used if dy is padded */
} Space;

static size_t space_bytes(const Norm *norm) {
  const bool gathers = norm->arguments.padded && norm->arguments.backward;
  const size_t blocks = gathers ? (size_t)PIXEL_BLOCKS * BLOCK * sizeof(float) : 0;
  return (size_t)norm_row(norm) *
         (DOUBLE_ROWS * sizeof(double) + FLOAT_ROWS * sizeof(float) + blocks);
}

size_t rms_norm_workspace(const Norm *norm) {
  return space_bytes(norm) * (size_t)norm->threads;
}

static Space space_of(const Norm *norm, void *workspace, int thread) {
  int64_t row = norm_row(norm);
  char *own = (char *)workspace + space_bytes(norm) * (size_t)thread;
  double *doubles = (double *)(void *)own;
  float *floats = (float *)(void *)(doubles + DOUBLE_ROWS * row);
  return (Space){doubles,          doubles + row,
                 floats,           floats + row,
                 floats + 2 * row, floats + 3 * row,
                 floats + 4 * row, floats + 5 * row,
                 floats + 6 * row, floats + (6 + BLOCK) * row};
}

static Space own_space(const Norm *norm, void *workspace) {
#ifdef _OPENMP
  return space_of(norm, workspace, omp_get_thread_num());
#else
  return space_of(norm, workspace, 0);
#endif
}

static inline float inverse_rms(const float *x, int64_t channels, float epsilon) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < channels; c++) sum += x[c] * x[c];
  return 1.0f / sqrtf(sum / (float)channels + epsilon);
}

static void forward_pixels(const Norm *norm, const Space *space, int64_t first, int64_t last) {
  const int64_t channels = norm->arguments.channels;
  const float *gain = norm->gain, *bias = norm->bias;
  const float slope = norm->arguments.slope;
  for (int64_t p = first; p < last; p++) {
    const float *x = norm_read(&norm->x, p * channels, channels, space->x);
    float *y = norm_place(&norm->y, p * channels, space->out);
    float r = inverse_rms(x, channels, norm->arguments.epsilon);
    if (norm->residual.data) {
      const float *residual = norm_read(&norm->residual, p * channels, channels, space->other);
#pragma omp simd
      for (int64_t c = 0; c < channels; c++) {
        y[c] = norm_value(x[c] * r, gain[c], bias[c], slope) + residual[c];
      }
    } else {
#pragma omp simd
      for (int64_t c = 0; c < channels; c++) {
        y[c] = norm_value(x[c] * r, gain[c], bias[c], slope);
      }
    }
    norm_write(&norm->y, p * channels, channels, y);
  }
}

static void backward_pixels(const Norm *norm, const Space *space, int64_t first, int64_t last) {
  const int64_t channels = norm->arguments.channels;
  const float *gain = norm->gain, *bias = norm->bias;
  const float slope = norm->arguments.slope;
  float *dgain = space->block_dgain, *dbias = space->block_dbias, *h = space->h;
  for (int64_t p = first; p < last; p++) {
    const float *x = norm_read(&norm->x, p * channels, channels, space->x);
    const float *dy = norm_read(&norm->dy, p * channels, channels, space->other);
    float *dx = norm_place(&norm->dx, p * channels, space->out);
    float r = inverse_rms(x, channels, norm->arguments.epsilon), along = 0;
#pragma omp simd reduction(+ : along)
    for (int64_t c = 0; c < channels; c++) {
      float n = x[c] * r;
      float g = norm_gradient(n, gain[c], bias[c], slope, dy[c]);
      dgain[c] += g * n;
      dbias[c] += g;
      h[c] = g * gain[c];
      along += h[c] * n;
    }
    float back = along * r / (float)channels;
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) dx[c] = r * (h[c] - x[c] * back);
    norm_write(&norm->dx, p * channels, channels, dx);
  }
}

/* --- 16, 32 or 64 channels: one, two or four vectors per pixel -------------------------------- */

/* Sixteen pixels at a time: their sums over the channels form one vector, and their dependency
 * chains of sum, root and division run in parallel. The result for a pixel does not depend on its
 * group. */
enum { GROUP = SIMD_WIDTH, MAX_VECTORS = 4 };

typedef uint16_t SimdHalf __attribute__((vector_size(32)));
typedef uint32_t SimdWord __attribute__((vector_size(64)));

SIMD_INLINE SimdFloat read_vector(const Tensor *tensor, int64_t first) {
  if (tensor->dtype == DTYPE_F32) return simd_load((const float *)tensor->data + first);
  SimdHalf half;
  memcpy(&half, (const uint16_t *)tensor->data + first, sizeof half);
  return (SimdFloat)(__builtin_convertvector(half, SimdWord) << 16);
}

/* The same results as bf16_from_f32. */
SIMD_INLINE SimdHalf round_to_bf16(SimdFloat value) {
  SimdWord bits = (SimdWord)value, high = bits >> 16;
  SimdWord rounded = (bits + 0x7fffu + (high & 1u)) >> 16;
  SimdWord nan = (SimdWord)((bits & 0x7fffffffu) > 0x7f800000u);
  return __builtin_convertvector((nan & (high | 0x40u)) | (~nan & rounded), SimdHalf);
}

SIMD_INLINE void write_vector(const Tensor *tensor, int64_t first, SimdFloat value) {
  if (tensor->dtype == DTYPE_F32) {
    simd_store((float *)tensor->data + first, value);
  } else {
    SimdHalf half = round_to_bf16(value);
    memcpy((uint16_t *)tensor->data + first, &half, sizeof half);
  }
}

/* Reads x and computes 1 / rms of each pixel. */
SIMD_INLINE void read_group(const Norm *norm, int64_t first, int count, int vectors,
                            SimdFloat x[GROUP][MAX_VECTORS], float r[GROUP]) {
  const int channels = vectors * SIMD_WIDTH;
  SimdFloat squares[GROUP] = {{0}};
  for (int p = 0; p < count; p++)
    for (int k = 0; k < vectors; k++) {
      x[p][k] = read_vector(&norm->x, (first + p) * channels + k * SIMD_WIDTH);
      squares[p] = simd_fma(x[p][k], x[p][k], squares[p]);
    }
  simd_store(r, simd_horizontal_sums(squares));
  for (int p = 0; p < GROUP; p++)
    r[p] = 1.0f / sqrtf(r[p] / (float)channels + norm->arguments.epsilon);
}

SIMD_INLINE void forward_group(const Norm *norm, int64_t first, int count, int vectors) {
  SimdFloat x[GROUP][MAX_VECTORS];
  float r[GROUP];
  read_group(norm, first, count, vectors, x, r);
  for (int k = 0; k < vectors; k++) {
    SimdFloat gain = simd_load(norm->gain + k * SIMD_WIDTH),
              bias = simd_load(norm->bias + k * SIMD_WIDTH);
    for (int p = 0; p < count; p++) {
      int64_t at = (first + p) * vectors * SIMD_WIDTH + k * SIMD_WIDTH;
      SimdFloat v = simd_fma(gain, x[p][k] * simd_broadcast(r[p]), bias);
      SimdFloat y = simd_select_positive(v, v, simd_broadcast(norm->arguments.slope) * v);
      if (norm->residual.data) y += read_vector(&norm->residual, at);
      write_vector(&norm->y, at, y);
    }
  }
}

SIMD_INLINE void backward_group(const Norm *norm, int64_t first, int count, int vectors,
                                SimdFloat dgain[MAX_VECTORS], SimdFloat dbias[MAX_VECTORS]) {
  const int channels = vectors * SIMD_WIDTH;
  SimdFloat x[GROUP][MAX_VECTORS], h[GROUP][MAX_VECTORS], along[GROUP] = {{0}};
  float r[GROUP], back[GROUP];
  read_group(norm, first, count, vectors, x, r);
  for (int k = 0; k < vectors; k++) {
    SimdFloat gain = simd_load(norm->gain + k * SIMD_WIDTH),
              bias = simd_load(norm->bias + k * SIMD_WIDTH);
    for (int p = 0; p < count; p++) {
      SimdFloat dy = read_vector(&norm->dy, (first + p) * channels + k * SIMD_WIDTH);
      SimdFloat n = x[p][k] * simd_broadcast(r[p]);
      SimdFloat g = simd_select_positive(simd_fma(gain, n, bias), dy,
                                         simd_broadcast(norm->arguments.slope) * dy);
      dgain[k] = simd_fma(g, n, dgain[k]);
      dbias[k] += g;
      h[p][k] = g * gain;
      along[p] = simd_fma(h[p][k], n, along[p]);
    }
  }
  simd_store(back, simd_horizontal_sums(along));
  for (int p = 0; p < count; p++) {
    SimdFloat scale = simd_broadcast(r[p]), less = simd_broadcast(back[p] * r[p] / (float)channels);
    for (int k = 0; k < vectors; k++)
      write_vector(&norm->dx, (first + p) * channels + k * SIMD_WIDTH,
                   scale * (h[p][k] - x[p][k] * less));
  }
}

SIMD_INLINE void forward_groups(const Norm *norm, int64_t first, int64_t last, int vectors) {
  for (; first + GROUP <= last; first += GROUP) forward_group(norm, first, GROUP, vectors);
  if (first < last) forward_group(norm, first, (int)(last - first), vectors);
}

SIMD_INLINE void backward_groups(const Norm *norm, const Space *space, int64_t first, int64_t last,
                                 int vectors) {
  SimdFloat dgain[MAX_VECTORS] = {{0}}, dbias[MAX_VECTORS] = {{0}};
  for (; first + GROUP <= last; first += GROUP)
    backward_group(norm, first, GROUP, vectors, dgain, dbias);
  if (first < last) backward_group(norm, first, (int)(last - first), vectors, dgain, dbias);
  for (int k = 0; k < vectors; k++) {
    simd_store(space->block_dgain + k * SIMD_WIDTH, dgain[k]);
    simd_store(space->block_dbias + k * SIMD_WIDTH, dbias[k]);
  }
}

static void forward_block(const Norm *norm, const Space *space, int64_t first, int64_t last) {
  switch (norm->arguments.channels) {
  case SIMD_WIDTH:
    forward_groups(norm, first, last, 1);
    break;
  case 2 * SIMD_WIDTH:
    forward_groups(norm, first, last, 2);
    break;
  case MAX_VECTORS *SIMD_WIDTH:
    forward_groups(norm, first, last, MAX_VECTORS);
    break;
  default:
    forward_pixels(norm, space, first, last);
    break;
  }
}

static void backward_block(const Norm *norm, const Space *space, int64_t first, int64_t last) {
  switch (norm->arguments.channels) {
  case SIMD_WIDTH:
    backward_groups(norm, space, first, last, 1);
    break;
  case 2 * SIMD_WIDTH:
    backward_groups(norm, space, first, last, 2);
    break;
  case MAX_VECTORS *SIMD_WIDTH:
    backward_groups(norm, space, first, last, MAX_VECTORS);
    break;
  default:
    backward_pixels(norm, space, first, last);
    break;
  }
}

/* --- Padding ---------------------------------------------------------------------------------- */

static void move_to(Tensor *tensor, const Norm *norm, int64_t pixel) {
  const size_t bytes = (size_t)norm->arguments.channels * dtype_size(tensor->dtype);
  if (tensor->data) tensor->data = (char *)tensor->data + (size_t)pixel * bytes;
}

/* Fills the padding at both ends of a row of y with copies of its interior pixels. */
static void fill_sides(const Norm *norm, char *row) {
  const NormFrame *outer = &norm->arguments.outer;
  const size_t pixel = (size_t)norm->arguments.channels * dtype_size(norm->y.dtype);
  const int left = (int)outer->left, width = (int)norm->arguments.width;
  for (int place = 0; place < outer->width; place++) {
    if (place == left) place += width;
    if (place == outer->width) break;
    const int interior = left + reflected_pixel(place, left, width);
    memcpy(row + (size_t)place * pixel, row + (size_t)interior * pixel, pixel);
  }
}

/* `row` counts the rows of y over all frames. */
static void forward_row(const Norm *norm, const Space *space, int64_t row) {
  const NormArguments *a = &norm->arguments;
  const NormFrame *outer = &a->outer, *other = &a->residual_outer;
  const int64_t frame = row / outer->height;
  const int64_t h = reflected_pixel((int)(row % outer->height), (int)outer->top, (int)a->height);
  Norm part = *norm;
  move_to(&part.x, norm, (frame * a->height + h) * a->width);
  move_to(&part.residual, norm,
          (frame * other->height + other->top + h) * other->width + other->left);
  move_to(&part.y, norm, row * outer->width + outer->left);
  forward_block(&part, space, 0, a->width);
  Tensor whole = norm->y;
  move_to(&whole, norm, row * outer->width);
  fill_sides(norm, whole.data);
}

static void forward_rows(const Norm *norm, void *workspace) {
  const int64_t rows = norm->arguments.frames * norm->arguments.outer.height;
#pragma omp parallel num_threads(norm->threads)
  {
    Space space = own_space(norm, workspace);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; row++) forward_row(norm, &space, row);
  }
}

/* Pixels [first, first + count) of row h of x; the padded dy has up to 9 gradients for each. */
typedef struct RowSegment {
  int64_t frame, h, first, count;
} RowSegment;

static void add_floats(float *to, const float *more, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++) to[i] += more[i];
}

/* Adds row `place` of dy to the gathered gradients: its interior and its left and right padding. */
static void gather_row(const Norm *norm, const Space *space, const RowSegment *s, int64_t place,
                       bool is_first) {
  const NormFrame *outer = &norm->arguments.outer;
  const int64_t channels = norm->arguments.channels, length = s->count * channels;
  const int64_t row = (s->frame * outer->height + place) * outer->width;
  const int64_t middle = (row + outer->left + s->first) * channels;
  if (is_first)
    cpu_load(space->gathered, norm->dy.data, norm->dy.dtype, middle, length);
  else
    add_floats(space->gathered, norm_read(&norm->dy, middle, length, space->seen), length);
  for (int64_t i = 0; i < s->count; i++) {
    for (int copy = 1; copy <= 2; copy++) {
      const int at = pixel_copy_position(copy, (int)(s->first + i), (int)outer->left,
                                         (int)norm->arguments.width, (int)outer->width);
      if (at < 0) continue;
      add_floats(space->gathered + i * channels,
                 norm_read(&norm->dy, (row + at) * channels, channels, space->seen), channels);
    }
  }
}

/* Gathers the gradients of the pixels of a segment from all their copies in the padded dy. */
static void gather(const Norm *norm, const Space *space, const RowSegment *s) {
  const NormFrame *outer = &norm->arguments.outer;
  for (int copy = 0; copy <= 2; copy++) {
    const int place = pixel_copy_position(copy, (int)s->h, (int)outer->top,
                                          (int)norm->arguments.height, (int)outer->height);
    if (place >= 0) gather_row(norm, space, s, place, copy == 0);
  }
}

static int64_t segmentes_of_row(const Norm *norm) {
  return (norm->arguments.width + BLOCK - 1) / BLOCK;
}

static void backward_segment(const Norm *norm, const Space *space, int64_t segment) {
  const int64_t of_row = segmentes_of_row(norm), row = segment / of_row;
  const int64_t first = segment % of_row * BLOCK, rest = norm->arguments.width - first;
  const RowSegment s = {row / norm->arguments.height, row % norm->arguments.height, first,
                        rest < BLOCK ? rest : BLOCK};
  gather(norm, space, &s);
  Norm part = *norm;
  move_to(&part.x, norm, row * norm->arguments.width + first);
  move_to(&part.dx, norm, row * norm->arguments.width + first);
  part.dy.data = space->gathered;
  part.dy.dtype = DTYPE_F32;
  backward_block(&part, space, 0, s.count);
}

/* --- Entry points ----------------------------------------------------------------------------- */

static int64_t block_count(const Norm *norm) {
  if (norm->arguments.padded)
    return norm->arguments.frames * norm->arguments.height * segmentes_of_row(norm);
  return (norm->arguments.frames * norm->arguments.pixels + BLOCK - 1) / BLOCK;
}

static int64_t block_end(const Norm *norm, int64_t block) {
  int64_t end = (block + 1) * BLOCK, all = norm->arguments.frames * norm->arguments.pixels;
  return end < all ? end : all;
}

void rms_norm_forward(const Norm *norm, void *workspace) {
  if (norm->arguments.padded) {
    forward_rows(norm, workspace);
    return;
  }
#pragma omp parallel num_threads(norm->threads)
  {
    Space space = own_space(norm, workspace);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < block_count(norm); b++)
      forward_block(norm, &space, b * BLOCK, block_end(norm, b));
  }
}

static void add_block(const Norm *norm, const Space *space) {
  for (int64_t c = 0; c < norm->arguments.channels; c++) {
    space->dgain[c] += (double)space->block_dgain[c];
    space->dbias[c] += (double)space->block_dbias[c];
  }
}

static void add_threads(const Norm *norm, void *workspace) {
  for (int64_t c = 0; c < norm->arguments.channels; c++) {
    double dgain = 0, dbias = 0;
    for (int thread = 0; thread < norm->threads; thread++) {
      Space space = space_of(norm, workspace, thread);
      dgain += space.dgain[c];
      dbias += space.dbias[c];
    }
    if (norm->dgain) norm->dgain[c] = (float)dgain;
    if (norm->dbias) norm->dbias[c] = (float)dbias;
  }
}

void rms_norm_backward(const Norm *norm, void *workspace) {
  for (int thread = 0; thread < norm->threads; thread++) /* OpenMP may start fewer threads */
    memset(space_of(norm, workspace, thread).dgain, 0,
           DOUBLE_ROWS * (size_t)norm_row(norm) * sizeof(double));
#pragma omp parallel num_threads(norm->threads)
  {
    Space space = own_space(norm, workspace);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < block_count(norm); b++) {
      memset(space.block_dgain, 0, (size_t)norm_row(norm) * sizeof(float));
      memset(space.block_dbias, 0, (size_t)norm_row(norm) * sizeof(float));
      if (norm->arguments.padded)
        backward_segment(norm, &space, b);
      else
        backward_block(norm, &space, b * BLOCK, block_end(norm, b));
      add_block(norm, &space);
    }
  }
  add_threads(norm, workspace);
}
