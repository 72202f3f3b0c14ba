/* Sums of partial sums: see reduce.h. */
#include "engine/cuda/codegen/reduce.h"

#include "engine/cuda/kernels/launch.h"

enum { THREADS = 256 };

static __global__ void __launch_bounds__(THREADS) reduce_finish_kernel(const ReduceFinishLaunch p) {
  __shared__ double sums[THREADS];
  const int t = (int)threadIdx.x, lane = t & (p.group - 1);
  const long long output = (long long)blockIdx.x * (THREADS / p.group) + t / p.group;
  double total = 0.0;
  if (output < p.outputs) {
    for (long long k = lane; k < p.chunks; k += p.group) {
      total += p.partials[output * p.output_stride + k * p.chunk_stride];
    }
  }
  sums[t] = total;
  for (int half = p.group / 2; half > 0; half /= 2) {
    __syncthreads();
    if (lane < half) sums[t] += sums[t + half];
  }
  if (lane == 0 && output < p.outputs) p.out[output] = (float)(sums[t] * (double)p.scale);
}

extern "C" Status launch_reduce_finish(const ReduceFinishLaunch *launch, cudaStream_t stream,
                                       Error *error) {
  const long long per_block = THREADS / launch->group;
  const unsigned blocks = (unsigned)((launch->outputs + per_block - 1) / per_block);
  return cuda_launch(reduce_finish_kernel, dim3(blocks), THREADS, 0, *launch, stream, error);
}
