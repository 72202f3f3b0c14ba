/* What a convolution op asks for, and the forms in which it can be given to cuDNN. Knows shapes
 * alone: nothing here needs a device.
 *
 * A form is a way from the op's tensors to a cuDNN graph and back. Where cuDNN takes an op as it
 * is, that is one call. Otherwise our own kernels stand before and behind it, with copies in the
 * workspace: with zeros around (a window, engine/cuda/convolution/epilogue.h), or with taps of the
 * kernel as channels (engine/cuda/convolution/im2col.h). */
#ifndef CELFORGE_ENGINE_CUDA_CONVOLUTION_CONV_VARIANT_H
#define CELFORGE_ENGINE_CUDA_CONVOLUTION_CONV_VARIANT_H

#include "base/text.h"
#include "engine/backend/backend.h"

typedef enum ConvolutionPass {
  CONVOLUTION_FORWARD,
  CONVOLUTION_BACKWARD_DATA,
  CONVOLUTION_BACKWARD_WEIGHTS,
} ConvolutionPass;

/* y = activation(x * w + bias) and its two gradients; tensors by their part in y = x * w, whatever
 * the pass. */
typedef struct Convolution {
  ConvolutionPass pass;
  Shape x, w, y; /* N T H W C; O T H W I; N T H W O */
  int stride[3], before[3], after[3];
  DType operands; /* f32 or bf16: of the two tensors that are read */
  DType result;   /* of the one that is written; of a gradient of weights f32 */
  bool bias;      /* forward: added. Backward of weights: dbias is wanted, and made by us */
  Activation activation;
  float slope;
} Convolution;

/* Reads an op's tensors. ERROR_INTERNAL naming the op where dtypes are none of the above. */
Status convolution_of(ConvolutionPass pass, const Op *op, const Tensor *inputs,
                      const Tensor *outputs, Convolution *out, Error *error);
/* "forward x [2,8,64,64,3] w ... stride 1,2,2 before 2,1,1 after 0,1,1 bf16 -> bf16 bias leaky_relu
 * 0.2": the same text for the same problem. */
void convolution_text(const Convolution *convolution, Text *out);

/* How the f32 gradient of the weights comes out of bf16 operands. */
typedef enum GradientForm {
  GRADIENT_DIRECT,   /* cuDNN writes it in the result's dtype */
  GRADIENT_IDENTITY, /* through a fused identity, which converts in registers: f32 throughout */
  GRADIENT_NARROW,   /* cuDNN writes bf16, our kernel widens it: one rounding to bf16 */
} GradientForm;

/* Which tensor has taps as channels: the convolution then has fewer taps and more channels.
 *
 *   TAPS_IN_X: x'[n,p,h,r,(a,b,c)] = x[n, p st + a - bt, h, r sw + b - bw, c], w'[o,i,(a,b,c)]
 *   TAPS_IN_Y: y'[n,t,q,w,(a,b,o)] = y[n, t - a + bt, q, w - b + bw, o],       w'[(a,b,o),i,c]
 *
 * In the second one strides of those axes are 1, and y is the sum over all y' that show it. */
typedef enum TapsForm { TAPS_KEPT, TAPS_IN_X, TAPS_IN_Y } TapsForm;

typedef struct ConvolutionForm {
  TapsForm taps;
  bool taps_of_time, taps_of_width; /* which taps; a and b above */
  bool frames;  /* taps, stride and padding leave time alone: frames are images, 4-D tensors */
  bool fused;   /* bias and activation inside cuDNN's graph, not in a kernel behind it */
  bool aligned; /* channels rounded up to what tensor cores load in 16 bytes, zeros added */
  bool padded;  /* where padding differs before and after, x is copied with its zeros around it */
  GradientForm gradient;
  int tier; /* forms of a later tier are tried only when no earlier one has an engine */
} ConvolutionForm;

enum { CONVOLUTION_MAX_FORMS = 48 };
/* The forms that make sense for a convolution, in the order in which they are wanted where nothing
 * is measured. Returns their number, at least 1. */
int convolution_forms(const Convolution *convolution, ConvolutionForm forms[CONVOLUTION_MAX_FORMS]);
/* "frames+fused", "frames+aligned+x_taps_tw+narrow": for logs, files and tests. */
const char *convolution_form_name(const ConvolutionForm *form, char name[64]);

/* The convolution that cuDNN is given in this form: shapes with added channels and padding, no bias
 * and activation unless fused, the dtype it writes. */
Convolution convolution_inner(const Convolution *convolution, const ConvolutionForm *form);

double convolution_flops(const Convolution *convolution); /* a product and a sum are two */
/* Puts those with most FLOPs first. */
void convolutions_by_flops(Convolution *convolutions, int count);

/* Channels that `dtype` loads in 16 bytes: 8 or 4. */
int64_t convolution_channel_step(DType dtype);

#endif
