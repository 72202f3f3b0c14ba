/* Instance norm (Ulyanov, Vedaldi, Lempitsky 2016) and group norm (Wu, He 2018): statistics of each
 * frame and group of channels over the frame's pixels; instance norm is group norm with one channel
 * a group.
 *
 *   n = (x - mean) r, r = 1 / sqrt(var + eps), y = activation(gain n + bias) + residual
 *   g = dy activation'(gain n + bias), dgain = sum g n, dbias = sum g
 *   dx = r (gain g - a - n b), a = mean(gain g), b = mean(gain g n) over the group's elements
 *
 * Each frame is cut into as many parts as there are threads. Each part has its own sums, in double,
 * which are added in order. */
#include <math.h>

#include "engine/backend/shared/norm.h"
#include "engine/cpu/norm/instance_norm.h"

typedef struct Frames {
  int64_t row, parts;
  double *sums;    /* [frames, parts, 2, row] */
  float *mean, *r; /* [frames, row]: of the group of each channel */
  float *a, *b;    /* [frames, row] */
  float *spaces;   /* [frames * parts, 3, row]: rows of each part */
} Frames;

enum { SPACE_ROWS = 3 };

static Frames frames_of(const Norm *norm, void *workspace) {
  Frames f = {.row = norm_row(norm), .parts = norm->threads};
  int64_t rows = norm->arguments.frames * f.row, tasks = norm->arguments.frames * f.parts;
  f.sums = workspace;
  f.mean = (float *)(void *)(f.sums + tasks * 2 * f.row);
  f.r = f.mean + rows;
  f.a = f.r + rows;
  f.b = f.a + rows;
  f.spaces = f.b + rows;
  return f;
}

size_t instance_norm_workspace(const Norm *norm) {
  int64_t row = norm_row(norm), tasks = norm->arguments.frames * norm->threads;
  return (size_t)(tasks * row) * (2 * sizeof(double) + SPACE_ROWS * sizeof(float)) +
         (size_t)(norm->arguments.frames * row) * 4 * sizeof(float);
}

/* A part of a frame: its pixels, and its rows in the workspace. */
typedef struct Part {
  int64_t frame, first, last; /* pixels counted over all frames */
  double *sum, *other_sum;
  float *x, *other, *out;
} Part;

static Part part_of(const Norm *norm, const Frames *f, int64_t task) {
  int64_t frame = task / f->parts, part = task % f->parts;
  int64_t base = frame * norm->arguments.pixels;
  Part p = {.frame = frame,
            .first = base + norm->arguments.pixels * part / f->parts,
            .last = base + norm->arguments.pixels * (part + 1) / f->parts};
  p.sum = f->sums + task * 2 * f->row;
  p.other_sum = p.sum + f->row;
  p.x = f->spaces + task * SPACE_ROWS * f->row;
  p.other = p.x + f->row;
  p.out = p.other + f->row;
  return p;
}

static void sum_part(const Norm *norm, const Part *part) {
  const int64_t channels = norm->arguments.channels;
  double *sum = part->sum, *squares = part->other_sum;
  for (int64_t c = 0; c < channels; c++) sum[c] = squares[c] = 0;
  for (int64_t p = part->first; p < part->last; p++) {
    const float *x = norm_read(&norm->x, p * channels, channels, part->x);
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) {
      double v = (double)x[c];
      sum[c] += v;
      squares[c] += v * v;
    }
  }
}

/* Adds the sums of the parts of a frame over the channels of a group, with a weight per channel. */
static void add_parts(const Norm *norm, const Frames *f, int64_t frame, int64_t group,
                      const float *weights, double *sum, double *other) {
  int64_t size = norm->arguments.channels / norm->arguments.groups;
  *sum = *other = 0;
  for (int64_t part = 0; part < f->parts; part++) {
    const double *sums = f->sums + (frame * f->parts + part) * 2 * f->row;
    for (int64_t c = group * size; c < (group + 1) * size; c++) {
      double weight = weights ? (double)weights[c] : 1.0;
      *sum += weight * sums[c];
      *other += weight * sums[f->row + c];
    }
  }
}

static void set_group(const Norm *norm, const Frames *f, int64_t frame, int64_t group, float *first,
                      double first_value, float *second, double second_value) {
  int64_t size = norm->arguments.channels / norm->arguments.groups;
  for (int64_t c = group * size; c < (group + 1) * size; c++) {
    first[frame * f->row + c] = (float)first_value;
    second[frame * f->row + c] = (float)second_value;
  }
}

static void take_statistics(const Norm *norm, const Frames *f) {
  const int64_t channels_of_group = norm->arguments.channels / norm->arguments.groups;
  double count = (double)(norm->arguments.pixels * channels_of_group);
#pragma omp parallel for num_threads(norm->threads) schedule(static)
  for (int64_t task = 0; task < norm->arguments.frames * f->parts; task++) {
    Part part = part_of(norm, f, task);
    sum_part(norm, &part);
  }
  for (int64_t frame = 0; frame < norm->arguments.frames; frame++)
    for (int64_t group = 0; group < norm->arguments.groups; group++) {
      double sum, squares;
      add_parts(norm, f, frame, group, NULL, &sum, &squares);
      double mean = sum / count, variance = squares / count - mean * mean;
      if (variance < 0) variance = 0;
      set_group(norm, f, frame, group, f->mean, mean, f->r,
                1.0 / sqrt(variance + (double)norm->arguments.epsilon));
    }
}

