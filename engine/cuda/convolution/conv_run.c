#include "engine/cuda/convolution/conv_run.h"

#include "engine/cuda/convolution/epilogue.h"
#include "engine/cuda/convolution/im2col.h"

/* --- Layout ----------------------------------------------------------------------------------- */
/* cuDNN expects the alignment of cudaMalloc; arenas guarantee less. */
enum { PLAN_ALIGNMENT = 256 };

static size_t reserve(size_t *used, size_t bytes) {
  const size_t at = *used;
  *used += memory_align(bytes);
  return at;
}

int conv_output_tensor(ConvolutionPass pass) {
  static const int outputs[] = {[CONVOLUTION_FORWARD] = CONV_Y,
                                [CONVOLUTION_BACKWARD_DATA] = CONV_X,
                                [CONVOLUTION_BACKWARD_WEIGHTS] = CONV_W};
  return outputs[pass];
}

static TensorCopy copy_kind(const ConvRun *run, int index) {
  static const int im2col_tensors[] = {[IM2COL_X] = CONV_X, [IM2COL_Y] = CONV_Y};
  const ConvTensor *tensor = &run->tensors[index];
  if (run->variant.im2col != IM2COL_NONE && index == CONV_W) return COPY_PERMUTE;
  if (run->variant.im2col != IM2COL_NONE && index == im2col_tensors[run->variant.im2col])
    return COPY_IM2COL;
  const bool same =
      shape_equal(tensor->outer, tensor->inner) && tensor->outer_dtype == tensor->inner_dtype;
  return same ? COPY_NONE : COPY_PAD_CROP;
}

static void describe_tensors(ConvRun *run, const Convolution *inner) {
  const Convolution *c = &run->convolution;
  const Shape outer_shapes[CONV_TENSORS] = {c->x, c->w, c->y};
  const Shape inner_shapes[CONV_TENSORS] = {inner->x, inner->w, inner->y};
  for (int i = 0; i < CONV_TENSORS; i++) {
    ConvTensor *tensor = &run->tensors[i];
    tensor->outer = outer_shapes[i];
    tensor->inner = inner_shapes[i];
    tensor->outer_dtype = i == run->output ? c->result : c->operands;
    tensor->inner_dtype = i == run->output ? inner->result : inner->operands;
    tensor->copy = copy_kind(run, i);
  }
  for (int i = 0; i < 3 && run->variant.padded; i++)
    run->tensors[CONV_X].shift[AXIS_T + i] = c->before[i] - inner->before[i];
}

ConvRun conv_run_layout(const Convolution *convolution, const ConvVariant *variant,
                        const CudnnPlan *plan) {
  const Convolution inner = conv_variant_apply(convolution, variant);
  const int64_t channels = convolution->y.dim[AXIS_C];
  ConvRun run = {.convolution = *convolution,
                 .variant = *variant,
                 .output = conv_output_tensor(convolution->pass),
                 .plan = plan};
  describe_tensors(&run, &inner);
  size_t used = 0;
  run.plan_offset = reserve(&used, plan->workspace);
  for (int i = 0; i < CONV_TENSORS; i++) {
    ConvTensor *tensor = &run.tensors[i];
    if (tensor->copy != COPY_NONE)
      tensor->offset =
          reserve(&used, (size_t)shape_count(tensor->inner) * dtype_size(tensor->inner_dtype));
  }
  run.copies_bias = inner.bias && inner.y.dim[AXIS_C] != channels;
  if (run.copies_bias)
    run.bias_offset = reserve(&used, (size_t)inner.y.dim[AXIS_C] * sizeof(float));
  if (convolution->pass == CONVOLUTION_BACKWARD_WEIGHTS && convolution->bias) {
    run.sum_parts = column_sums_parts(shape_count(convolution->y) / channels, channels);
    run.sums_offset = reserve(&used, (size_t)(run.sum_parts * channels) * sizeof(float));
  }
  run.workspace = used > 0 ? used + PLAN_ALIGNMENT : 0;
  return run;
}

ConvPointers conv_pointers(const Convolution *c, const Tensor *inputs, const Tensor *outputs) {
  ConvPointers t;
  if (c->pass == CONVOLUTION_FORWARD)
    t = (ConvPointers){.tensor = {inputs[0].data, inputs[1].data, outputs[0].data},
                       .bias = c->bias ? inputs[2].data : NULL};
  else if (c->pass == CONVOLUTION_BACKWARD_DATA)
    t = (ConvPointers){.tensor = {outputs[0].data, inputs[1].data, inputs[0].data}};
  else
    t = (ConvPointers){.tensor = {inputs[0].data, outputs[0].data, inputs[1].data},
                       .bias = c->bias ? outputs[1].data : NULL};
  return t;
}

