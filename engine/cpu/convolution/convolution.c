/* The three convolution kernels: a oneDNN primitive each, with a width fold before or after it if
 * one side has few channels, or the loops of rgb_output.c. */
#include <stdlib.h>

#include "base/memory.h"
#include "engine/backend/op_arguments.h"
#include "engine/cpu/convolution/fold_width.h"
#include "engine/cpu/convolution/onednn.h"
#include "engine/cpu/convolution/onednn_denylist.h"
#include "engine/cpu/convolution/rgb_output.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/simd.h"

typedef enum FoldSide { FOLD_NONE, FOLD_INPUT, FOLD_OUTPUT } FoldSide;

enum { FOLD_MAX_CHANNELS = 16 };

typedef struct ConvKernel {
  Kernel base;
  ConvPass pass;
  ConvPrimitive *primitive; /* NULL: rgb_output.c */
  ConvGeometry geometry;
  FoldSide side;
  WidthFold fold;
  int threads;
  size_t folded_at, rows_at; /* offsets in the workspace, after the primitive's part */
  bool bias;
  Activation activation; /* applied by the fold or by rgb_output.c, in the forward pass */
  float slope;
  double *part_sums; /* [threads, FOLD_MAX_CHANNELS], for dbias computed without the primitive */
} ConvKernel;

/* The tensors of an op by their role in the convolution, in any pass. */
typedef struct ConvTensors {
  Tensor x, w, y, bias;
} ConvTensors;

static ConvTensors tensors_of(ConvPass pass, bool bias, const Tensor *inputs,
                              const Tensor *outputs) {
  ConvTensors t;
  if (pass == PASS_FORWARD) {
    t = (ConvTensors){.x = inputs[0], .w = inputs[1], .y = outputs[0]};
    if (bias) t.bias = inputs[2];
  } else if (pass == PASS_BACKWARD_DATA) {
    t = (ConvTensors){.y = inputs[0], .w = inputs[1], .x = outputs[0]};
  } else {
    t = (ConvTensors){.x = inputs[0], .y = inputs[1], .w = outputs[0]};
    if (bias) t.bias = outputs[1];
  }
  return t;
}

/* --- Folding ---------------------------------------------------------------------------------- */
/* The factor by which the vector work shrinks when kernel columns become channels. */
static double fold_gain(int64_t channels, int64_t kernel_width) {
  int64_t plain = (channels + SIMD_WIDTH - 1) / SIMD_WIDTH * SIMD_WIDTH * kernel_width;
  int64_t folded = (channels * kernel_width + SIMD_WIDTH - 1) / SIMD_WIDTH * SIMD_WIDTH;
  return (double)plain / (double)folded;
}

/* Measured: oneDNN's f32 kernels handle few channels well on the side that is summed over; its bf16
 * kernels on neither side, except in the forward pass of images with up to 4 channels. A fold costs
 * one pass over the folded tensor. */
static FoldSide choose_side(ConvPass pass, DType dtype, const ConvGeometry *g) {
  const double worthwhile = 1.4;
  bool bf16 = dtype == DTYPE_BF16;
  bool handles_few = pass == PASS_FORWARD && conv_is_planar(g) && g->in_channels <= 4;
  bool input = pass == PASS_BACKWARD_DATA || (bf16 && !handles_few);
  bool output = bf16 || pass != PASS_BACKWARD_DATA;
  int64_t kernel_width = g->kernel[2];
  double gain_input = 0, gain_output = 0;
  if (input && g->in_channels <= FOLD_MAX_CHANNELS)
    gain_input = fold_gain(g->in_channels, kernel_width);
  if (output && g->out_channels <= FOLD_MAX_CHANNELS && g->stride[2] == 1 &&
      g->before[2] < kernel_width)
    gain_output = fold_gain(g->out_channels, kernel_width);
  if (gain_input < worthwhile && gain_output < worthwhile) return FOLD_NONE;
  return gain_input >= gain_output ? FOLD_INPUT : FOLD_OUTPUT;
}

