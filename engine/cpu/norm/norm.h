/* The arguments of a norm with addresses, and row access; shared by the dispatch and the loops. */
#ifndef CELFORGE_ENGINE_CPU_NORM_NORM_H
#define CELFORGE_ENGINE_CPU_NORM_NORM_H

#include "engine/backend/op_arguments.h"
#include "engine/cpu/cpu.h"

typedef struct Norm {
  NormArguments arguments;
  int threads;
  const float *gain, *bias; /* C; ones and zeros where the op has none */
  Tensor x, residual;       /* residual.data NULL: none */
  Tensor y;                 /* forward */
  Tensor dy, dx;            /* backward */
  float *dgain, *dbias;     /* C; NULL if not needed */
} Norm;

/* A row of channels as f32: memory of the tensor, or a copy in `space`. */
static inline const float *norm_read(const Tensor *tensor, int64_t first, int64_t count,
                                     float *space) {
  if (tensor->dtype == DTYPE_F32) return (const float *)tensor->data + first;
  cpu_load(space, tensor->data, tensor->dtype, first, count);
  return space;
}

/* norm_place gives memory for a row of f32 results: that of the tensor, or `space`; norm_write then
 * converts `space` into the tensor. */
static inline float *norm_place(const Tensor *tensor, int64_t first, float *space) {
  return tensor->dtype == DTYPE_F32 ? (float *)tensor->data + first : space;
}
static inline void norm_write(const Tensor *tensor, int64_t first, int64_t count,
                              const float *space) {
  if (tensor->dtype != DTYPE_F32) cpu_store(tensor->data, tensor->dtype, first, space, count);
}

/* Floats of a row in a workspace: whole cache lines. */
static inline int64_t norm_row(const Norm *norm) {
  return (norm->arguments.channels + 15) & ~(int64_t)15;
}

#endif
