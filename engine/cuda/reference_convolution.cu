#include "engine/cuda/reference_convolution.h"

#include "engine/cuda/launch.h"
#include "engine/shared/bf16.h"

enum { THREADS = 128 };

__device__ static float element(const void *tensor, DType dtype, int64_t index) {
  if (dtype == DTYPE_BF16) return shared_bf16_to_f32(static_cast<const uint16_t *>(tensor)[index]);
  return static_cast<const float *>(tensor)[index];
}

/* Where element `index` of a tensor stands along each axis. */
__device__ static void split(int64_t index, const Shape &shape, int64_t at[RANK]) {
  for (int axis = RANK - 1; axis >= 0; axis--) {
    at[axis] = index % shape.dim[axis];
    index /= shape.dim[axis];
  }
}

__device__ static int64_t join(const Shape &shape, int64_t n, int64_t t, int64_t h, int64_t w,
                               int64_t c) {
  return (((n * shape.dim[1] + t) * shape.dim[2] + h) * shape.dim[3] + w) * shape.dim[4] + c;
}

/* The place in x that tap `tap` of output place `place` reads, along one axis. */
__device__ static int64_t input_place(const ReferenceConvolutionLaunch &p, int axis, int64_t place,
                                      int64_t tap) {
  return place * p.stride[axis] + tap - p.before[axis];
}

__device__ static float element_of_y(const ReferenceConvolutionLaunch &p, const int64_t at[RANK]) {
  float sum = 0.0f;
  for (int64_t i = 0; i < p.w_shape.dim[1]; i++)
    for (int64_t j = 0; j < p.w_shape.dim[2]; j++)
      for (int64_t k = 0; k < p.w_shape.dim[3]; k++) {
        const int64_t t = input_place(p, 0, at[1], i), h = input_place(p, 1, at[2], j);
        const int64_t w = input_place(p, 2, at[3], k);
        if (t < 0 || t >= p.x_shape.dim[1] || h < 0 || h >= p.x_shape.dim[2] || w < 0 ||
            w >= p.x_shape.dim[3])
          continue;
        for (int64_t c = 0; c < p.x_shape.dim[4]; c++)
          sum += element(p.x, p.operands, join(p.x_shape, at[0], t, h, w, c)) *
                 element(p.w, p.operands, join(p.w_shape, at[4], i, j, k, c));
      }
  return sum;
}

/* The output place that reads input place `place` by tap `tap`; -1: none. */
__device__ static int64_t output_place(const ReferenceConvolutionLaunch &p, int axis, int64_t place,
                                       int64_t tap) {
  const int64_t scaled = place + p.before[axis] - tap;
  if (scaled < 0 || scaled % p.stride[axis] != 0) return -1;
  const int64_t found = scaled / p.stride[axis];
  return found < p.y_shape.dim[1 + axis] ? found : -1;
}

__device__ static float element_of_dx(const ReferenceConvolutionLaunch &p, const int64_t at[RANK]) {
  float sum = 0.0f;
  for (int64_t i = 0; i < p.w_shape.dim[1]; i++)
    for (int64_t j = 0; j < p.w_shape.dim[2]; j++)
      for (int64_t k = 0; k < p.w_shape.dim[3]; k++) {
        const int64_t t = output_place(p, 0, at[1], i), h = output_place(p, 1, at[2], j);
        const int64_t w = output_place(p, 2, at[3], k);
        if (t < 0 || h < 0 || w < 0) continue;
        for (int64_t o = 0; o < p.y_shape.dim[4]; o++)
          sum += element(p.y, p.operands, join(p.y_shape, at[0], t, h, w, o)) *
                 element(p.w, p.operands, join(p.w_shape, o, i, j, k, at[4]));
      }
  return sum;
}

/* Sums over a whole clip: in pieces, so that f32 holds their digits. */
__device__ static float element_of_dw(const ReferenceConvolutionLaunch &p, const int64_t at[RANK]) {
  float sum = 0.0f;
  for (int64_t n = 0; n < p.y_shape.dim[0]; n++)
    for (int64_t t = 0; t < p.y_shape.dim[1]; t++)
      for (int64_t h = 0; h < p.y_shape.dim[2]; h++) {
        const int64_t x_t = input_place(p, 0, t, at[1]), x_h = input_place(p, 1, h, at[2]);
        if (x_t < 0 || x_t >= p.x_shape.dim[1] || x_h < 0 || x_h >= p.x_shape.dim[2]) continue;
        float row = 0.0f;
        for (int64_t w = 0; w < p.y_shape.dim[3]; w++) {
          const int64_t x_w = input_place(p, 2, w, at[3]);
          if (x_w < 0 || x_w >= p.x_shape.dim[3]) continue;
          row += element(p.x, p.operands, join(p.x_shape, n, x_t, x_h, x_w, at[4])) *
                 element(p.y, p.operands, join(p.y_shape, n, t, h, w, at[0]));
        }
        sum += row;
      }
  return sum;
}

__device__ static Shape result_shape(const ReferenceConvolutionLaunch &p) {
  return p.result == REFERENCE_Y ? p.y_shape : p.result == REFERENCE_DX ? p.x_shape : p.w_shape;
}

__global__ void __launch_bounds__(THREADS)
    reference_convolution_kernel(const ReferenceConvolutionLaunch p) {
  const Shape shape = result_shape(p);
  int64_t count = 1, at[RANK];
  for (int axis = 0; axis < RANK; axis++) count *= shape.dim[axis];
  const int64_t index = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (index >= count) return;
  split(index, shape, at);
  if (p.result == REFERENCE_Y)
    p.out[index] = element_of_y(p, at);
  else if (p.result == REFERENCE_DX)
    p.out[index] = element_of_dx(p, at);
  else
    p.out[index] = element_of_dw(p, at);
}

extern "C" Status launch_reference_convolution(const ReferenceConvolutionLaunch *p,
                                               cudaStream_t stream, Error *error) {
  const Shape *shape = p->result == REFERENCE_Y    ? &p->y_shape
                       : p->result == REFERENCE_DX ? &p->x_shape
                                                   : &p->w_shape;
  int64_t count = 1;
  for (int axis = 0; axis < RANK; axis++) count *= shape->dim[axis];
  const dim3 blocks(static_cast<unsigned>((count + THREADS - 1) / THREADS));
  return cuda_launch(reference_convolution_kernel, blocks, THREADS, 0, *p, stream, error);
}
