/* The problem that a convolution kernel solves: pass, shapes, strides, padding, dtypes and
 * epilogue. Plain data, without cuDNN types. */
#ifndef CELFORGE_ENGINE_CUDA_CUDNN_CONV_PROBLEM_H
#define CELFORGE_ENGINE_CUDA_CUDNN_CONV_PROBLEM_H

#include "engine/graph/op.h"

typedef enum ConvolutionPass {
  CONVOLUTION_FORWARD,
  CONVOLUTION_BACKWARD_DATA,
  CONVOLUTION_BACKWARD_WEIGHTS,
} ConvolutionPass;

/* y = activation(x * w + bias), or one of its two gradients. x, w and y are the shapes of the
 * forward pass, whichever of them the pass writes. */
typedef struct Convolution {
  ConvolutionPass pass;
  Shape x, w, y; /* N T H W C; O T H W I; N T H W O */
  int stride[3], before[3], after[3];
  DType operands; /* of the two tensors that are read: f32 or bf16 */
  DType result;   /* of the tensor that is written; f32 for the gradient of the weights */
  bool bias;      /* forward: added to y. Backward weights: dbias is also computed, by our kernel */
  Activation activation;
  float slope;
} Convolution;

#endif