static WidthFold fold_of(FoldSide side, const ConvGeometry *g, int threads) {
  WidthFold fold = {.kernel_width = g->kernel[2], .threads = threads};
  if (side == FOLD_INPUT) {
    fold.rows = g->batch * g->in[0] * g->in[1];
    fold.width = g->in[2];
    fold.channels = g->in_channels;
    fold.positions = g->out[2];
    fold.step = g->stride[2];
    fold.offset = g->before[2];
  } else {
    fold.rows = g->batch * g->out[0] * g->out[1];
    fold.width = g->out[2];
    fold.channels = g->out_channels;
    fold.positions = g->in[2];
    fold.step = 1;
    fold.offset = g->kernel[2] - 1 - g->before[2];
  }
  return fold;
}

/* The convolution that remains when kernel columns have become channels. */
static ConvGeometry folded_geometry(FoldSide side, ConvGeometry g) {
  if (side == FOLD_INPUT) {
    g.in_channels *= g.kernel[2];
    g.in[2] = g.out[2];
  } else {
    g.out_channels *= g.kernel[2];
    g.out[2] = g.in[2];
  }
  g.kernel[2] = g.stride[2] = 1;
  g.before[2] = g.after[2] = 0;
  return g;
}

/* --- Running ---------------------------------------------------------------------------------- */
static const Tensor *narrow_tensor(const ConvKernel *kernel, const ConvTensors *t) {
  return kernel->side == FOLD_INPUT ? &t->x : &t->y;
}

/* True if the pass writes the narrow tensor, which makes a fold its last step, instead of reading
 * it. */
static bool writes_narrow(ConvPass pass, FoldSide side) {
  return (pass == PASS_FORWARD && side == FOLD_OUTPUT) ||
         (pass == PASS_BACKWARD_DATA && side == FOLD_INPUT);
}

/* dbias for the unfolded gradients that the primitive reads: each thread sums a part of the pixels,
 * and the parts are added in order. */
static void sum_pixels(const ConvKernel *kernel, const Tensor *y, float *sums) {
  const int64_t channels = y->shape.dim[AXIS_C], pixels = shape_count(y->shape) / channels;
  const int parts = kernel->threads;
#pragma omp parallel for num_threads(parts) schedule(static)
  for (int part = 0; part < parts; part++) {
    double totals[FOLD_MAX_CHANNELS] = {0};
    float pixel[FOLD_MAX_CHANNELS];
    for (int64_t p = pixels * part / parts; p < pixels * (part + 1) / parts; p++) {
      cpu_load(pixel, y->data, y->dtype, p * channels, channels);
      for (int64_t c = 0; c < channels; c++) totals[c] += (double)pixel[c];
    }
    memcpy(kernel->part_sums + part * FOLD_MAX_CHANNELS, totals, sizeof totals);
  }
  for (int64_t c = 0; c < channels; c++) {
    double total = 0;
    for (int part = 0; part < parts; part++)
      total += kernel->part_sums[part * FOLD_MAX_CHANNELS + c];
    /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): not NULL if there is a bias */
    sums[c] = (float)total;
  }
}

static Status run_folded(ConvKernel *kernel, const ConvTensors *t, char *workspace, Error *error) {
  Status status = OK;
  const Tensor *narrow = narrow_tensor(kernel, t);
  void *folded = workspace + kernel->folded_at, *rows = workspace + kernel->rows_at;
  bool writes = writes_narrow(kernel->pass, kernel->side);
  bool input = kernel->side == FOLD_INPUT;
  if (!writes) width_unfold(&kernel->fold, narrow->data, folded, narrow->dtype, rows);
  TRY(conv_primitive_run(kernel->primitive, input ? folded : t->x.data, t->w.data, t->w.buffer,
                         t->bias.data, input ? t->y.data : folded, workspace, error));
  if (writes)
    width_fold(&kernel->fold, folded, t->bias.data, kernel->activation, kernel->slope, narrow->data,
               narrow->dtype, rows);
  if (kernel->pass == PASS_BACKWARD_WEIGHTS && kernel->bias && !input)
    sum_pixels(kernel, narrow, t->bias.data);
done:
  return status;
}

