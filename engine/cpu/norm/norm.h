/* The norms' loops, one file for each way of taking statistics: norm_pixels.c (rms: a pixel over
 * its channels) and norm_frames.c (instance, group: a frame's channels over its pixels). */
#ifndef CELFORGE_ENGINE_CPU_NORM_NORM_H
#define CELFORGE_ENGINE_CPU_NORM_NORM_H

#include "engine/backend/op_arguments.h"
#include "engine/cpu/cpu.h"

typedef struct Norm {
  NormArguments task;
  int threads;
  const float *gain, *bias; /* C; ones and zeros where the op has none */
  Tensor x, residual;       /* residual.data NULL: none */
  Tensor y;                 /* forward */
  Tensor dy, dx;            /* backward */
  float *dgain, *dbias;     /* C; NULL where not wanted */
} Norm;

size_t norm_pixels_workspace(const Norm *norm);
void norm_pixels_forward(const Norm *norm, void *workspace);
void norm_pixels_backward(const Norm *norm, void *workspace);

size_t norm_frames_workspace(const Norm *norm);
void norm_frames_forward(const Norm *norm, void *workspace);
void norm_frames_backward(const Norm *norm, void *workspace);

/* A row of channels as f32: the tensor's own memory, or a copy in `space`. */
static inline const float *norm_read(const Tensor *tensor, int64_t first, int64_t count,
                                     float *space) {
  if (tensor->dtype == DTYPE_F32) return (const float *)tensor->data + first;
  cpu_load(space, tensor->data, tensor->dtype, first, count);
  return space;
}

/* Where a row is to be written as f32, and what brings it to the tensor. */
static inline float *norm_place(const Tensor *tensor, int64_t first, float *space) {
  return tensor->dtype == DTYPE_F32 ? (float *)tensor->data + first : space;
}
static inline void norm_write(const Tensor *tensor, int64_t first, int64_t count,
                              const float *space) {
  if (tensor->dtype != DTYPE_F32) cpu_store(tensor->data, tensor->dtype, first, space, count);
}

/* A row of floats in a workspace: whole cache lines. */
static inline int64_t norm_row(const Norm *norm) {
  return (norm->task.channels + 15) & ~(int64_t)15;
}

#endif
