/* The launch sequence of one convolution variant: copies into the workspace, cuDNN's plan, and our
 * kernels for copies back, bias, activation and the gradient of the bias. */
#ifndef CELFORGE_ENGINE_CUDA_CONVOLUTION_CONV_RUN_H
#define CELFORGE_ENGINE_CUDA_CONVOLUTION_CONV_RUN_H

#include "engine/cuda/convolution/conv_variant.h"
#include "engine/cuda/cudnn/cudnn_plan.h"
#include "engine/cuda/runtime/cuda.h"

/* How the tensor that cuDNN uses is obtained from the op's: the same memory, or a copy in the
 * workspace. */
typedef enum TensorCopy { COPY_NONE, COPY_PAD_CROP, COPY_IM2COL, COPY_PERMUTE } TensorCopy;

/* x, w or y: as the op stores it (outer) and as cuDNN uses it (inner). */
typedef struct ConvTensor {
  Shape outer, inner;
  DType outer_dtype, inner_dtype;
  TensorCopy copy;
  size_t offset;       /* of the copy in the workspace, bytes */
  int64_t shift[RANK]; /* of COPY_PAD_CROP: outer element i is inner element i + shift */
} ConvTensor;

enum { CONV_X, CONV_W, CONV_Y, CONV_TENSORS };

typedef struct ConvRun {
  Convolution convolution;
  ConvVariant variant;
  ConvTensor tensors[CONV_TENSORS];
  int output; /* the tensor that the pass writes */
  bool copies_bias;
  size_t bias_offset; /* of the copied bias in the workspace, bytes */
  int64_t sum_parts;  /* of column_sums_parts; 0: no dbias */
  size_t sums_offset; /* of the partial sums of dbias */
  size_t plan_offset; /* of cuDNN's own workspace */
  const CudnnPlan *plan;
  size_t workspace; /* in all, bytes */
} ConvRun;

/* The tensor that a pass writes: CONV_X, CONV_W or CONV_Y. */
int conv_output_tensor(ConvolutionPass pass);

/* Lays out the workspace. `plan` must be one for conv_variant_apply(convolution, variant), and must
 * outlive the result. */
ConvRun conv_run_layout(const Convolution *convolution, const ConvVariant *variant,
                        const CudnnPlan *plan);

/* Device addresses of an op's tensors; `bias` is the bias of the forward pass, or dbias. */
typedef struct ConvPointers {
  void *tensor[CONV_TENSORS];
  void *bias;
} ConvPointers;

/* `inputs` and `outputs` are those of an op of the convolution's pass. */
ConvPointers conv_pointers(const Convolution *convolution, const Tensor *inputs,
                           const Tensor *outputs);

/* Enqueues the whole sequence on the stream, which must be the handle's. ERROR_INTERNAL where a
 * tensor is not 16-byte aligned, or with the error of cuDNN or of a launch. */
Status conv_run_enqueue(const ConvRun *run, cudnnHandle_t handle, cudaStream_t stream,
                        const ConvPointers *tensors, void *workspace, Error *error);

#endif
