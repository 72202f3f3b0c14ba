/* Convolutions with few channels, made into ones with enough.
 *
 * Vector and matrix units work on 16 channels or more at a time; a convolution into 3 channels
 * wastes 13 of 16 lanes. The taps along the width can be channels instead:
 *
 *   few input channels: unfold x to xz[n,t,h,v,(j,c)] = x[n,t,h, v*stride + j - before, c] and
 *   convolve it with the same weights, read as [O,kT,kH,1,(kW,I)]: the same memory.
 *
 *   few output channels, stride 1: convolve x with weights of kW*O output channels and one tap in
 *   width, z[n,t,h,w,(r,o)], and fold: y[n,t,h,v,o] = sum over r of z[n,t,h, v + (kW-1-r) - before,
 *   (r,o)], where r = kW-1-j mirrors the tap, which makes both cases one pattern.
 *
 * In both, a window of `taps * channels` neighbouring elements of a row, moved on by
 * `step * channels` for each position, is a pixel of the folded tensor. Unfolding copies windows
 * out of rows; folding, its transpose, adds windows into rows. */
#ifndef CELFORGE_ENGINE_CPU_CONVOLUTION_FOLD_WIDTH_H
#define CELFORGE_ENGINE_CPU_CONVOLUTION_FOLD_WIDTH_H

#include "engine/graph/op.h"

typedef struct Fold {
  int64_t rows;         /* N * T * H */
  int64_t width;        /* pixels of a row of the narrow tensor */
  int64_t channels;     /* of the narrow tensor */
  int64_t positions;    /* pixels of a row of the folded tensor */
  int64_t taps;         /* the folded tensor has taps * channels channels */
  int64_t step, offset; /* position p's window begins at pixel p * step - offset */
  int threads;
} Fold;

size_t fold_workspace(const Fold *fold); /* bytes, a multiple of 64 */

/* folded = windows of narrow, zero outside its rows; both of `dtype`. */
void fold_unfold(const Fold *fold, const void *narrow, void *folded, DType dtype, void *workspace);

/* narrow = activation(sum of the windows of folded (f32) + bias); bias may be NULL. */
void fold_add(const Fold *fold, const float *folded, const float *bias, Activation activation,
              float slope, void *narrow, DType dtype, void *workspace);

/* row = activation(row + bias), `width` pixels; bias may be NULL. */
void fold_finish_row(int64_t width, int64_t channels, const float *bias, Activation activation,
                     float slope, float *row);

/* Weights [O,T,H,W,I] to [(W mirrored, O),T,H,1,I], and back. `planes` is T*H, elements of `size`
 * bytes. */
typedef struct MirrorShape {
  int64_t out_channels, planes, taps, in_channels;
} MirrorShape;
void fold_mirror_weights(MirrorShape shape, const void *plain, void *mirrored, size_t size);
void fold_unmirror_weights(MirrorShape shape, const void *mirrored, void *plain, size_t size);

#endif
