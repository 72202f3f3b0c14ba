/* oneDNN, seen from the convolution kernels: only the files onednn*.c include its headers, so that
 * a change of oneDNN's API stays in them. Not thread-safe: one thread runs a backend's kernels.
 *
 * Layouts: activations N T H W C, weights O T H W I, vectors f32, all contiguous. Where a primitive
 * wants its weights in another layout they are reordered: once per version of the buffer they lie
 * in (the result is shared by all primitives that want the same), or at every run when they lie in
 * no buffer. */
#ifndef CELFORGE_ENGINE_CPU_CONVOLUTION_ONEDNN_H
#define CELFORGE_ENGINE_CPU_CONVOLUTION_ONEDNN_H

#include "engine/backend/backend.h"

typedef struct Onednn Onednn;

Status onednn_new(int threads, Onednn **out, Error *error);
void onednn_free(Onednn *onednn);

/* What oneDNN does with bf16 convolutions on this processor: nothing below AVX-512. */
typedef enum Bf16Support { BF16_NONE, BF16_EMULATED, BF16_NATIVE } Bf16Support;
Bf16Support onednn_bf16(void);
const char *onednn_instructions(void); /* "AVX-512 with AMX" */

typedef enum ConvPass { PASS_FORWARD, PASS_BACKWARD_DATA, PASS_BACKWARD_WEIGHTS } ConvPass;

/* Index 0, 1, 2 is time, height, width. */
typedef struct ConvGeometry {
  int64_t batch, in_channels, out_channels;
  int64_t in[3], taps[3], out[3];
  int64_t stride[3], before[3], after[3];
} ConvGeometry;

typedef struct ConvSetup {
  ConvPass pass;
  ConvGeometry geometry;
  DType operands; /* of what is read: two of x, w, y */
  DType result;   /* of what is written; f32 in the backward pass of the weights */
  bool bias;      /* forward: added; backward of the weights: its gradient is written too */
  Activation activation;
  float slope;
  /* Above 1: the weights given lie as O T H W I with W = mirrored_taps, and are read as
   * (W mirrored, O) T H I, out_channels = W * O (see fold.h). */
  int64_t mirrored_taps;
  const char *name;      /* the op's, for errors; borrowed */
  const char *kind_name; /* "conv3d_backward_data" */
} ConvSetup;

typedef struct ConvPrimitive ConvPrimitive;

Status conv_primitive_new(Onednn *onednn, const ConvSetup *setup, ConvPrimitive **out,
                          Error *error);
void conv_primitive_free(ConvPrimitive *primitive);
size_t conv_primitive_workspace(const ConvPrimitive *primitive); /* bytes, a multiple of 64 */

/* x and y are the input's and the output's side (of values or of gradients); the one the pass gives
 * is written. `w` is written in the backward pass of the weights and read otherwise; `buffer` is
 * what w lies in when it is read, or NULL. */
Status conv_primitive_run(ConvPrimitive *primitive, void *x, void *w, const Buffer *buffer,
                          void *bias, void *y, void *workspace, Error *error);

#endif
