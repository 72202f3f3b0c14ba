/* Squared norms of segments: see segment_norm.h. */
#include "engine/cuda/kernels/segment_norm.h"

#include "engine/cuda/kernels/launch.h"
#include "engine/cuda/kernels/vector.h"

enum { THREADS = 256 };

/* Returns the sum over the block in thread 0, added as a tree. */
static __device__ inline double block_total(double value) {
  __shared__ double sums[THREADS];
  const int t = (int)threadIdx.x;
  sums[t] = value;
  for (int half = THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (t < half) sums[t] += sums[t + half];
  }
  return sums[t];
}

static __global__ void __launch_bounds__(THREADS) segment_chunks_kernel(const SegmentNormLaunch p) {
  const long long begin = p.begin[blockIdx.x], end = p.begin[blockIdx.x + 1];
  const long long whole = p.vectorized ? (end - begin) / 4 * 4 : 0;
  double total = 0.0;
  for (long long i = begin + threadIdx.x * 4; i < begin + whole; i += THREADS * 4) {
    float x[4];
    floats_load<float, 4>(p.x + i, x);
    total += (double)((x[0] * x[0] + x[1] * x[1]) + (x[2] * x[2] + x[3] * x[3]));
  }
  for (long long i = begin + whole + threadIdx.x; i < end; i += THREADS)
    total += (double)(p.x[i] * p.x[i]);
  total = block_total(total);
  if (threadIdx.x == 0) p.partials[blockIdx.x] = total;
}

static __global__ void __launch_bounds__(THREADS) segment_totals_kernel(const SegmentNormLaunch p) {
  double total = 0.0;
  for (long long k = p.first[blockIdx.x] + threadIdx.x; k < p.first[blockIdx.x + 1]; k += THREADS)
    total += p.partials[k];
  total = block_total(total);
  if (threadIdx.x == 0) p.out[blockIdx.x] = (float)total;
}

extern "C" Status launch_segment_norm(const SegmentNormLaunch *launch, cudaStream_t stream,
                                      Error *error) {
  const Status status =
      cuda_launch(segment_chunks_kernel, dim3(launch->chunks), THREADS, 0, *launch, stream, error);
  if (status != OK) return status;
  return cuda_launch(segment_totals_kernel, dim3(launch->segments), THREADS, 0, *launch, stream,
                     error);
}
