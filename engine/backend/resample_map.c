#include "engine/backend/resample_map.h"

#include <stdlib.h>

#include "base/memory.h"

static ResampleAxis axis_new(int64_t inputs) {
  ResampleAxis map = {.inputs = inputs};
  map.begin = mem_new(1, sizeof *map.begin);
  return map;
}

static void axis_push(ResampleAxis *map, int64_t index, float weight) {
  if (map->count == map->capacity) {
    map->capacity = map->capacity ? 2 * map->capacity : 16;
    map->index = mem_resize(map->index, (size_t)map->capacity, sizeof *map->index);
    map->weight = mem_resize(map->weight, (size_t)map->capacity, sizeof *map->weight);
  }
  map->index[map->count] = index;
  map->weight[map->count++] = weight;
}

static void axis_next_output(ResampleAxis *map) {
  map->outputs++;
  map->begin = mem_resize(map->begin, (size_t)map->outputs + 1, sizeof *map->begin);
  map->begin[map->outputs] = map->count;
}

static void axis_free(ResampleAxis *map) {
  free(map->begin);
  free(map->index);
  free(map->weight);
  *map = (ResampleAxis){0};
}

void resample_map_free(ResampleMap *map) {
  axis_free(&map->h);
  axis_free(&map->w);
}

/* Counting sort of the entries by input, which keeps the outputs of an input in ascending order. */
static ResampleAxis axis_transpose(const ResampleAxis *map) {
  ResampleAxis result = {.inputs = map->outputs, .outputs = map->inputs, .count = map->count};
  result.capacity = map->count;
  result.begin = mem_new((size_t)map->inputs + 1, sizeof *result.begin);
  result.index = mem_new((size_t)map->count + 1, sizeof *result.index);
  result.weight = mem_new((size_t)map->count + 1, sizeof *result.weight);
  int64_t *next = mem_new((size_t)map->inputs + 1, sizeof *next);
  for (int64_t k = 0; k < map->count; k++) result.begin[map->index[k] + 1]++;
  for (int64_t i = 0; i < map->inputs; i++) {
    result.begin[i + 1] += result.begin[i];
    next[i] = result.begin[i];
  }
  for (int64_t o = 0; o < map->outputs; o++) {
    for (int64_t k = map->begin[o]; k < map->begin[o + 1]; k++) {
      const int64_t place = next[map->index[k]]++;
      result.index[place] = o;
      result.weight[place] = map->weight[k];
    }
  }
  free(next);
  return result;
}

/* `second` applied to the output of `first`. */
static ResampleAxis axis_compose(const ResampleAxis *first, const ResampleAxis *second) {
  ResampleAxis map = axis_new(first->inputs);
  for (int64_t o = 0; o < second->outputs; o++) {
    for (int64_t k = second->begin[o]; k < second->begin[o + 1]; k++) {
      const int64_t middle = second->index[k];
      for (int64_t i = first->begin[middle]; i < first->begin[middle + 1]; i++)
        axis_push(&map, first->index[i], second->weight[k] * first->weight[i]);
    }
    axis_next_output(&map);
  }
  return map;
}

static ResampleMap map_compose(ResampleMap *first, ResampleMap *second) {
  const ResampleMap result = {
      .h = axis_compose(&first->h, &second->h),
      .w = axis_compose(&first->w, &second->w),
      .shift_n = first->shift_n + second->shift_n,
      .shift_t = first->shift_t + second->shift_t,
      .shift_c = first->shift_c + second->shift_c,
  };
  resample_map_free(first);
  resample_map_free(second);
  return result;
}

static ResampleMap map_transpose(ResampleMap *map) {
  const ResampleMap result = {
      .h = axis_transpose(&map->h),
      .w = axis_transpose(&map->w),
      .shift_n = -map->shift_n,
      .shift_t = -map->shift_t,
      .shift_c = -map->shift_c,
  };
  resample_map_free(map);
  return result;
}

bool resample_axis_copies(const ResampleAxis *map, int64_t o, int64_t *index) {
  const int64_t k = map->begin[o];
  if (map->begin[o + 1] - k != 1 || map->weight[k] != 1.0f) return false;
  *index = map->index[k];
  return true;
}

/* --- Padding ---------------------------------------------------------------------------------- */

