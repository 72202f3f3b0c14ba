/* Store, accumulate and Adam: see update.h. */
#include "engine/cuda/kernels/update.h"

#include "engine/cuda/kernels/launch.h"
#include "engine/cuda/kernels/vector.h"

enum { THREADS = 256 };

static dim3 blocks_for(long long count, int each) {
  const long long per_block = (long long)THREADS * each;
  return dim3(static_cast<unsigned>((count + per_block - 1) / per_block));
}

/* The index of this thread's first element, `each` elements per thread. */
static __device__ inline long long first_of(int each) {
  return ((long long)blockIdx.x * THREADS + threadIdx.x) * each;
}

/* --- Store ------------------------------------------------------------------------------------ */

template <typename From, typename To>
static __device__ inline void store_one(const From *value, To *target, bool accumulate) {
  float x[1], sum[1];
  floats_load<From, 1>(value, x);
  if (accumulate) {
    floats_load<To, 1>(target, sum);
    x[0] += sum[0];
  }
  floats_store<To, 1>(target, x);
}

template <typename From, typename To>
static __global__ void __launch_bounds__(THREADS) store_kernel(const StoreLaunch p) {
  const int N = sizeof(From) + sizeof(To) == 8 ? 4 : 8;
  const long long first = first_of(N), left = p.count - first;
  const From *value = static_cast<const From *>(p.value) + first;
  To *target = static_cast<To *>(p.target) + first;
  if (p.vectorized && left >= N) {
    float x[N], sum[N];
    load_wide<N>(value, x);
    if (p.accumulate) {
      load_wide<N>(target, sum);
      for (int j = 0; j < N; j++) x[j] += sum[j];
    }
    store_wide<N>(target, x);
  } else {
    for (int j = 0; j < N && j < left; j++) store_one(value + j, target + j, p.accumulate);
  }
}

template <typename From>
static Status store_from(const StoreLaunch *p, cudaStream_t stream, Error *error) {
  const dim3 blocks = blocks_for(p->count, sizeof(From) == 4 && !p->target_bf16 ? 4 : 8);
  if (p->target_bf16) {
    return cuda_launch(store_kernel<From, uint16_t>, blocks, THREADS, 0, *p, stream, error);
  }
  return cuda_launch(store_kernel<From, float>, blocks, THREADS, 0, *p, stream, error);
}

extern "C" Status launch_store(const StoreLaunch *p, cudaStream_t stream, Error *error) {
  return p->value_bf16 ? store_from<uint16_t>(p, stream, error)
                       : store_from<float>(p, stream, error);
}

/* --- Adam ------------------------------------------------------------------------------------- */

static __global__ void adam_decide_kernel(const AdamLaunch p) {
  const int applies = adam_applies(*p.norm, *p.controls);
  p.decision->applies = applies;
  p.decision->step = adam_step(p.constants, *p.norm, *p.controls, p.counters->applied);
  *p.counters = adam_count(*p.counters, applies);
}

static __device__ inline void adam_element(const AdamLaunch &p, const AdamStep &step, float g,
                                           float *parameter, float *m, float *v) {
  const float clipped = step.gradient_scale * g;
  *m = adam_moment1(p.constants, *m, clipped);
  *v = adam_moment2(p.constants, *v, clipped);
  *parameter = adam_parameter(p.constants, step, *parameter, *m, *v);
}

static __device__ inline void adam_four(const AdamLaunch &p, const AdamStep &step, long long i) {
  float x[4], g[4], m[4], v[4], ema[4];
  floats_load<float, 4>(p.parameters + i, x);
  floats_load<float, 4>(p.gradients + i, g);
  floats_load<float, 4>(p.moment1 + i, m);
  floats_load<float, 4>(p.moment2 + i, v);
  if (p.ema) floats_load<float, 4>(p.ema + i, ema);
  for (int j = 0; j < 4; j++) adam_element(p, step, g[j], &x[j], &m[j], &v[j]);
  floats_store<float, 4>(p.parameters + i, x);
  floats_store<float, 4>(p.moment1 + i, m);
  floats_store<float, 4>(p.moment2 + i, v);
  if (p.ema) {
    for (int j = 0; j < 4; j++) ema[j] = adam_ema_update(step, ema[j], x[j]);
    floats_store<float, 4>(p.ema + i, ema);
  }
  if (p.compute) {
    *reinterpret_cast<uint2 *>(p.compute + i) =
        make_uint2(pack_bf16x2(x[0], x[1]), pack_bf16x2(x[2], x[3]));
  }
}

static __device__ inline void adam_one(const AdamLaunch &p, const AdamStep &step, long long i) {
  float x = p.parameters[i], m = p.moment1[i], v = p.moment2[i];
  adam_element(p, step, p.gradients[i], &x, &m, &v);
  p.parameters[i] = x;
  p.moment1[i] = m;
  p.moment2[i] = v;
  if (p.ema) p.ema[i] = adam_ema_update(step, p.ema[i], x);
  if (p.compute) p.compute[i] = bf16_from_f32(x);
}

static __global__ void __launch_bounds__(THREADS) adam_kernel(const AdamLaunch p) {
  if (!p.decision->applies) return;
  const AdamStep step = p.decision->step;
  const long long first = first_of(4);
  if (p.vectorized && first + 4 <= p.count) {
    adam_four(p, step, first);
  } else {
    for (long long i = first; i < first + 4 && i < p.count; i++) adam_one(p, step, i);
  }
}

extern "C" Status launch_adam(const AdamLaunch *p, cudaStream_t stream, Error *error) {
  const Status status = cuda_launch(adam_decide_kernel, dim3(1), 1, 0, *p, stream, error);
  if (status != OK) return status;
  return cuda_launch(adam_kernel, blocks_for(p->count, 4), THREADS, 0, *p, stream, error);
}
