/* The average over windows of H and W, counting only cells inside the picture, and its transpose.
 */
#include "engine/cpu/separable.h"

static AxisMap pool_axis(int64_t in, int64_t out, int64_t size, int64_t stride, int64_t pad) {
  AxisMap map = axis_map_new(in);
  for (int64_t o = 0; o < out; o++) {
    int64_t begin = o * stride - pad, end = begin + size;
    begin = begin < 0 ? 0 : begin;
    end = end > in ? in : end;
    for (int64_t i = begin; i < end; i++) axis_map_push(&map, i, 1.0f / (float)(end - begin));
    axis_map_next(&map);
  }
  return map;
}

static SeparableMap pool_map(const Op *op, Shape in, Shape out) {
  const int64_t size = op->attributes.pool.size, stride = op->attributes.pool.stride;
  const int64_t pad = op->attributes.pool.pad;
  return (SeparableMap){.h = pool_axis(in.dim[AXIS_H], out.dim[AXIS_H], size, stride, pad),
                        .w = pool_axis(in.dim[AXIS_W], out.dim[AXIS_W], size, stride, pad)};
}

Status cpu_average_pool_new(Backend *backend, const Op *op, const Tensor *inputs,
                            const Tensor *outputs, Kernel **out, Error *error) {
  const SeparableMap map = pool_map(op, inputs[0].shape, outputs[0].shape);
  return separable_kernel_new(backend, op, map, &inputs[0], &outputs[0], out, error);
}

Status cpu_average_pool_backward_new(Backend *backend, const Op *op, const Tensor *inputs,
                                     const Tensor *outputs, Kernel **out, Error *error) {
  SeparableMap forward = pool_map(op, outputs[0].shape, inputs[0].shape);
  const SeparableMap map = separable_transpose(&forward);
  return separable_kernel_new(backend, op, map, &inputs[0], &outputs[0], out, error);
}
