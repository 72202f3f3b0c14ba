/* A form's steps: the workspace's layout, and running them in order. */
#include "engine/cuda/convolution/convolution.h"
#include "engine/cuda/convolution/epilogue.h"
#include "engine/cuda/convolution/im2col.h"

/* --- Layout ----------------------------------------------------------------------------------- */
/* cuDNN is given workspaces as an allocator would give them. Arenas align to less. */
enum { PLAN_ALIGNMENT = 256 };

static size_t place(size_t *used, size_t bytes) {
  const size_t at = *used;
  *used += memory_align(bytes);
  return at;
}

int convolution_written_part(ConvolutionPass pass) {
  static const int written[] = {[CONVOLUTION_FORWARD] = PART_Y,
                                [CONVOLUTION_BACKWARD_DATA] = PART_X,
                                [CONVOLUTION_BACKWARD_WEIGHTS] = PART_W};
  return written[pass];
}

static PartKind part_kind(const ConvolutionSteps *steps, int index) {
  static const int spread[] = {[TAPS_IN_X] = PART_X, [TAPS_IN_Y] = PART_Y};
  const ConvolutionPart *part = &steps->parts[index];
  if (steps->form.taps != TAPS_KEPT && index == PART_W) return PART_PERMUTED;
  if (steps->form.taps != TAPS_KEPT && index == spread[steps->form.taps]) return PART_SPREAD;
  const bool same = shape_equal(part->outer, part->inner) && part->outer_dtype == part->inner_dtype;
  return same ? PART_SAME : PART_WINDOW;
}

static void describe_parts(ConvolutionSteps *steps, const Convolution *inner) {
  const Convolution *c = &steps->convolution;
  const Shape outer_shapes[PARTS] = {c->x, c->w, c->y};
  const Shape inner_shapes[PARTS] = {inner->x, inner->w, inner->y};
  for (int i = 0; i < PARTS; i++) {
    ConvolutionPart *part = &steps->parts[i];
    part->outer = outer_shapes[i];
    part->inner = inner_shapes[i];
    part->outer_dtype = i == steps->written ? c->result : c->operands;
    part->inner_dtype = i == steps->written ? inner->result : inner->operands;
    part->kind = part_kind(steps, i);
  }
  for (int i = 0; i < 3 && steps->form.padded; i++)
    steps->parts[PART_X].shift[AXIS_T + i] = c->before[i] - inner->before[i];
}

ConvolutionSteps convolution_steps(const Convolution *convolution, const ConvolutionForm *form,
                                   const CudnnPlan *plan) {
  const Convolution inner = convolution_inner(convolution, form);
  const int64_t channels = convolution->y.dim[AXIS_C];
  ConvolutionSteps steps = {.convolution = *convolution,
                            .form = *form,
                            .written = convolution_written_part(convolution->pass),
                            .plan = plan};
  describe_parts(&steps, &inner);
  size_t used = 0;
  steps.plan_at = place(&used, plan->workspace);
  for (int i = 0; i < PARTS; i++) {
    ConvolutionPart *part = &steps.parts[i];
    if (part->kind != PART_SAME)
      part->at = place(&used, (size_t)shape_count(part->inner) * dtype_size(part->inner_dtype));
  }
  steps.bias_copied = inner.bias && inner.y.dim[AXIS_C] != channels;
  if (steps.bias_copied) steps.bias_at = place(&used, (size_t)inner.y.dim[AXIS_C] * sizeof(float));
  if (convolution->pass == CONVOLUTION_BACKWARD_WEIGHTS && convolution->bias) {
    steps.sum_parts = column_sums_parts(shape_count(convolution->y) / channels, channels);
    steps.sums_at = place(&used, (size_t)(steps.sum_parts * channels) * sizeof(float));
  }
  steps.workspace = used > 0 ? used + PLAN_ALIGNMENT : 0;
  return steps;
}

ConvolutionTensors convolution_tensors(const Convolution *c, const Tensor *inputs,
                                       const Tensor *outputs) {
  ConvolutionTensors t;
  if (c->pass == CONVOLUTION_FORWARD)
    t = (ConvolutionTensors){.part = {inputs[0].data, inputs[1].data, outputs[0].data},
                             .bias = c->bias ? inputs[2].data : NULL};
  else if (c->pass == CONVOLUTION_BACKWARD_DATA)
    t = (ConvolutionTensors){.part = {outputs[0].data, inputs[1].data, inputs[0].data}};
  else
    t = (ConvolutionTensors){.part = {inputs[0].data, outputs[0].data, inputs[1].data},
                             .bias = c->bias ? outputs[1].data : NULL};
  return t;
}

