/* RMS norm (Zhang, Sennrich 2019, "Root Mean Square Layer Normalization"): one pass over memory, a
 * pixel's channels at a time.
 *
 *   r = 1 / sqrt(mean(x^2) + eps), n = x r, y = activation(gain n + bias) + residual
 *   g = dy activation'(gain n + bias), dgain = sum g n, dbias = sum g, h = g gain
 *   dx = r (h - n mean(h n)) */
#include <math.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "engine/backend/shared/norm.h"
#include "engine/cpu/norm/norm.h"
#include "engine/cpu/simd.h"

/* Pixels summed in f32 before the sum is added to a double one. */
enum { BLOCK = 128 };

/* A thread's part of the workspace: rows of doubles, then of floats, then blocks of pixels. */
enum { DOUBLE_ROWS = 2, FLOAT_ROWS = 6, PIXEL_BLOCKS = 2 };
typedef struct Space {
  double *dgain, *dbias;
  float *block_dgain, *block_dbias, *x, *other, *out, *h;
  float *gathered, *seen; /* BLOCK pixels each, where a padding's gradient is read */
} Space;

static size_t space_bytes(const Norm *norm) {
  const bool gathers = norm->task.padded && norm->task.backward;
  const size_t blocks = gathers ? (size_t)PIXEL_BLOCKS * BLOCK * sizeof(float) : 0;
  return (size_t)norm_row(norm) *
         (DOUBLE_ROWS * sizeof(double) + FLOAT_ROWS * sizeof(float) + blocks);
}

