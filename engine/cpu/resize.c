/* Nearest and bilinear resizing of H and W, and their transposes. */
#include "engine/cpu/separable.h"

static AxisMap resize_axis(int64_t in, int64_t out, ResizeMode mode) {
  AxisMap map = axis_map_new(in);
  for (int64_t o = 0; o < out; o++) {
    if (mode == RESIZE_NEAREST) {
      axis_map_push(&map, o * in / out, 1.0f);
    } else {
      const double centre = ((double)o + 0.5) * (double)in / (double)out - 0.5;
      const double place = centre > 0.0 ? centre : 0.0;
      const int64_t lower = (int64_t)place < in - 1 ? (int64_t)place : in - 1;
      const float upper_weight = lower < in - 1 ? (float)(place - (double)lower) : 0.0f;
      axis_map_push(&map, lower, 1.0f - upper_weight);
      if (upper_weight > 0.0f) axis_map_push(&map, lower + 1, upper_weight);
    }
    axis_map_next(&map);
  }
  return map;
}

static SeparableMap resize_map(const Op *op, Shape in, Shape out) {
  const ResizeMode mode = op->attributes.resize.mode;
  return (SeparableMap){.h = resize_axis(in.dim[AXIS_H], out.dim[AXIS_H], mode),
                        .w = resize_axis(in.dim[AXIS_W], out.dim[AXIS_W], mode)};
}

Status cpu_resize_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                      Kernel **out, Error *error) {
  const SeparableMap map = resize_map(op, inputs[0].shape, outputs[0].shape);
  return separable_kernel_new(backend, op, map, &inputs[0], &outputs[0], out, error);
}

Status cpu_resize_backward_new(Backend *backend, const Op *op, const Tensor *inputs,
                               const Tensor *outputs, Kernel **out, Error *error) {
  SeparableMap forward = resize_map(op, outputs[0].shape, inputs[0].shape);
  const SeparableMap map = separable_transpose(&forward);
  return separable_kernel_new(backend, op, map, &inputs[0], &outputs[0], out, error);
}