/* --- Copies ----------------------------------------------------------------------------------- */
static Im2colMap im2col_map(const ConvRun *run, const ConvTensor *tensor) {
  static const int axes[] = {0, 2}; /* time and width */
  const Convolution *c = &run->convolution;
  const bool in_x = run->variant.im2col == IM2COL_X;
  const bool taken[] = {run->variant.im2col_time, run->variant.im2col_width};
  Im2colMap map = {.image = tensor->outer,
                   .columns = tensor->inner,
                   .sign = in_x ? 1 : -1,
                   .dtype = tensor->inner_dtype};
  for (int i = 0; i < 2; i++) {
    map.taps[i] = taken[i] ? (int)c->w.dim[AXIS_T + axes[i]] : 1;
    map.stride[i] = taken[i] && in_x ? c->stride[axes[i]] : 1;
    map.offset[i] = taken[i] ? -map.sign * c->before[axes[i]] : 0;
  }
  return map;
}

static void strides_of(Shape shape, int64_t strides[RANK]) {
  int64_t stride = 1;
  for (int axis = RANK - 1; axis >= 0; axis--) {
    strides[axis] = stride;
    stride *= shape.dim[axis];
  }
}

/* The strides of the weights in both layouts: taps that became channels precede the original
 * channels, those of x (the last axis) or of y (the first). */
static PermuteLaunch permutation(const ConvRun *run) {
  const ConvTensor *tensor = &run->tensors[CONV_W];
  const ConvVariant *variant = &run->variant;
  PermuteLaunch permute = {.shape = tensor->outer};
  strides_of(tensor->outer, permute.from);
  strides_of(tensor->inner, permute.to);
  const int axis = variant->im2col == IM2COL_X ? AXIS_C : 0;
  int64_t stride = permute.to[axis] * tensor->outer.dim[axis];
  if (variant->im2col_width) {
    permute.to[AXIS_W] = stride;
    stride *= tensor->outer.dim[AXIS_W];
  }
  if (variant->im2col_time) permute.to[AXIS_T] = stride;
  return permute;
}

static PadCropLaunch pad_crop_of(const ConvTensor *tensor, bool to_inner) {
  PadCropLaunch copy = {.from = to_inner ? tensor->outer : tensor->inner,
                        .to = to_inner ? tensor->inner : tensor->outer,
                        .source_dtype = to_inner ? tensor->outer_dtype : tensor->inner_dtype,
                        .destination_dtype = to_inner ? tensor->inner_dtype : tensor->outer_dtype};
  for (int i = 0; i < RANK; i++) copy.offset[i] = to_inner ? -tensor->shift[i] : tensor->shift[i];
  return copy;
}

static Status permute_to_inner(const ConvRun *run, cudaStream_t stream, const void *outer,
                               void *inner, Error *error) {
  Status status = OK;
  const ConvTensor *tensor = &run->tensors[CONV_W];
  PermuteLaunch permute = permutation(run);
  const size_t bytes = (size_t)shape_count(tensor->inner) * dtype_size(tensor->inner_dtype);
  permute.source = outer;
  permute.destination = inner;
  permute.source_dtype = tensor->outer_dtype;
  permute.destination_dtype = tensor->inner_dtype;
  if (shape_count(tensor->inner) > shape_count(tensor->outer))
    CUDA_TRY(cudaMemsetAsync(inner, 0, bytes, stream));
  TRY(launch_permute(&permute, stream, error));
done:
  return status;
}

static Status permute_to_outer(const ConvRun *run, cudaStream_t stream, const void *inner,
                               void *outer, Error *error) {
  const ConvTensor *tensor = &run->tensors[CONV_W];
  const PermuteLaunch there = permutation(run);
  PermuteLaunch back = {.source = inner,
                        .destination = outer,
                        .shape = there.shape,
                        .source_dtype = tensor->inner_dtype,
                        .destination_dtype = tensor->outer_dtype};
  for (int axis = 0; axis < RANK; axis++) {
    back.from[axis] = there.to[axis];
    back.to[axis] = there.from[axis];
  }
  return launch_permute(&back, stream, error);
}

static Status copy_to_inner(const ConvRun *run, const ConvTensor *tensor, cudaStream_t stream,
                            const void *outer, void *inner, Error *error) {
  if (tensor->copy == COPY_PERMUTE) return permute_to_inner(run, stream, outer, inner, error);
  if (tensor->copy == COPY_IM2COL) {
    const Im2colMap map = im2col_map(run, tensor);
    return launch_im2col(&map, outer, inner, stream, error);
  }
  PadCropLaunch copy = pad_crop_of(tensor, true);
  copy.source = outer;
  copy.destination = inner;
  return launch_pad_crop(&copy, stream, error);
}

/* --- Running ---------------------------------------------------------------------------------- */
static Status check_addresses(const ConvRun *run, const ConvPointers *tensors, Error *error) {
  static const char *const names[CONV_TENSORS] = {"x", "the weights", "y"};
  for (int i = 0; i < CONV_TENSORS; i++)
    if ((uintptr_t)tensors->tensor[i] % 16 != 0)
      return error_set(error, ERROR_INTERNAL,
                       "convolution: %s at address %p, expected a multiple of 16 bytes", names[i],
                       tensors->tensor[i]);
  if (run->variant.fused && !run->copies_bias && (uintptr_t)tensors->bias % 16 != 0)
    return error_set(error, ERROR_INTERNAL,
                     "convolution: the bias at address %p, expected a multiple of 16 bytes",
                     tensors->bias);
  return OK;
}