/* --- Copies ----------------------------------------------------------------------------------- */
static Taps taps_of(const ConvolutionSteps *steps, const ConvolutionPart *part) {
  static const int axes[] = {0, 2}; /* time and width */
  const Convolution *c = &steps->convolution;
  const bool in_x = steps->form.taps == TAPS_IN_X;
  const bool taken[] = {steps->form.taps_of_time, steps->form.taps_of_width};
  Taps taps = {.plain = part->outer,
               .spread = part->inner,
               .sign = in_x ? 1 : -1,
               .dtype = part->inner_dtype};
  for (int i = 0; i < 2; i++) {
    taps.count[i] = taken[i] ? (int)c->w.dim[AXIS_T + axes[i]] : 1;
    taps.stride[i] = taken[i] && in_x ? c->stride[axes[i]] : 1;
    taps.offset[i] = taken[i] ? -taps.sign * c->before[axes[i]] : 0;
  }
  return taps;
}

static void strides_of(Shape shape, int64_t strides[RANK]) {
  int64_t stride = 1;
  for (int axis = RANK - 1; axis >= 0; axis--) {
    strides[axis] = stride;
    stride *= shape.dim[axis];
  }
}

/* The weights' places in both: taps that became channels stand before the channels proper, of x
 * (the last axis) or of y (the first). */
static PermuteLaunch permutation(const ConvolutionSteps *steps) {
  const ConvolutionPart *part = &steps->parts[PART_W];
  const ConvolutionForm *form = &steps->form;
  PermuteLaunch permute = {.shape = part->outer};
  strides_of(part->outer, permute.from);
  strides_of(part->inner, permute.to);
  const int axis = form->taps == TAPS_IN_X ? AXIS_C : 0;
  int64_t stride = permute.to[axis] * part->outer.dim[axis];
  if (form->taps_of_width) {
    permute.to[AXIS_W] = stride;
    stride *= part->outer.dim[AXIS_W];
  }
  if (form->taps_of_time) permute.to[AXIS_T] = stride;
  return permute;
}

static WindowLaunch window_of(const ConvolutionPart *part, bool inward) {
  WindowLaunch window = {.from = inward ? part->outer : part->inner,
                         .to = inward ? part->inner : part->outer,
                         .source_dtype = inward ? part->outer_dtype : part->inner_dtype,
                         .destination_dtype = inward ? part->inner_dtype : part->outer_dtype};
  for (int i = 0; i < RANK; i++) window.offset[i] = inward ? -part->shift[i] : part->shift[i];
  return window;
}

static Status permute_inward(const ConvolutionSteps *steps, cudaStream_t stream, const void *outer,
                             void *inner, Error *error) {
  Status status = OK;
  const ConvolutionPart *part = &steps->parts[PART_W];
  PermuteLaunch permute = permutation(steps);
  const size_t bytes = (size_t)shape_count(part->inner) * dtype_size(part->inner_dtype);
  permute.source = outer;
  permute.destination = inner;
  permute.source_dtype = part->outer_dtype;
  permute.destination_dtype = part->inner_dtype;
  if (shape_count(part->inner) > shape_count(part->outer))
    CUDA_TRY(cudaMemsetAsync(inner, 0, bytes, stream));
  TRY(launch_permute(&permute, stream, error));
done:
  return status;
}

static Status permute_outward(const ConvolutionSteps *steps, cudaStream_t stream, const void *inner,
                              void *outer, Error *error) {
  const ConvolutionPart *part = &steps->parts[PART_W];
  const PermuteLaunch there = permutation(steps);
  PermuteLaunch back = {.source = inner,
                        .destination = outer,
                        .shape = there.shape,
                        .source_dtype = part->inner_dtype,
                        .destination_dtype = part->outer_dtype};
  for (int axis = 0; axis < RANK; axis++) {
    back.from[axis] = there.to[axis];
    back.to[axis] = there.from[axis];
  }
  return launch_permute(&back, stream, error);
}

static Status copy_inward(const ConvolutionSteps *steps, const ConvolutionPart *part,
                          cudaStream_t stream, const void *outer, void *inner, Error *error) {
  if (part->kind == PART_PERMUTED) return permute_inward(steps, stream, outer, inner, error);
  if (part->kind == PART_SPREAD) {
    const Taps taps = taps_of(steps, part);
    return launch_spread(&taps, outer, inner, stream, error);
  }
  WindowLaunch window = window_of(part, true);
  window.source = outer;
  window.destination = inner;
  return launch_window(&window, stream, error);
}

/* --- Running ---------------------------------------------------------------------------------- */
static Status check_addresses(const ConvolutionSteps *steps, const ConvolutionTensors *tensors,
                              Error *error) {
  static const char *const names[PARTS] = {"x", "the weights", "y"};
  for (int i = 0; i < PARTS; i++)
    if ((uintptr_t)tensors->part[i] % 16 != 0)
      return error_set(error, ERROR_INTERNAL,
                       "%s of a convolution lies at %p; cuDNN needs a multiple of 16", names[i],
                       tensors->part[i]);
  if (steps->form.fused && !steps->bias_copied && (uintptr_t)tensors->bias % 16 != 0)
    return error_set(error, ERROR_INTERNAL,
                     "the bias of a convolution lies at %p; cuDNN needs a multiple of 16",
                     tensors->bias);
  return OK;
}

