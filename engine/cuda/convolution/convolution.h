/* A convolution in one of its forms, ready to run: windows into the workspace, cuDNN's plan,
 * windows back, our own bias, activation and sums; and trying them out. */
#ifndef CELFORGE_ENGINE_CUDA_CONVOLUTION_CONVOLUTION_H
#define CELFORGE_ENGINE_CUDA_CONVOLUTION_CONVOLUTION_H

#include "engine/cuda/autotune/autotune.h"
#include "engine/cuda/runtime/cuda.h"

/* What the tensor that cuDNN is given is of the op's: the same, or a copy in the workspace. */
typedef enum PartKind { PART_SAME, PART_WINDOW, PART_SPREAD, PART_PERMUTED } PartKind;

/* x, w or y: as the op has it, and as cuDNN is given it. */
typedef struct ConvolutionPart {
  Shape outer, inner;
  DType outer_dtype, inner_dtype;
  PartKind kind;
  size_t at;           /* of a copy, in the workspace */
  int64_t shift[RANK]; /* of a window: element i of the outer tensor is element i + shift of it */
} ConvolutionPart;

enum { PART_X, PART_W, PART_Y, PARTS };

typedef struct ConvolutionSteps {
  Convolution convolution;
  ConvolutionForm form;
  ConvolutionPart parts[PARTS];
  int written; /* the part that the pass writes */
  bool bias_copied;
  size_t bias_at; /* of a copied bias */
  int64_t sum_parts;
  size_t sums_at; /* partial sums of dbias */
  size_t plan_at; /* cuDNN's own workspace */
  const CudnnPlan *plan;
  size_t workspace;
} ConvolutionSteps;

int convolution_written_part(ConvolutionPass pass); /* of the parts */

/* Lays out the workspace. `plan` must be one for convolution_inner in this form. */
ConvolutionSteps convolution_steps(const Convolution *convolution, const ConvolutionForm *form,
                                   const CudnnPlan *plan);

/* The op's tensors by their part; bias is the forward pass's, or dbias. */
typedef struct ConvolutionTensors {
  void *part[PARTS];
  void *bias;
} ConvolutionTensors;

/* Of an op of this pass. */
ConvolutionTensors convolution_tensors(const Convolution *convolution, const Tensor *inputs,
                                       const Tensor *outputs);

/* Enqueues all steps on the stream. */
Status convolution_steps_run(const ConvolutionSteps *steps, cudnnHandle_t handle,
                             cudaStream_t stream, const ConvolutionTensors *tensors,
                             void *workspace, Error *error);

/* What the forms of one convolution are tried and measured on: tensors of its full shape with
 * numbers of their own in scratch memory. What the device has no memory for, the log says: without
 * the tensors every form, else the form whose workspace it is, passes untried and is not measured.
 */
typedef struct ConvolutionTrial ConvolutionTrial;
Status convolution_trial_new(const Convolution *convolution, cudnnHandle_t handle,
                             cudaStream_t stream, bool tf32, ConvolutionTrial **out, Error *error);
void convolution_trial_free(ConvolutionTrial *trial); /* NULL is allowed */
/* Runs a form's steps once, with NaN where they should write, and holds the first, the last and
 * some other elements of the result against plain sums. ERROR_INTERNAL: the run's error, or how far
 * off it is. */
Status convolution_trial_check(ConvolutionTrial *trial, const ConvolutionSteps *steps,
                               Error *error);
/* Seconds of the shortest of a few runs of steps that were checked; of one run where that took far
 * longer than `best`, the fastest so far (infinity: none). */
Status convolution_trial_measure(ConvolutionTrial *trial, const ConvolutionSteps *steps,
                                 double best, double *seconds, Error *error);

/* Like the constructors of cuda.h, in one form alone: for tests. NULL: as chosen. */
Status convolution_new(Backend *backend, const Op *op, ConvolutionPass pass,
                       const ConvolutionForm *only, const Tensor *inputs, const Tensor *outputs,
                       Kernel **out, Error *error);

/* Holds bf16 and f32 convolutions of a few shapes, all passes, against plain loops on the device
 * (reference_convolution.h). ERROR_INTERNAL names the shape, the engine and what to do. What has
 * passed once on this device with this cuDNN is remembered in `folder` (NULL: is not). */
Status convolution_self_test(CudaBackend *backend, const char *folder, Error *error);

#endif