/* Copies the tensors that the plan reads; returns the addresses to pass to the plan. */
static Status prepare_inputs(const ConvRun *run, cudaStream_t stream, const ConvPointers *tensors,
                             char *workspace, void *pointers[CONV_TENSORS + 1], Error *error) {
  Status status = OK;
  for (int i = 0; i < CONV_TENSORS; i++) {
    const ConvTensor *tensor = &run->tensors[i];
    pointers[i] = tensor->copy != COPY_NONE ? workspace + tensor->offset : tensors->tensor[i];
    if (tensor->copy != COPY_NONE && i != run->output)
      TRY(copy_to_inner(run, tensor, stream, tensors->tensor[i], pointers[i], error));
  }
  pointers[CONV_TENSORS] = tensors->bias;
  if (run->copies_bias) {
    pointers[CONV_TENSORS] = workspace + run->bias_offset;
    const PadCropLaunch copy = {.source = tensors->bias,
                                .destination = pointers[CONV_TENSORS],
                                .from = shape_vector(run->tensors[CONV_Y].outer.dim[AXIS_C]),
                                .to = shape_vector(run->tensors[CONV_Y].inner.dim[AXIS_C])};
    TRY(launch_pad_crop(&copy, stream, error));
  }
done:
  return status;
}

/* The kernel after the plan, if one is needed: bias and activation, the copy back. */
static Status finish_output(const ConvRun *run, cudaStream_t stream, const ConvPointers *tensors,
                            void *const pointers[CONV_TENSORS + 1], Error *error) {
  const Convolution *c = &run->convolution;
  const int output = run->output;
  const bool ours = c->pass == CONVOLUTION_FORWARD && !run->variant.fused &&
                    (c->bias || c->activation != ACTIVATION_NONE);
  const ConvTensor *tensor = &run->tensors[output];
  if (!ours && tensor->copy == COPY_NONE) return OK;
  if (tensor->copy == COPY_PERMUTE)
    return permute_to_outer(run, stream, pointers[output], tensors->tensor[output], error);
  if (tensor->copy == COPY_IM2COL) {
    const Col2imLaunch col2im = {.map = im2col_map(run, tensor),
                                 .columns = pointers[output],
                                 .image = tensors->tensor[output],
                                 .bias = ours && c->bias ? tensors->bias : NULL,
                                 .activation = ours ? c->activation : ACTIVATION_NONE,
                                 .slope = c->slope};
    return launch_col2im(&col2im, stream, error);
  }
  PadCropLaunch copy = pad_crop_of(tensor, false);
  copy.source = pointers[output];
  copy.destination = tensors->tensor[output];
  if (ours) {
    copy.bias = c->bias ? tensors->bias : NULL;
    copy.activation = c->activation;
    copy.slope = c->slope;
  }
  return launch_pad_crop(&copy, stream, error);
}

static Status sum_bias(const ConvRun *run, cudaStream_t stream, const ConvPointers *tensors,
                       char *workspace, Error *error) {
  const Convolution *c = &run->convolution;
  const int64_t columns = c->y.dim[AXIS_C];
  const ColumnSumsLaunch sums = {.x = tensors->tensor[CONV_Y],
                                 .dtype = c->operands,
                                 .rows = shape_count(c->y) / columns,
                                 .columns = columns,
                                 .parts = run->sum_parts,
                                 .partials = (float *)(void *)(workspace + run->sums_offset),
                                 .sums = tensors->bias};
  return launch_column_sums(&sums, stream, error);
}

Status conv_run_enqueue(const ConvRun *run, cudnnHandle_t handle, cudaStream_t stream,
                        const ConvPointers *tensors, void *workspace, Error *error) {
  Status status = OK;
  static const int64_t uids[] = {CUDNN_UID_X, CUDNN_UID_W, CUDNN_UID_Y, CUDNN_UID_BIAS};
  const bool bias = run->variant.fused && run->convolution.bias;
  char *base =
      (char *)(((uintptr_t)workspace + PLAN_ALIGNMENT - 1) & ~(uintptr_t)(PLAN_ALIGNMENT - 1));
  void *pointers[CONV_TENSORS + 1];
  TRY(check_addresses(run, tensors, error));
  TRY(prepare_inputs(run, stream, tensors, base, pointers, error));
  TRY(cudnn_plan_run(run->plan, handle, bias ? CONV_TENSORS + 1 : CONV_TENSORS, uids, pointers,
                     run->plan->workspace ? base + run->plan_offset : NULL, error));
  TRY(finish_output(run, stream, tensors, pointers, error));
  if (run->sum_parts > 0) TRY(sum_bias(run, stream, tensors, base, error));
done:
  return status;
}
