/* oneDNN, as the kernels of convolutions and matrix products use it. Only the files onednn*.c
 * include its headers, which confines changes of its API to them. Not thread-safe: one thread runs
 * the kernels of a backend.
 *
 * Layouts: activations N T H W C, weights O T H W I, vectors f32, all contiguous. Weights that a
 * primitive needs in another layout are reordered: once per version of their buffer (shared by all
 * primitives that need the same layout), or in every run if they are not in a buffer. */
#ifndef CELFORGE_ENGINE_CPU_CONVOLUTION_ONEDNN_H
#define CELFORGE_ENGINE_CPU_CONVOLUTION_ONEDNN_H

#include "engine/backend/op_arguments.h"

typedef struct Onednn Onednn;

Status onednn_new(int threads, Onednn **out, Error *error);
void onednn_free(Onednn *onednn);

/* How oneDNN runs bf16 convolutions on this processor: not at all below AVX-512. */
typedef enum Bf16Support { BF16_NONE, BF16_EMULATED, BF16_NATIVE } Bf16Support;
Bf16Support onednn_bf16(void);
const char *onednn_instructions(void); /* "AVX-512 with AMX" */

typedef enum ConvPass { PASS_FORWARD, PASS_BACKWARD_DATA, PASS_BACKWARD_WEIGHTS } ConvPass;

/* Index 0, 1, 2 is time, height, width. */
typedef struct ConvGeometry {
  int64_t batch, in_channels, out_channels;
  int64_t in[3], kernel[3], out[3];
  int64_t stride[3], before[3], after[3];
} ConvGeometry;

typedef struct ConvSetup {
  ConvPass pass;
  ConvGeometry geometry;
  DType operands; /* of the two tensors that are read */
  DType result;   /* of the tensor that is written; f32 in the backward pass of the weights */
  bool bias;      /* forward: is added; backward of the weights: its gradient is written */
  Activation activation;
  float slope;
  /* Above 1: the caller's weights are O T H W I with W = mirrored_width, and are read as
   * (W mirrored, O) T H I, out_channels = W * O (see fold_width.h). */
  int64_t mirrored_width;
  const char *name;      /* of the op, for errors; borrowed */
  const char *kind_name; /* "conv3d_backward_data" */
} ConvSetup;

typedef struct ConvPrimitive ConvPrimitive;

Status conv_primitive_new(Onednn *onednn, const ConvSetup *setup, ConvPrimitive **out,
                          Error *error);
void conv_primitive_free(ConvPrimitive *primitive);
size_t conv_primitive_workspace(const ConvPrimitive *primitive); /* bytes, a multiple of 64 */

/* x and y are the input and output sides (values or gradients); which of them is written depends on
 * the pass. `w` is written in the backward pass of the weights and read otherwise; `buffer` is the
 * buffer that contains `w` when it is read, or NULL. */
Status conv_primitive_run(ConvPrimitive *primitive, void *x, void *w, const Buffer *buffer,
                          void *bias, void *y, void *workspace, Error *error);

/* --- Matrix products -------------------------------------------------------------------------- */
typedef struct MatmulPrimitive MatmulPrimitive;

/* `name` is that of the op, for errors. */
Status matmul_primitive_new(Onednn *onednn, const MatmulArguments *arguments, const char *name,
                            MatmulPrimitive **out, Error *error);
void matmul_primitive_free(MatmulPrimitive *primitive);
size_t matmul_primitive_workspace(const MatmulPrimitive *primitive); /* bytes */
Status matmul_primitive_run(MatmulPrimitive *primitive, void *a, void *b, void *y, void *workspace,
                            Error *error);

#endif
