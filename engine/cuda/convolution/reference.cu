#include "engine/cuda/convolution/reference.h"

#include "base/bf16.h"
#include "engine/cuda/kernels/launch.h"

enum { THREADS = 128, SAMPLE_THREADS = 512 };
static const int64_t MAX_BLOCKS = 16384;

__device__ static float element(const void *tensor, DType dtype, int64_t index) {
  if (dtype == DTYPE_BF16) return bf16_to_f32(static_cast<const uint16_t *>(tensor)[index]);
  return static_cast<const float *>(tensor)[index];
}

/* The indices of element `index` along each axis. */
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

/* The position in x that tap `tap` of output position `place` reads, along one axis. */
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

/* The output position that reads input position `place` by tap `tap`; -1 where there is none. */
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

/* A sum over a whole clip: summed row by row, to limit the rounding error of f32. */
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

/* --- Sampled elements ------------------------------------------------------------------------- */
/* One product of the sum of an element; 0 where padding or stride excludes it. */
__device__ static double product_of_y(const ReferenceConvolutionLaunch &p, const int64_t at[RANK],
                                      int64_t term) {
  int64_t tap[RANK];
  const Shape taps = {{1, p.w_shape.dim[1], p.w_shape.dim[2], p.w_shape.dim[3], p.w_shape.dim[4]}};
  split(term, taps, tap);
  int64_t place[3];
  for (int axis = 0; axis < 3; axis++) {
    place[axis] = input_place(p, axis, at[1 + axis], tap[1 + axis]);
    if (place[axis] < 0 || place[axis] >= p.x_shape.dim[1 + axis]) return 0.0;
  }
  const int64_t in_x = join(p.x_shape, at[0], place[0], place[1], place[2], tap[4]);
  const int64_t in_w = join(p.w_shape, at[4], tap[1], tap[2], tap[3], tap[4]);
  return static_cast<double>(element(p.x, p.operands, in_x)) *
         static_cast<double>(element(p.w, p.operands, in_w));
}

__device__ static double product_of_dx(const ReferenceConvolutionLaunch &p, const int64_t at[RANK],
                                       int64_t term) {
  int64_t tap[RANK];
  const Shape taps = {{1, p.w_shape.dim[1], p.w_shape.dim[2], p.w_shape.dim[3], p.w_shape.dim[0]}};
  split(term, taps, tap);
  int64_t place[3];
  for (int axis = 0; axis < 3; axis++) {
    place[axis] = output_place(p, axis, at[1 + axis], tap[1 + axis]);
    if (place[axis] < 0) return 0.0;
  }
  const int64_t in_y = join(p.y_shape, at[0], place[0], place[1], place[2], tap[4]);
  const int64_t in_w = join(p.w_shape, tap[4], tap[1], tap[2], tap[3], at[4]);
  return static_cast<double>(element(p.y, p.operands, in_y)) *
         static_cast<double>(element(p.w, p.operands, in_w));
}

__device__ static double product_of_dw(const ReferenceConvolutionLaunch &p, const int64_t at[RANK],
                                       int64_t term) {
  int64_t pixel[RANK];
  const Shape pixels = {
      {p.y_shape.dim[0], p.y_shape.dim[1], p.y_shape.dim[2], p.y_shape.dim[3], 1}};
  split(term, pixels, pixel);
  int64_t place[3];
  for (int axis = 0; axis < 3; axis++) {
    place[axis] = input_place(p, axis, pixel[1 + axis], at[1 + axis]);
    if (place[axis] < 0 || place[axis] >= p.x_shape.dim[1 + axis]) return 0.0;
  }
  const int64_t in_x = join(p.x_shape, pixel[0], place[0], place[1], place[2], at[4]);
  const int64_t in_y = join(p.y_shape, pixel[0], pixel[1], pixel[2], pixel[3], at[0]);
  return static_cast<double>(element(p.x, p.operands, in_x)) *
         static_cast<double>(element(p.y, p.operands, in_y));
}

__host__ __device__ static int64_t terms_of(const ReferenceConvolutionLaunch &p) {
  const int64_t *w = p.w_shape.dim, *y = p.y_shape.dim;
  if (p.result == REFERENCE_DW) return y[0] * y[1] * y[2] * y[3];
  return w[1] * w[2] * w[3] * (p.result == REFERENCE_Y ? w[4] : w[0]);
}

__global__ void __launch_bounds__(SAMPLE_THREADS)
    reference_samples_kernel(const ReferenceSamplesLaunch p) {
  __shared__ double thread_sums[SAMPLE_THREADS];
  const ReferenceConvolutionLaunch &c = p.convolution;
  const Shape shape = result_shape(c);
  int64_t elements = 1, at[RANK];
  for (int axis = 0; axis < RANK; axis++) elements *= shape.dim[axis];
  split(reference_sample_index(blockIdx.x, p.samples, elements), shape, at);
  const int64_t terms = terms_of(c);
  double sum = 0.0;
  for (int64_t term = static_cast<int64_t>(blockIdx.y) * SAMPLE_THREADS + threadIdx.x; term < terms;
       term += p.slices * SAMPLE_THREADS)
    sum += c.result == REFERENCE_Y    ? product_of_y(c, at, term)
           : c.result == REFERENCE_DX ? product_of_dx(c, at, term)
                                      : product_of_dw(c, at, term);
  const int lane = static_cast<int>(threadIdx.x);
  thread_sums[lane] = sum;
  for (int half = SAMPLE_THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (lane < half) thread_sums[lane] += thread_sums[lane + half];
  }
  if (lane == 0) p.out[blockIdx.x * p.slices + blockIdx.y] = thread_sums[0];
}

extern "C" int64_t reference_sample_slices(const ReferenceConvolutionLaunch *convolution) {
  const int64_t slices = terms_of(*convolution) / (SAMPLE_THREADS * 64);
  return slices < 1                      ? 1
         : slices < REFERENCE_MAX_SLICES ? slices
                                         : static_cast<int64_t>(REFERENCE_MAX_SLICES);
}

extern "C" Status launch_reference_samples(const ReferenceSamplesLaunch *p, cudaStream_t stream,
                                           Error *error) {
  const dim3 blocks(static_cast<unsigned>(p->samples), static_cast<unsigned>(p->slices));
  return cuda_launch(reference_samples_kernel, blocks, SAMPLE_THREADS, 0, *p, stream, error);
}

/* --- Random numbers --------------------------------------------------------------------------- */
/* The finaliser of SplitMix64 (Steele, Lea, Flood 2014); the upper 24 bits become the number. */
__global__ void __launch_bounds__(THREADS) reference_random_kernel(const ReferenceRandomLaunch p) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * THREADS;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x; i < p.count;
       i += step) {
    uint64_t bits = (static_cast<uint64_t>(i) + (p.seed << 40)) * 0x9e3779b97f4a7c15u;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
    bits ^= bits >> 31;
    const float number = p.scale * (static_cast<float>(bits >> 40) * (2.0f / 16777216.0f) - 1.0f);
    if (p.dtype == DTYPE_BF16)
      static_cast<uint16_t *>(p.out)[i] = bf16_from_f32(number);
    else
      static_cast<float *>(p.out)[i] = number;
  }
}

extern "C" Status launch_reference_random(const ReferenceRandomLaunch *p, cudaStream_t stream,
                                          Error *error) {
  const int64_t blocks = (p->count + THREADS - 1) / THREADS;
  return cuda_launch(reference_random_kernel,
                     dim3(static_cast<unsigned>(blocks < MAX_BLOCKS ? blocks : MAX_BLOCKS)),
                     THREADS, 0, *p, stream, error);
}