size_t norm_pixels_workspace(const Norm *norm) {
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
  const int64_t channels = norm->task.channels;
  const float *gain = norm->gain, *bias = norm->bias;
  const float slope = norm->task.slope;
  for (int64_t p = first; p < last; p++) {
    const float *x = norm_read(&norm->x, p * channels, channels, space->x);
    float *y = norm_place(&norm->y, p * channels, space->out);
    float r = inverse_rms(x, channels, norm->task.epsilon);
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
  const int64_t channels = norm->task.channels;
  const float *gain = norm->gain, *bias = norm->bias;
  const float slope = norm->task.slope;
  float *dgain = space->block_dgain, *dbias = space->block_dbias, *h = space->h;
  for (int64_t p = first; p < last; p++) {
    const float *x = norm_read(&norm->x, p * channels, channels, space->x);
    const float *dy = norm_read(&norm->dy, p * channels, channels, space->other);
    float *dx = norm_place(&norm->dx, p * channels, space->out);
    float r = inverse_rms(x, channels, norm->task.epsilon), along = 0;
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

/* --- The usual numbers of channels: up to four vectors ---------------------------------------- */

/* Sixteen pixels at a time, so that their sums over the channels become one vector and their chains
 * of sum, root and division run side by side. A pixel's result does not depend on its group. */
enum { GROUP = LANES, MOST_VECTORS = 4 };

typedef uint16_t HalfLanes __attribute__((vector_size(32)));
typedef uint32_t WordLanes __attribute__((vector_size(64)));

LANES_INLINE Lanes read_lanes(const Tensor *tensor, int64_t first) {
  if (tensor->dtype == DTYPE_F32) return lanes_load((const float *)tensor->data + first);
  HalfLanes half;
  memcpy(&half, (const uint16_t *)tensor->data + first, sizeof half);
  return (Lanes)(__builtin_convertvector(half, WordLanes) << 16);
}

/* The same numbers as bf16_from_f32. */
LANES_INLINE HalfLanes round_lanes(Lanes value) {
  WordLanes bits = (WordLanes)value, high = bits >> 16;
  WordLanes rounded = (bits + 0x7fffu + (high & 1u)) >> 16;
  WordLanes nan = (WordLanes)((bits & 0x7fffffffu) > 0x7f800000u);
  return __builtin_convertvector((nan & (high | 0x40u)) | (~nan & rounded), HalfLanes);
}

LANES_INLINE void write_lanes(const Tensor *tensor, int64_t first, Lanes value) {
  if (tensor->dtype == DTYPE_F32) {
    lanes_store((float *)tensor->data + first, value);
  } else {
    HalfLanes half = round_lanes(value);
    memcpy((uint16_t *)tensor->data + first, &half, sizeof half);
  }
}

/* Reads x and gives 1 / rms of each pixel. */
LANES_INLINE void read_group(const Norm *norm, int64_t first, int count, int vectors,
                             Lanes x[GROUP][MOST_VECTORS], float r[GROUP]) {
  const int channels = vectors * LANES;
  Lanes squares[GROUP] = {{0}};
  for (int p = 0; p < count; p++)
    for (int k = 0; k < vectors; k++) {
      x[p][k] = read_lanes(&norm->x, (first + p) * channels + k * LANES);
      squares[p] = lanes_fma(x[p][k], x[p][k], squares[p]);
    }
  lanes_store(r, lanes_sums(squares));
  for (int p = 0; p < GROUP; p++) r[p] = 1.0f / sqrtf(r[p] / (float)channels + norm->task.epsilon);
}

LANES_INLINE void forward_group(const Norm *norm, int64_t first, int count, int vectors) {
  Lanes x[GROUP][MOST_VECTORS];
  float r[GROUP];
  read_group(norm, first, count, vectors, x, r);
  for (int k = 0; k < vectors; k++) {
    Lanes gain = lanes_load(norm->gain + k * LANES), bias = lanes_load(norm->bias + k * LANES);
    for (int p = 0; p < count; p++) {
      int64_t at = (first + p) * vectors * LANES + k * LANES;
      Lanes v = lanes_fma(gain, x[p][k] * lanes_all(r[p]), bias);
      Lanes y = lanes_where_positive(v, v, lanes_all(norm->task.slope) * v);
      if (norm->residual.data) y += read_lanes(&norm->residual, at);
      write_lanes(&norm->y, at, y);
    }
  }
}

LANES_INLINE void backward_group(const Norm *norm, int64_t first, int count, int vectors,
                                 Lanes dgain[MOST_VECTORS], Lanes dbias[MOST_VECTORS]) {
  const int channels = vectors * LANES;
  Lanes x[GROUP][MOST_VECTORS], h[GROUP][MOST_VECTORS], along[GROUP] = {{0}};
  float r[GROUP], back[GROUP];
  read_group(norm, first, count, vectors, x, r);
  for (int k = 0; k < vectors; k++) {
    Lanes gain = lanes_load(norm->gain + k * LANES), bias = lanes_load(norm->bias + k * LANES);
    for (int p = 0; p < count; p++) {
      Lanes dy = read_lanes(&norm->dy, (first + p) * channels + k * LANES);
      Lanes n = x[p][k] * lanes_all(r[p]);
      Lanes g =
          lanes_where_positive(lanes_fma(gain, n, bias), dy, lanes_all(norm->task.slope) * dy);
      dgain[k] = lanes_fma(g, n, dgain[k]);
      dbias[k] += g;
      h[p][k] = g * gain;
      along[p] = lanes_fma(h[p][k], n, along[p]);
    }
  }
  lanes_store(back, lanes_sums(along));
  for (int p = 0; p < count; p++) {
    Lanes scale = lanes_all(r[p]), less = lanes_all(back[p] * r[p] / (float)channels);
    for (int k = 0; k < vectors; k++)
      write_lanes(&norm->dx, (first + p) * channels + k * LANES,
                  scale * (h[p][k] - x[p][k] * less));
  }
}

LANES_INLINE void forward_groups(const Norm *norm, int64_t first, int64_t last, int vectors) {
  for (; first + GROUP <= last; first += GROUP) forward_group(norm, first, GROUP, vectors);
  if (first < last) forward_group(norm, first, (int)(last - first), vectors);
}

LANES_INLINE void backward_groups(const Norm *norm, const Space *space, int64_t first, int64_t last,
                                  int vectors) {
  Lanes dgain[MOST_VECTORS] = {{0}}, dbias[MOST_VECTORS] = {{0}};
  for (; first + GROUP <= last; first += GROUP)
    backward_group(norm, first, GROUP, vectors, dgain, dbias);
  if (first < last) backward_group(norm, first, (int)(last - first), vectors, dgain, dbias);
  for (int k = 0; k < vectors; k++) {
    lanes_store(space->block_dgain + k * LANES, dgain[k]);
    lanes_store(space->block_dbias + k * LANES, dbias[k]);
  }
}

static void forward_block(const Norm *norm, const Space *space, int64_t first, int64_t last) {
  switch (norm->task.channels) {
  case LANES:
    forward_groups(norm, first, last, 1);
    break;
  case 2 * LANES:
    forward_groups(norm, first, last, 2);
    break;
  case MOST_VECTORS *LANES:
    forward_groups(norm, first, last, MOST_VECTORS);
    break;
  default:
    forward_pixels(norm, space, first, last);
    break;
  }
}

static void backward_block(const Norm *norm, const Space *space, int64_t first, int64_t last) {
  switch (norm->task.channels) {
  case LANES:
    backward_groups(norm, space, first, last, 1);
    break;
  case 2 * LANES:
    backward_groups(norm, space, first, last, 2);
    break;
  case MOST_VECTORS *LANES:
    backward_groups(norm, space, first, last, MOST_VECTORS);
    break;
  default:
    backward_pixels(norm, space, first, last);
    break;
  }
}

/* --- Padding ---------------------------------------------------------------------------------- */

static void move_to(Tensor *tensor, const Norm *norm, int64_t pixel) {
  const size_t bytes = (size_t)norm->task.channels * dtype_size(tensor->dtype);
  if (tensor->data) tensor->data = (char *)tensor->data + (size_t)pixel * bytes;
}

/* Pixels of the row of y that hold what lies beside the picture: copies of those within. */
static void fill_sides(const Norm *norm, char *row) {
  const NormFrame *outer = &norm->task.outer;
  const size_t pixel = (size_t)norm->task.channels * dtype_size(norm->y.dtype);
  const int left = (int)outer->left, width = (int)norm->task.width;
  for (int place = 0; place < outer->width; place++) {
    if (place == left) place += width;
    if (place == outer->width) break;
    const int within = left + reflected_pixel(place, left, width);
    memcpy(row + (size_t)place * pixel, row + (size_t)within * pixel, pixel);
  }
}

/* Row `row` of all of y's. */
static void forward_row(const Norm *norm, const Space *space, int64_t row) {
  const NormArguments *task = &norm->task;
  const NormFrame *outer = &task->outer, *other = &task->residual_outer;
  const int64_t frame = row / outer->height;
  const int64_t h = reflected_pixel((int)(row % outer->height), (int)outer->top, (int)task->height);
  Norm part = *norm;
  move_to(&part.x, norm, (frame * task->height + h) * task->width);
  move_to(&part.residual, norm,
          (frame * other->height + other->top + h) * other->width + other->left);
  move_to(&part.y, norm, row * outer->width + outer->left);
  forward_block(&part, space, 0, task->width);
  Tensor whole = norm->y;
  move_to(&whole, norm, row * outer->width);
  fill_sides(norm, whole.data);
}

static void forward_rows(const Norm *norm, void *workspace) {
  const int64_t rows = norm->task.frames * norm->task.outer.height;
#pragma omp parallel num_threads(norm->threads)
  {
    Space space = own_space(norm, workspace);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; row++) forward_row(norm, &space, row);
  }
}

/* Pixels [first, first + count) of a row of x's, of which dy has one or more for each. */
typedef struct Stretch {
  int64_t frame, h, first, count;
} Stretch;

static void add_floats(float *to, const float *more, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++) to[i] += more[i];
}

/* Adds row `place` of dy to the gathered pixels, its middle and what its sides show of them. */
static void gather_row(const Norm *norm, const Space *space, const Stretch *s, int64_t place,
                       bool is_first) {
  const NormFrame *outer = &norm->task.outer;
  const int64_t channels = norm->task.channels, length = s->count * channels;
  const int64_t row = (s->frame * outer->height + place) * outer->width;
  const int64_t middle = (row + outer->left + s->first) * channels;
  if (is_first)
    cpu_load(space->gathered, norm->dy.data, norm->dy.dtype, middle, length);
  else
    add_floats(space->gathered, norm_read(&norm->dy, middle, length, space->seen), length);
  for (int64_t i = 0; i < s->count; i++) {
    for (int way = 1; way <= 2; way++) {
      const int at = pixel_copy_position(way, (int)(s->first + i), (int)outer->left, (int)norm->task.width,
                               (int)outer->width);
      if (at < 0) continue;
      add_floats(space->gathered + i * channels,
                 norm_read(&norm->dy, (row + at) * channels, channels, space->seen), channels);
    }
  }
}

/* The gradient of the stretch's pixels from every place where the padding shows them. */
static void gather(const Norm *norm, const Space *space, const Stretch *s) {
  const NormFrame *outer = &norm->task.outer;
  for (int way = 0; way <= 2; way++) {
    const int place =
        pixel_copy_position(way, (int)s->h, (int)outer->top, (int)norm->task.height, (int)outer->height);
    if (place >= 0) gather_row(norm, space, s, place, way == 0);
  }
}

static int64_t stretches_of_row(const Norm *norm) {
  return (norm->task.width + BLOCK - 1) / BLOCK;
}

static void backward_stretch(const Norm *norm, const Space *space, int64_t stretch) {
  const int64_t of_row = stretches_of_row(norm), row = stretch / of_row;
  const int64_t first = stretch % of_row * BLOCK, rest = norm->task.width - first;
  const Stretch s = {row / norm->task.height, row % norm->task.height, first,
                     rest < BLOCK ? rest : BLOCK};
  gather(norm, space, &s);
  Norm part = *norm;
  move_to(&part.x, norm, row * norm->task.width + first);
  move_to(&part.dx, norm, row * norm->task.width + first);
  part.dy.data = space->gathered;
  part.dy.dtype = DTYPE_F32;
  backward_block(&part, space, 0, s.count);
}

/* --- All of them ------------------------------------------------------------------------------ */

static int64_t block_count(const Norm *norm) {
  if (norm->task.padded) return norm->task.frames * norm->task.height * stretches_of_row(norm);
  return (norm->task.frames * norm->task.pixels + BLOCK - 1) / BLOCK;
}

static int64_t block_end(const Norm *norm, int64_t block) {
  int64_t end = (block + 1) * BLOCK, all = norm->task.frames * norm->task.pixels;
  return end < all ? end : all;
}

void norm_pixels_forward(const Norm *norm, void *workspace) {
  if (norm->task.padded) {
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
  for (int64_t c = 0; c < norm->task.channels; c++) {
    space->dgain[c] += (double)space->block_dgain[c];
    space->dbias[c] += (double)space->block_dbias[c];
  }
}

static void add_threads(const Norm *norm, void *workspace) {
  for (int64_t c = 0; c < norm->task.channels; c++) {
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

void norm_pixels_backward(const Norm *norm, void *workspace) {
  for (int thread = 0; thread < norm->threads; thread++) /* OpenMP may start fewer */
    memset(space_of(norm, workspace, thread).dgain, 0,
           DOUBLE_ROWS * (size_t)norm_row(norm) * sizeof(double));
#pragma omp parallel num_threads(norm->threads)
  {
    Space space = own_space(norm, workspace);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < block_count(norm); b++) {
      memset(space.block_dgain, 0, (size_t)norm_row(norm) * sizeof(float));
      memset(space.block_dbias, 0, (size_t)norm_row(norm) * sizeof(float));
      if (norm->task.padded)
        backward_stretch(norm, &space, b);
      else
        backward_block(norm, &space, b * BLOCK, block_end(norm, b));
      add_block(norm, &space);
    }
  }
  add_threads(norm, workspace);
}