/* Copies what the plan reads; gives the addresses of what it is given. */
static Status enter(const ConvolutionSteps *steps, cudaStream_t stream,
                    const ConvolutionTensors *tensors, char *workspace, void *pointers[PARTS + 1],
                    Error *error) {
  Status status = OK;
  for (int i = 0; i < PARTS; i++) {
    const ConvolutionPart *part = &steps->parts[i];
    pointers[i] = part->kind != PART_SAME ? workspace + part->at : tensors->part[i];
    if (part->kind != PART_SAME && i != steps->written)
      TRY(copy_inward(steps, part, stream, tensors->part[i], pointers[i], error));
  }
  pointers[PARTS] = tensors->bias;
  if (steps->bias_copied) {
    pointers[PARTS] = workspace + steps->bias_at;
    const WindowLaunch window = {.source = tensors->bias,
                                 .destination = pointers[PARTS],
                                 .from = shape_vector(steps->parts[PART_Y].outer.dim[AXIS_C]),
                                 .to = shape_vector(steps->parts[PART_Y].inner.dim[AXIS_C])};
    TRY(launch_window(&window, stream, error));
  }
done:
  return status;
}

/* What is left to do behind the plan: bias and activation, the copy back. */
static Status leave(const ConvolutionSteps *steps, cudaStream_t stream,
                    const ConvolutionTensors *tensors, void *const pointers[PARTS + 1],
                    Error *error) {
  const Convolution *c = &steps->convolution;
  const int written = steps->written;
  const bool ours = c->pass == CONVOLUTION_FORWARD && !steps->form.fused &&
                    (c->bias || c->activation != ACTIVATION_NONE);
  const ConvolutionPart *part = &steps->parts[written];
  if (!ours && part->kind == PART_SAME) return OK;
  if (part->kind == PART_PERMUTED)
    return permute_outward(steps, stream, pointers[written], tensors->part[written], error);
  if (part->kind == PART_SPREAD) {
    const CollectLaunch collect = {.taps = taps_of(steps, part),
                                   .spread = pointers[written],
                                   .plain = tensors->part[written],
                                   .bias = ours && c->bias ? tensors->bias : NULL,
                                   .activation = ours ? c->activation : ACTIVATION_NONE,
                                   .slope = c->slope};
    return launch_collect(&collect, stream, error);
  }
  WindowLaunch window = window_of(part, false);
  window.source = pointers[written];
  window.destination = tensors->part[written];
  if (ours) {
    window.bias = c->bias ? tensors->bias : NULL;
    window.activation = c->activation;
    window.slope = c->slope;
  }
  return launch_window(&window, stream, error);
}

static Status sum_bias(const ConvolutionSteps *steps, cudaStream_t stream,
                       const ConvolutionTensors *tensors, char *workspace, Error *error) {
  const Convolution *c = &steps->convolution;
  const int64_t columns = c->y.dim[AXIS_C];
  const ColumnSumsLaunch sums = {.x = tensors->part[PART_Y],
                                 .dtype = c->operands,
                                 .rows = shape_count(c->y) / columns,
                                 .columns = columns,
                                 .parts = steps->sum_parts,
                                 .partials = (float *)(void *)(workspace + steps->sums_at),
                                 .sums = tensors->bias};
  return launch_column_sums(&sums, stream, error);
}

Status convolution_steps_run(const ConvolutionSteps *steps, cudnnHandle_t handle,
                             cudaStream_t stream, const ConvolutionTensors *tensors,
                             void *workspace, Error *error) {
  Status status = OK;
  static const int64_t uids[] = {CUDNN_UID_X, CUDNN_UID_W, CUDNN_UID_Y, CUDNN_UID_BIAS};
  const bool bias = steps->form.fused && steps->convolution.bias;
  char *base =
      (char *)(((uintptr_t)workspace + PLAN_ALIGNMENT - 1) & ~(uintptr_t)(PLAN_ALIGNMENT - 1));
  void *pointers[PARTS + 1];
  TRY(check_addresses(steps, tensors, error));
  TRY(enter(steps, stream, tensors, base, pointers, error));
  TRY(cudnn_plan_run(steps->plan, handle, bias ? PARTS + 1 : PARTS, uids, pointers,
                     steps->plan->workspace ? base + steps->plan_at : NULL, error));
  TRY(leave(steps, stream, tensors, pointers, error));
  if (steps->sum_parts > 0) TRY(sum_bias(steps, stream, tensors, base, error));
done:
  return status;
}
