/* Convolution variants: the ways in which a convolution op can be computed with cuDNN. Depends on
 * shapes alone and needs no device.
 *
 * The plain variant is one cuDNN call on the op's own tensors. The others run our kernels before
 * and after cuDNN, on copies in the workspace: with zero padding (a pad-and-crop copy,
 * engine/cuda/convolution/epilogue.h), or with taps of the kernel unfolded into channels (im2col,
 * engine/cuda/convolution/im2col.h). */
#ifndef CELFORGE_ENGINE_CUDA_CONVOLUTION_CONV_VARIANT_H
#define CELFORGE_ENGINE_CUDA_CONVOLUTION_CONV_VARIANT_H

#include "base/text.h"
#include "engine/backend/backend.h"
#include "engine/cuda/cudnn/conv_problem.h"

/* --- Convolutions ----------------------------------------------------------------------------- */
/* Reads an op's tensors. ERROR_INTERNAL with the op's name where the dtypes are not supported. */
Status convolution_from_op(ConvolutionPass pass, const Op *op, const Tensor *inputs,
                           const Tensor *outputs, Convolution *out, Error *error);
/* Appends "forward x [2,8,64,64,3] w ... stride 1,2,2 before 2,1,1 after 0,1,1 bf16 -> bf16 bias
 * leaky_relu 0.2". Equal convolutions have equal texts: it is part of the key of the plan cache. */
void convolution_text(const Convolution *convolution, Text *out);
double convolution_flops(const Convolution *convolution); /* a multiply-add counts as two */
/* Sorts by FLOPs, largest first. */
void convolutions_sort_by_flops(Convolution *convolutions, int count);

/* --- Variants --------------------------------------------------------------------------------- */
/* How the f32 gradient of the weights is obtained from bf16 operands. */
typedef enum WgradOutput {
  WGRAD_DIRECT,   /* cuDNN writes the result's dtype */
  WGRAD_IDENTITY, /* a fused identity converts in registers: f32 throughout */
  WGRAD_BF16,     /* cuDNN writes bf16, our kernel converts to f32: one rounding to bf16 */
} WgradOutput;

/* The tensor that im2col unfolds: its taps along time (a) and width (b) become channels, so the
 * convolution has fewer taps and more channels.
 *
 *   IM2COL_X: x'[n,p,h,r,(a,b,c)] = x[n, p st + a - bt, h, r sw + b - bw, c], w'[o,i,(a,b,c)]
 *   IM2COL_Y: y'[n,t,q,w,(a,b,o)] = y[n, t - a + bt, q, w - b + bw, o],       w'[(a,b,o),i,c]
 *
 * IM2COL_Y needs stride 1 along the unfolded axes; y is the sum over all elements of y' that refer
 * to it (col2im). */
typedef enum Im2colTensor { IM2COL_NONE, IM2COL_X, IM2COL_Y } Im2colTensor;

typedef struct ConvVariant {
  Im2colTensor im2col;
  bool im2col_time, im2col_width; /* which taps become channels: a, b */
  bool frames;  /* 4-D tensors: time is merged into the batch, since taps, stride and padding do not
                   involve it */
  bool fused;   /* bias and activation in cuDNN's graph instead of in our kernel after it */
  bool aligned; /* channels are zero-padded to a multiple that tensor cores load in 16 bytes */
  bool padded;  /* x is copied with its zero padding along axes with unequal padding */
  WgradOutput wgrad;
  int tier; /* variants of a later tier are used only where no earlier tier has an engine */
} ConvVariant;

enum { CONV_MAX_VARIANTS = 48 };
/* Lists the variants that are worthwhile for a convolution, in order of preference where nothing is
 * measured. Returns their number, at least 1. */
int conv_variants(const Convolution *convolution, ConvVariant variants[CONV_MAX_VARIANTS]);
/* "frames+fused", "frames+aligned+x_im2col_tw+bf16_wgrad": for the log, the plan cache and tests.
 */
const char *conv_variant_name(const ConvVariant *variant, char name[64]);

/* The convolution that cuDNN computes in this variant: with added channels and padding, without
 * bias and activation unless fused, and with the dtype that cuDNN writes. */
Convolution conv_variant_apply(const Convolution *convolution, const ConvVariant *variant);

#endif