static void forward_part(const Norm *norm, const Frames *f, const Part *part) {
  const int64_t channels = norm->arguments.channels;
  const float *gain = norm->gain, *bias = norm->bias;
  const float *mean = f->mean + part->frame * f->row, *r = f->r + part->frame * f->row;
  const float slope = norm->arguments.slope;
  for (int64_t p = part->first; p < part->last; p++) {
    const float *x = norm_read(&norm->x, p * channels, channels, part->x);
    float *y = norm_place(&norm->y, p * channels, part->out);
    const float *residual = NULL;
    if (norm->residual.data)
      residual = norm_read(&norm->residual, p * channels, channels, part->other);
    for (int64_t c = 0; c < channels; c++) {
      float v = norm_value((x[c] - mean[c]) * r[c], gain[c], bias[c], slope);
      /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): part->out is not NULL */
      y[c] = residual ? v + residual[c] : v;
    }
    norm_write(&norm->y, p * channels, channels, y);
  }
}

void instance_norm_forward(const Norm *norm, void *workspace) {
  Frames f = frames_of(norm, workspace);
  take_statistics(norm, &f);
#pragma omp parallel for num_threads(norm->threads) schedule(static)
  for (int64_t task = 0; task < norm->arguments.frames * f.parts; task++) {
    Part part = part_of(norm, &f, task);
    forward_part(norm, &f, &part);
  }
}

/* Sums of g and of g n. */
static void sum_gradients(const Norm *norm, const Frames *f, const Part *part) {
  const int64_t channels = norm->arguments.channels;
  const float *gain = norm->gain, *bias = norm->bias;
  const float *mean = f->mean + part->frame * f->row, *r = f->r + part->frame * f->row;
  const float slope = norm->arguments.slope;
  double *sum = part->sum, *along = part->other_sum;
  for (int64_t c = 0; c < channels; c++) sum[c] = along[c] = 0;
  for (int64_t p = part->first; p < part->last; p++) {
    const float *x = norm_read(&norm->x, p * channels, channels, part->x);
    const float *dy = norm_read(&norm->dy, p * channels, channels, part->other);
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) {
      float n = (x[c] - mean[c]) * r[c];
      float g = norm_gradient(n, gain[c], bias[c], slope, dy[c]);
      sum[c] += (double)g;
      along[c] += (double)(g * n);
    }
  }
}

static void backward_part(const Norm *norm, const Frames *f, const Part *part) {
  const int64_t channels = norm->arguments.channels, at = part->frame * f->row;
  const float *gain = norm->gain, *bias = norm->bias;
  const float *mean = f->mean + at, *r = f->r + at, *a = f->a + at, *b = f->b + at;
  const float slope = norm->arguments.slope;
  for (int64_t p = part->first; p < part->last; p++) {
    const float *x = norm_read(&norm->x, p * channels, channels, part->x);
    const float *dy = norm_read(&norm->dy, p * channels, channels, part->other);
    float *dx = norm_place(&norm->dx, p * channels, part->out);
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) {
      float n = (x[c] - mean[c]) * r[c];
      float g = norm_gradient(n, gain[c], bias[c], slope, dy[c]);
      dx[c] = r[c] * (gain[c] * g - a[c] - n * b[c]);
    }
    norm_write(&norm->dx, p * channels, channels, dx);
  }
}

/* dgain and dbias: the sums over all frames and parts, in order. */
static void add_parameters(const Norm *norm, const Frames *f) {
  for (int64_t c = 0; c < norm->arguments.channels; c++) {
    double dbias = 0, dgain = 0;
    for (int64_t task = 0; task < norm->arguments.frames * f->parts; task++) {
      dbias += f->sums[task * 2 * f->row + c];
      dgain += f->sums[task * 2 * f->row + f->row + c];
    }
    if (norm->dgain) norm->dgain[c] = (float)dgain;
    if (norm->dbias) norm->dbias[c] = (float)dbias;
  }
}

void instance_norm_backward(const Norm *norm, void *workspace) {
  Frames f = frames_of(norm, workspace);
  const int64_t channels_of_group = norm->arguments.channels / norm->arguments.groups;
  double count = (double)(norm->arguments.pixels * channels_of_group);
  take_statistics(norm, &f);
#pragma omp parallel for num_threads(norm->threads) schedule(static)
  for (int64_t task = 0; task < norm->arguments.frames * f.parts; task++) {
    Part part = part_of(norm, &f, task);
    sum_gradients(norm, &f, &part);
  }
  for (int64_t frame = 0; frame < norm->arguments.frames; frame++)
    for (int64_t group = 0; group < norm->arguments.groups; group++) {
      double sum, along;
      add_parts(norm, &f, frame, group, norm->gain, &sum, &along);
      set_group(norm, &f, frame, group, f.a, sum / count, f.b, along / count);
    }
#pragma omp parallel for num_threads(norm->threads) schedule(static)
  for (int64_t task = 0; task < norm->arguments.frames * f.parts; task++) {
    Part part = part_of(norm, &f, task);
    backward_part(norm, &f, &part);
  }
  add_parameters(norm, &f);
}