static void run_rgb_output(const ConvKernel *kernel, const ConvTensors *t, void *workspace) {
  const ConvGeometry *g = &kernel->geometry;
  if (kernel->pass == PASS_FORWARD) {
    rgb_output_forward(g, t->x.data, t->w.data, t->bias.data, kernel->activation, kernel->slope,
                       t->y.data, kernel->threads);
  } else {
    rgb_output_backward_weights(g, t->x.data, t->y.data, t->w.data, workspace, kernel->threads);
    if (kernel->bias) sum_pixels(kernel, &t->y, t->bias.data);
  }
}

static Status conv_run(Kernel *base, const Tensor *inputs, const Tensor *outputs, void *workspace,
                       Error *error) {
  ConvKernel *kernel = (ConvKernel *)(void *)base;
  ConvTensors t = tensors_of(kernel->pass, kernel->bias, inputs, outputs);
  if (!kernel->primitive) {
    run_rgb_output(kernel, &t, workspace);
    return OK;
  }
  if (kernel->side != FOLD_NONE) return run_folded(kernel, &t, workspace, error);
  return conv_primitive_run(kernel->primitive, t.x.data, t.w.data, t.w.buffer, t.bias.data,
                            t.y.data, workspace, error);
}

static void conv_free(Kernel *base) {
  ConvKernel *kernel = (ConvKernel *)(void *)base;
  if (!kernel) return;
  conv_primitive_free(kernel->primitive);
  free(kernel->part_sums);
  free(kernel);
}

/* --- Creating -----------------------------------------------------------------------------------
 */
static ConvGeometry geometry_of(const ConvAttributes *conv, const ConvTensors *t) {
  ConvGeometry g = {
      .batch = t->x.shape.dim[AXIS_N],
      .in_channels = t->x.shape.dim[AXIS_C],
      .out_channels = t->y.shape.dim[AXIS_C],
  };
  for (int i = 0; i < 3; i++) {
    g.in[i] = t->x.shape.dim[AXIS_T + i];
    g.kernel[i] = t->w.shape.dim[AXIS_T + i];
    g.out[i] = t->y.shape.dim[AXIS_T + i];
    g.stride[i] = conv->stride[i];
    g.before[i] = conv->before[i];
    /* The op's padding, less if a stride does not reach the end: oneDNN needs the exact number. */
    g.after[i] = (g.out[i] - 1) * g.stride[i] + g.kernel[i] - g.in[i] - g.before[i];
  }
  return g;
}

static Status check_dtypes(const Op *op, ConvPass pass, const ConvTensors *t, Error *error) {
  Status status = OK;
  DType operands = pass == PASS_BACKWARD_DATA ? t->y.dtype : t->x.dtype;
  bool agree = pass == PASS_BACKWARD_WEIGHTS ? t->y.dtype == operands : t->w.dtype == operands;
  if (operands == DTYPE_U8 || !agree || (pass == PASS_BACKWARD_WEIGHTS && t->w.dtype != DTYPE_F32))
    FAIL(error, ERROR_INTERNAL,
         "%s: %s: x is %s, weights %s, y %s, expected all f32 or all bf16, and f32 gradients of "
         "weights",
         op->name, op_kind_name(op->kind), dtype_name(t->x.dtype), dtype_name(t->w.dtype),
         dtype_name(t->y.dtype));
done:
  return status;
}

static ConvSetup setup_of(const Op *op, ConvPass pass, const ConvTensors *t, FoldSide side,
                          bool bias) {
  bool ends_in_fold = writes_narrow(pass, side);
  ConvGeometry geometry = geometry_of(&op->attributes.conv, t);
  ConvSetup setup = {
      .pass = pass,
      .geometry = side == FOLD_NONE ? geometry : folded_geometry(side, geometry),
      .operands = pass == PASS_BACKWARD_DATA ? t->y.dtype : t->x.dtype,
      .mirrored_width = side == FOLD_OUTPUT ? geometry.kernel[2] : 1,
      .name = op->name,
      .kind_name = op_kind_name(op->kind),
  };
  setup.result = pass == PASS_FORWARD         ? t->y.dtype
                 : pass == PASS_BACKWARD_DATA ? t->x.dtype
                                              : DTYPE_F32;
  if (ends_in_fold) setup.result = DTYPE_F32;
  setup.bias = bias && side != FOLD_OUTPUT;
  if (pass == PASS_FORWARD && !ends_in_fold) {
    setup.activation = op->attributes.conv.activation;
    setup.slope = op->attributes.conv.slope;
  }
  return setup;
}

