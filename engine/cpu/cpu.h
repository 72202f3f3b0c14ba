/* Shared by the files of the CPU backend. Not for users of the engine.
 *
 * A kernel is a struct whose first member is `Kernel`. Its constructor reads shapes and dtypes (an
 * absent optional tensor has a zero shape), its run function the addresses. Loops are
 * `#pragma omp parallel for num_threads(...)` with the thread count of the backend and a static
 * schedule, so that equal thread counts give equal bytes. */
#ifndef CELFORGE_ENGINE_CPU_CPU_H
#define CELFORGE_ENGINE_CPU_CPU_H

#include <string.h>

#include "base/bf16.h"
#include "engine/backend/backend.h"

struct Onednn; /* engine/cpu/convolution/onednn.h */

typedef struct CpuBackend {
  Backend base;
  int threads;
  struct Onednn *onednn;
  double *events; /* clock values by index */
  int event_capacity;
  char description[96];
} CpuBackend;

static inline int cpu_threads(const Backend *backend) {
  return ((const CpuBackend *)(const void *)backend)->threads;
}
static inline struct Onednn *cpu_onednn(const Backend *backend) {
  return ((const CpuBackend *)(const void *)backend)->onednn;
}

/* --- Kernel constructors ---------------------------------------------------------------------- */
typedef Status CpuKernelNew(Backend *backend, const Op *op, const Tensor *inputs,
                            const Tensor *outputs, Kernel **out, Error *error);

CpuKernelNew cpu_pointwise_new;
CpuKernelNew cpu_reduce_new;
CpuKernelNew cpu_segment_norm_new;
CpuKernelNew cpu_conv3d_new;
CpuKernelNew cpu_conv3d_backward_data_new;
CpuKernelNew cpu_conv3d_backward_weights_new;
CpuKernelNew cpu_matmul_new;
CpuKernelNew cpu_norm_new;
CpuKernelNew cpu_norm_backward_new;
CpuKernelNew cpu_concat_new;
CpuKernelNew cpu_slice_new;
CpuKernelNew cpu_resample_new; /* pad, resize, average pool and their transposes */
CpuKernelNew cpu_max_pool_new;
CpuKernelNew cpu_max_pool_backward_new;
CpuKernelNew cpu_warp_new;
CpuKernelNew cpu_translate_new;
CpuKernelNew cpu_store_new;
CpuKernelNew cpu_adam_new;

/* --- Helpers ---------------------------------------------------------------------------------- */
/* Load or store `count` elements of an f32 or bf16 tensor, from element `first` on, as f32. */
static inline void cpu_load(float *restrict to, const void *data, DType dtype, int64_t first,
                            int64_t count) {
  if (dtype == DTYPE_F32) {
    memcpy(to, (const float *)data + first, (size_t)count * sizeof *to);
  } else {
    const uint16_t *from = (const uint16_t *)data + first;
    for (int64_t i = 0; i < count; i++) to[i] = bf16_to_f32(from[i]);
  }
}

static inline void cpu_store(void *data, DType dtype, int64_t first, const float *restrict from,
                             int64_t count) {
  if (dtype == DTYPE_F32) {
    memcpy((float *)data + first, from, (size_t)count * sizeof *from);
  } else {
    uint16_t *to = (uint16_t *)data + first;
    for (int64_t i = 0; i < count; i++) to[i] = bf16_from_f32(from[i]);
  }
}

#endif
