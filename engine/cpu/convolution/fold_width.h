/* Width folding: turns a convolution with few channels into one with enough.
 *
 * Vector and matrix units process 16 or more channels at a time; a convolution into 3 channels
 * wastes 13 of 16 lanes. The kernel columns can become channels instead:
 *
 *   Few input channels: unfold x to xz[n,t,h,v,(j,c)] = x[n,t,h, v*stride + j - before, c] and
 *   convolve it with the same weights, read as [O,kT,kH,1,(kW,I)], which is the same memory.
 *
 *   Few output channels, stride 1: convolve x with weights of kW*O output channels and kernel width
 *   1, giving z[n,t,h,w,(r,o)], and fold: y[n,t,h,v,o] = sum over r of
 *   z[n,t,h, v + (kW-1-r) - before, (r,o)], where r = kW-1-j mirrors the kernel columns, which
 * makes both cases one pattern.
 *
 * In both, a pixel of the folded tensor is a window of `kernel_width * channels` neighbouring
 * elements of a row, and windows advance by `step * channels` per position. Unfolding copies
 * windows out of rows; folding, its transpose, adds windows into rows (PyTorch's unfold and fold).
 */
#ifndef CELFORGE_ENGINE_CPU_CONVOLUTION_FOLD_WIDTH_H
#define CELFORGE_ENGINE_CPU_CONVOLUTION_FOLD_WIDTH_H

#include "engine/graph/op.h"

typedef struct WidthFold {
  int64_t rows;         /* N * T * H */
  int64_t width;        /* pixels of a row of the narrow tensor */
  int64_t channels;     /* of the narrow tensor */
  int64_t positions;    /* pixels of a row of the folded tensor */
  int64_t kernel_width; /* the folded tensor has kernel_width * channels channels */
  int64_t step, offset; /* the window of position p begins at pixel p * step - offset */
  int threads;
} WidthFold;

size_t width_fold_workspace(const WidthFold *fold); /* bytes, a multiple of 64 */

/* folded = the windows of narrow, zero outside of its rows; both of `dtype`. */
void width_unfold(const WidthFold *fold, const void *narrow, void *folded, DType dtype,
                  void *workspace);

/* narrow = activation(sum of the windows of folded (f32) + bias); bias may be NULL. */
void width_fold(const WidthFold *fold, const float *folded, const float *bias,
                Activation activation, float slope, void *narrow, DType dtype, void *workspace);

/* row = activation(row + bias), `width` pixels; bias may be NULL. */
void finish_output_row(int64_t width, int64_t channels, const float *bias, Activation activation,
                       float slope, float *row);

/* Weights [O,T,H,W,I] to [(W mirrored, O),T,H,1,I], and back. `planes` is T*H, elements of `size`
 * bytes. */
typedef struct MirrorShape {
  int64_t out_channels, planes, kernel_width, in_channels;
} MirrorShape;
void mirror_weights(MirrorShape shape, const void *plain, void *mirrored, size_t size);
void unmirror_weights(MirrorShape shape, const void *mirrored, void *plain, size_t size);

#endif