/* Places the folded tensor and the rows of the fold after the primitive's part of the workspace. */
static void plan_fold(ConvKernel *kernel, DType operands) {
  WidthFold *fold = &kernel->fold;
  *fold = fold_of(kernel->side, &kernel->geometry, kernel->threads);
  size_t element = dtype_size(writes_narrow(kernel->pass, kernel->side) ? DTYPE_F32 : operands);
  int64_t folded = fold->rows * fold->positions * fold->kernel_width * fold->channels;
  kernel->folded_at = kernel->base.workspace;
  kernel->rows_at = kernel->folded_at + memory_align((size_t)folded * element);
  kernel->base.workspace = kernel->rows_at + width_fold_workspace(fold);
}

static Status conv_new(Backend *backend, const Op *op, ConvPass pass, const Tensor *inputs,
                       const Tensor *outputs, Kernel **out, Error *error) {
  Status status = OK;
  *out = NULL;
  ConvKernel *kernel = mem_new(1, sizeof *kernel);
  kernel->base = (Kernel){.run = conv_run, .free = conv_free};
  kernel->pass = pass;
  kernel->bias = pass == PASS_FORWARD
                     ? op_has_input(op, inputs, 2)
                     : pass == PASS_BACKWARD_WEIGHTS && op_has_output(op, outputs, 1);
  kernel->threads = cpu_threads(backend);
  ConvTensors t = tensors_of(pass, kernel->bias, inputs, outputs);
  TRY(check_dtypes(op, pass, &t, error));
  kernel->geometry = geometry_of(&op->attributes.conv, &t);
  DType operands = pass == PASS_BACKWARD_DATA ? t.y.dtype : t.x.dtype;
  if (pass == PASS_FORWARD) {
    kernel->activation = op->attributes.conv.activation;
    kernel->slope = op->attributes.conv.slope;
  }
  kernel->part_sums = mem_new((size_t)kernel->threads * FOLD_MAX_CHANNELS, sizeof(double));
  if (rgb_output_supports(pass, operands, &kernel->geometry)) {
    kernel->base.workspace = rgb_output_workspace(pass, &kernel->geometry, kernel->threads);
  } else {
    kernel->side = choose_side(pass, operands, &kernel->geometry);
    ConvSetup setup = setup_of(op, pass, &t, kernel->side, kernel->bias);
    TRY(conv_primitive_new(cpu_onednn(backend), &setup, &kernel->primitive, error));
    kernel->base.workspace = conv_primitive_workspace(kernel->primitive);
    if (kernel->side != FOLD_NONE) plan_fold(kernel, operands);
  }
  *out = &kernel->base;
done:
  if (status != OK) conv_free(&kernel->base);
  return status;
}

Status cpu_conv3d_new(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                      Kernel **out, Error *error) {
  return conv_new(backend, op, PASS_FORWARD, inputs, outputs, out, error);
}

Status cpu_conv3d_backward_data_new(Backend *backend, const Op *op, const Tensor *inputs,
                                    const Tensor *outputs, Kernel **out, Error *error) {
  return conv_new(backend, op, PASS_BACKWARD_DATA, inputs, outputs, out, error);
}

Status cpu_conv3d_backward_weights_new(Backend *backend, const Op *op, const Tensor *inputs,
                                       const Tensor *outputs, Kernel **out, Error *error) {
  return conv_new(backend, op, PASS_BACKWARD_WEIGHTS, inputs, outputs, out, error);
}