static ResampleAxis pad_axis(int64_t in, int64_t before, int64_t out, PadMode mode) {
  ResampleAxis map = axis_new(in);
  for (int64_t o = 0; o < out; o++) {
    int64_t i = o - before;
    if (mode == PAD_REFLECT && i < 0) i = -i;
    if (mode == PAD_REFLECT && i >= in) i = 2 * (in - 1) - i;
    if (i >= 0 && i < in) axis_push(&map, i, 1.0f);
    axis_next_output(&map);
  }
  return map;
}

static ResampleMap pad_map(const PadAttributes *pad, Shape in, Shape out) {
  const Shape before = pad->before;
  const PadMode mode = pad->mode;
  return (ResampleMap){
      .h = pad_axis(in.dim[AXIS_H], before.dim[AXIS_H], out.dim[AXIS_H], mode),
      .w = pad_axis(in.dim[AXIS_W], before.dim[AXIS_W], out.dim[AXIS_W], mode),
      .shift_n = -before.dim[AXIS_N],
      .shift_t = -before.dim[AXIS_T],
      .shift_c = -before.dim[AXIS_C],
  };
}

/* --- Resizing --------------------------------------------------------------------------------- */

static ResampleAxis resize_axis(int64_t in, int64_t out, ResizeMode mode) {
  ResampleAxis map = axis_new(in);
  for (int64_t o = 0; o < out; o++) {
    if (mode == RESIZE_NEAREST) {
      axis_push(&map, o * in / out, 1.0f);
    } else {
      const double centre = ((double)o + 0.5) * (double)in / (double)out - 0.5;
      const double place = centre > 0.0 ? centre : 0.0;
      const int64_t lower = (int64_t)place < in - 1 ? (int64_t)place : in - 1;
      const float upper_weight = lower < in - 1 ? (float)(place - (double)lower) : 0.0f;
      axis_push(&map, lower, 1.0f - upper_weight);
      if (upper_weight > 0.0f) axis_push(&map, lower + 1, upper_weight);
    }
    axis_next_output(&map);
  }
  return map;
}

static ResampleMap resize_map(const Op *op, Shape in, Shape out) {
  const ResizeMode mode = op->attributes.resize.mode;
  const PadAttributes *pad = &op->attributes.resize.pad;
  Shape resized;
  for (int axis = 0; axis < RANK; axis++)
    resized.dim[axis] = out.dim[axis] - pad->before.dim[axis] - pad->after.dim[axis];
  ResampleMap resize = {.h = resize_axis(in.dim[AXIS_H], resized.dim[AXIS_H], mode),
                        .w = resize_axis(in.dim[AXIS_W], resized.dim[AXIS_W], mode)};
  if (shape_equal(resized, out)) return resize;
  ResampleMap around = pad_map(pad, resized, out);
  return map_compose(&resize, &around);
}

/* --- Pooling ---------------------------------------------------------------------------------- */

static ResampleAxis pool_axis(int64_t in, int64_t out, int64_t size, int64_t stride, int64_t pad) {
  ResampleAxis map = axis_new(in);
  for (int64_t o = 0; o < out; o++) {
    int64_t begin = o * stride - pad, end = begin + size;
    begin = begin < 0 ? 0 : begin;
    end = end > in ? in : end;
    for (int64_t i = begin; i < end; i++) axis_push(&map, i, 1.0f / (float)(end - begin));
    axis_next_output(&map);
  }
  return map;
}

static ResampleMap pool_map(const Op *op, Shape in, Shape out) {
  const int64_t size = op->attributes.pool.size, stride = op->attributes.pool.stride;
  const int64_t pad = op->attributes.pool.pad;
  return (ResampleMap){.h = pool_axis(in.dim[AXIS_H], out.dim[AXIS_H], size, stride, pad),
                       .w = pool_axis(in.dim[AXIS_W], out.dim[AXIS_W], size, stride, pad)};
}

/* --- From ops --------------------------------------------------------------------------------- */

ResampleMap resample_map_of(const Op *op, Shape input, Shape output) {
  const bool backward = op->kind == OP_PAD_BACKWARD || op->kind == OP_RESIZE_BACKWARD ||
                        op->kind == OP_AVERAGE_POOL_BACKWARD;
  const Shape in = backward ? output : input, out = backward ? input : output;
  ResampleMap forward;
  if (op->kind == OP_PAD || op->kind == OP_PAD_BACKWARD) {
    forward = pad_map(&op->attributes.pad, in, out);
  } else if (op->kind == OP_RESIZE || op->kind == OP_RESIZE_BACKWARD) {
    forward = resize_map(op, in, out);
  } else {
    forward = pool_map(op, in, out);
  }
  return backward ? map_transpose(&forward) : forward;
}
