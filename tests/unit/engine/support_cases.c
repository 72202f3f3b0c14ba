#include "support_cases.h"

#include <math.h>

/* `full` with random axes reduced to length 1. */
static Shape draw_broadcast(Random *random, Shape full) {
  static const unsigned usual[] = {0x00, 0x00, 0x0f, 0x1f, 0x10, 0x1e, 0x01};
  const int64_t kind = draw(random, 0, 7);
  const unsigned cut = kind < 7 ? usual[kind] : (unsigned)draw(random, 0, 31);
  for (int axis = 0; axis < RANK; axis++) {
    if (cut >> axis & 1u) full.dim[axis] = 1;
  }
  return full;
}

/* Some are larger, so that there are several tiles and threads. */
static Shape draw_large_shape(Random *random) {
  Shape shape = draw_shape(random);
  if (draw(random, 0, 3) == 0) shape.dim[AXIS_C] = draw(random, 1, 2500);
  if (draw(random, 0, 3) == 0) shape.dim[draw(random, 0, 3)] *= draw(random, 2, 9);
  while (shape_count(shape) > 200000)
    shape.dim[AXIS_H] = shape.dim[AXIS_N] = 1, shape.dim[AXIS_W]--;
  return shape;
}

static DType draw_input_dtype(Random *random) {
  return draw(random, 0, 9) == 0 ? DTYPE_U8 : draw_dtype(random);
}

/* A program of instructions that are continuous and do not amplify errors. */
static void draw_program(Random *random, PointwiseProgram *program, int inputs, int outputs) {
  static const PointwiseCode codes[] = {PW_CONSTANT, PW_COPY,   PW_ADD,      PW_SUB,
                                        PW_MUL,      PW_AFFINE, PW_TANH,     PW_LEAKY_RELU,
                                        PW_SIGMOID,  PW_ABS,    PW_SOFTPLUS, PW_CLAMP};
  program->instruction_count = (int)draw(random, inputs == 0 ? 1 : 0, POINTWISE_MAX_INSTRUCTIONS);
  if (draw(random, 0, 1)) program->instruction_count = 1;
  for (int k = 0; k < program->instruction_count; k++) {
    const int known = inputs + k;
    PointwiseCode code = known == 0 ? PW_CONSTANT : codes[draw(random, 0, 11)];
    /* Products of products exceed any tolerance. */
    if (code == PW_MUL && k > 4) code = PW_SUB;
    program->instructions[k] = (PointwiseInstruction){
        .code = code,
        .a = known ? (int)draw(random, 0, known - 1) : 0,
        .b = known ? (int)draw(random, 0, known - 1) : 0,
        .p = (float)random_uniform(random) - 0.5f,
        .q = 0.5f + (float)random_uniform(random),
    };
  }
  for (int k = 0; k < outputs; k++) {
    const int last = inputs + program->instruction_count - 1;
    program->outputs[k] = k == 0 ? last : (int)draw(random, 0, last);
  }
}

static Case draw_pointwise(Random *random) {
  Case test = case_new(OP_POINTWISE);
  const Shape full = draw_large_shape(random);
  test.op.input_count = (int)draw(random, 0, POINTWISE_MAX_INPUTS);
  test.op.output_count = (int)draw(random, 1, draw(random, 1, POINTWISE_MAX_OUTPUTS));
  draw_program(random, &test.op.attributes.pointwise, test.op.input_count, test.op.output_count);
  for (int i = 0; i < test.op.output_count; i++) {
    test.outputs[i] = (Tensor){.shape = full, .dtype = draw_dtype(random)};
  }
  for (int i = 0; i < test.op.input_count; i++) {
    test.inputs[i] =
        (Tensor){.shape = draw_broadcast(random, full), .dtype = draw_input_dtype(random)};
    if (shape_equal(test.inputs[i].shape, full) && test.inputs[i].dtype == test.outputs[0].dtype &&
        draw(random, 0, 1)) {
      test.in_place = i;
    }
  }
  return test;
}

/* Each instruction alone; some numbers are infinities, NaN or zeros. */
static Case draw_instruction(Random *random) {
  Case test = case_new(OP_POINTWISE);
  const Tensor x = {.shape = draw_large_shape(random), .dtype = draw_dtype(random)};
  test.special = true;
  test.op.input_count = 2;
  test.op.output_count = 1;
  test.op.attributes.pointwise = (PointwiseProgram){
      .instruction_count = 1,
      .instructions = {{.code = (PointwiseCode)draw(random, 0, PW_CODE_COUNT - 1),
                        .b = 1,
                        .p = -0.25f,
                        .q = 0.75f}},
      .outputs = {2},
  };
  test.inputs[0] = test.inputs[1] = test.outputs[0] = x;
  return test;
}

static Case draw_reduce(Random *random) {
  Case test = case_new(OP_REDUCE);
  static const unsigned usual[] = {ALL_AXES, 0x0f, 0x10, 0x0c, 0x08, 0x02};
  const Shape full = draw_large_shape(random);
  const int64_t kind = draw(random, 0, 7);
  const unsigned axes = kind < 6 ? usual[kind] : (unsigned)draw(random, 1, ALL_AXES);
  test.op.input_count = (int)draw(random, 1, draw(random, 1, POINTWISE_MAX_INPUTS));
  test.op.output_count = 1;
  test.op.attributes.reduce.axes = axes;
  test.op.attributes.reduce.full = full;
  test.op.attributes.reduce.scale = 0.25f;
  draw_program(random, &test.op.attributes.reduce.program, test.op.input_count, 1);
  for (int i = 0; i < test.op.input_count; i++) {
    test.inputs[i] =
        (Tensor){.shape = draw_broadcast(random, full), .dtype = draw_input_dtype(random)};
  }
  test.outputs[0] = (Tensor){.shape = full};
  for (int axis = 0; axis < RANK; axis++) {
    if (axes >> axis & 1u) test.outputs[0].shape.dim[axis] = 1;
  }
  /* The sum may nearly cancel, while its terms are rounded to f32. */
  test.tolerance = 1e-3;
  return test;
}

/* --- Convolution and norms -------------------------------------------------------------------- */

typedef struct ConvShapes {
  Shape x, w, y;
} ConvShapes;

static ConvShapes draw_convolution(Random *random, Case *test) {
  static const int64_t channels[] = {1, 3, 4, 8, 16, 17};
  ConvAttributes *conv = &test->op.attributes.conv;
  ConvShapes s;
  s.x = shape_make(draw(random, 1, 2), draw(random, 1, 4), draw(random, 3, 9), draw(random, 3, 9),
                   channels[draw(random, 0, 5)]);
  s.w = shape_make(channels[draw(random, 0, 5)], 0, 0, 0, s.x.dim[AXIS_C]);
  s.y = shape_make(s.x.dim[AXIS_N], 0, 0, 0, s.w.dim[0]);
  for (int i = 0; i < 3; i++) {
    const int64_t length = s.x.dim[1 + i];
    const int64_t taps = s.w.dim[1 + i] = draw(random, 1, length < 5 ? length : 5);
    conv->stride[i] = (int)draw(random, 1, i == 0 ? 1 : 2);
    conv->before[i] = (int)draw(random, 0, taps - 1);
    conv->after[i] = (int)draw(random, 0, taps - 1);
    s.y.dim[1 + i] = (length + conv->before[i] + conv->after[i] - taps) / conv->stride[i] + 1;
  }
  test->op.output_count = 1;
  test->alignment = 16;
  return s;
}

static DType draw_compute_dtype(Random *random, Case *test) {
  const DType dtype = draw_dtype(random);
  if (dtype == DTYPE_BF16) test->tolerance = 1e-2;
  return dtype;
}

static Case draw_conv3d(Random *random) {
  Case test = case_new(OP_CONV3D);
  const ConvShapes s = draw_convolution(random, &test);
  const DType dtype = draw_compute_dtype(random, &test);
  test.op.input_count = (int)draw(random, 2, 3);
  test.inputs[0] = (Tensor){.shape = s.x, .dtype = dtype};
  test.inputs[1] = (Tensor){.shape = s.w, .dtype = dtype};
  if (test.op.input_count > 2) test.inputs[2] = (Tensor){.shape = shape_vector(s.w.dim[0])};
  test.outputs[0] = (Tensor){.shape = s.y, .dtype = dtype};
  test.op.attributes.conv.activation = (Activation)draw(random, 0, 2);
  test.op.attributes.conv.slope = draw(random, 0, 1) ? 0.2f : 0.0f;
  return test;
}

static Case draw_conv3d_backward_data(Random *random) {
  Case test = case_new(OP_CONV3D_BACKWARD_DATA);
  const ConvShapes s = draw_convolution(random, &test);
  const DType dtype = draw_compute_dtype(random, &test);
  test.op.input_count = 2;
  test.inputs[0] = (Tensor){.shape = s.y, .dtype = dtype};
  test.inputs[1] = (Tensor){.shape = s.w, .dtype = dtype};
  test.outputs[0] = (Tensor){.shape = s.x, .dtype = dtype};
  return test;
}

static Case draw_conv3d_backward_weights(Random *random) {
  Case test = case_new(OP_CONV3D_BACKWARD_WEIGHTS);
  const ConvShapes s = draw_convolution(random, &test);
  const DType dtype = draw_compute_dtype(random, &test);
  test.op.input_count = 2;
  test.inputs[0] = (Tensor){.shape = s.x, .dtype = dtype};
  test.inputs[1] = (Tensor){.shape = s.y, .dtype = dtype};
  test.outputs[0] = (Tensor){.shape = s.w};
  test.op.output_count = (int)draw(random, 1, 2);
  if (test.op.output_count > 1) test.outputs[1] = (Tensor){.shape = shape_vector(s.w.dim[0])};
  return test;
}

/* Some have many pixels, or more channels than a thread or a block processes at a time. */
static Shape draw_norm_shape(Random *random) {
  static const int64_t channels[] = {32, 48, 64, 72, 128, 192, 256, 512, 520, 1024, 2100, 4104};
  if (draw(random, 0, 3) > 0) return draw_shape(random);
  Shape shape = shape_make(draw(random, 1, 2), draw(random, 1, 2), draw(random, 1, 60),
                           draw(random, 2, 60), channels[draw(random, 0, 11)]);
  while (shape_count(shape) > 150000 && shape.dim[AXIS_H] > 1) shape.dim[AXIS_H] /= 2;
  while (shape_count(shape) > 150000 && shape.dim[AXIS_W] > 1) shape.dim[AXIS_W] /= 2;
  return shape;
}

static Tensor draw_norm(Random *random, Case *test, int input) {
  NormAttributes *norm = &test->op.attributes.norm;
  Tensor x = {.shape = draw_norm_shape(random), .dtype = draw_compute_dtype(random, test)};
  norm->kind = (NormKind)draw(random, 0, 2);
  norm->groups = 1;
  if (norm->kind == NORM_GROUP) {
    norm->groups = (int)draw(random, 1, 4);
    x.shape.dim[AXIS_C] = norm->groups * draw(random, 1, 9) * (draw(random, 0, 2) == 0 ? 8 : 1);
  }
  /* Sets of very few elements have variances near 0, where each rounding error counts. */
  if (norm->kind != NORM_RMS) x.shape.dim[AXIS_H] += 2, x.shape.dim[AXIS_W] += 2;
  /* A mean that is large compared to the deviation cancels digits in sums that are not centred. */
  if (norm->kind != NORM_RMS && x.dtype == DTYPE_F32 && draw(random, 0, 2) == 0)
    test->offset[input] = 30.0f;
  norm->epsilon = 1e-2f;
  norm->activation = draw(random, 0, 1) ? ACTIVATION_LEAKY_RELU : ACTIVATION_NONE;
  norm->slope = draw(random, 0, 1) ? 0.2f : 0.0f;
  return x;
}

/* For some cases: reflect padding around a tensor of `shape`, which becomes the padded shape. */
static PadAttributes draw_norm_padding(Random *random, const Op *op, Shape *shape) {
  PadAttributes pad = {.mode = PAD_REFLECT};
  if (op->attributes.norm.kind != NORM_RMS || draw(random, 0, 1)) return (PadAttributes){0};
  for (int axis = AXIS_H; axis <= AXIS_W; axis++) {
    const int64_t most = shape->dim[axis] - 1 < 4 ? shape->dim[axis] - 1 : 4;
    pad.before.dim[axis] = draw(random, 0, most);
    pad.after.dim[axis] = draw(random, 0, most);
    shape->dim[axis] += pad.before.dim[axis] + pad.after.dim[axis];
  }
  return pad;
}

static Case draw_norm_forward(Random *random) {
  Case test = case_new(OP_NORM);
  const Tensor x = draw_norm(random, &test, 0);
  Tensor y = x, other = x;
  const Tensor vector = {.shape = shape_vector(x.shape.dim[AXIS_C])};
  const bool affine = draw(random, 0, 1), residual = draw(random, 0, 1);
  test.op.attributes.norm.pad = draw_norm_padding(random, &test.op, &y.shape);
  if (residual)
    test.op.attributes.norm.residual_pad = draw_norm_padding(random, &test.op, &other.shape);
  test.inputs[0] = x;
  test.outputs[0] = y;
  if (affine) test.inputs[1] = test.inputs[2] = vector;
  if (residual) test.inputs[3] = other;
  test.op.input_count = residual ? 4 : affine ? 3 : 1;
  test.op.output_count = 1;
  return test;
}

static Case draw_norm_backward(Random *random) {
  Case test = case_new(OP_NORM_BACKWARD);
  const Tensor x = draw_norm(random, &test, 1);
  const Tensor vector = {.shape = shape_vector(x.shape.dim[AXIS_C])};
  const bool affine = draw(random, 0, 1);
  Tensor dy = x;
  test.op.attributes.norm.pad = draw_norm_padding(random, &test.op, &dy.shape);
  test.inputs[0] = dy;
  test.inputs[1] = test.outputs[0] = x;
  if (affine) test.inputs[2] = test.inputs[3] = test.outputs[1] = test.outputs[2] = vector;
  test.op.input_count = affine ? 4 : 2;
  test.op.output_count = affine ? 3 : 1;
  return test;
}

/* --- Moving data ------------------------------------------------------------------------------ */

static Case draw_concat(Random *random) {
  Case test = case_new(OP_CONCAT);
  const int axis = (int)draw(random, 0, RANK - 1);
  Tensor piece = {.shape = draw_shape(random), .dtype = draw_dtype(random)};
  test.op.attributes.concat.axis = axis;
  test.op.input_count = (int)draw(random, 2, 8);
  test.op.output_count = 1;
  test.outputs[0] = piece;
  test.outputs[0].shape.dim[axis] = 0;
  for (int i = 0; i < test.op.input_count; i++) {
    piece.shape.dim[axis] = draw(random, 1, 7);
    test.inputs[i] = piece;
    test.outputs[0].shape.dim[axis] += piece.shape.dim[axis];
  }
  return test;
}

static Case draw_slice(Random *random) {
  Case test = case_new(OP_SLICE);
  test.op.input_count = test.op.output_count = 1;
  test.inputs[0] = (Tensor){.shape = draw_large_shape(random), .dtype = draw_input_dtype(random)};
  test.outputs[0] = test.inputs[0];
  for (int axis = 0; axis < RANK; axis++) {
    if (draw(random, 0, 1)) continue;
    const int64_t length = test.inputs[0].shape.dim[axis];
    const int64_t begin = draw(random, 0, length - 1);
    test.op.attributes.slice.begin.dim[axis] = begin;
    test.outputs[0].shape.dim[axis] = draw(random, 1, length - begin);
  }
  return test;
}

/* `forward`: from x to y; else from y to x, in half of the cases with an addend. */
static Case map_case(Random *random, OpKind kind, bool forward, Tensor x, Tensor y) {
  Case test = case_new(kind);
  test.op.input_count = test.op.output_count = 1;
  test.inputs[0] = forward ? x : y;
  test.outputs[0] = forward ? y : x;
  if (forward || draw(random, 0, 1)) return test;
  test.op.input_count = 2;
  test.inputs[1] = x;
  return test;
}

/* Random padding of a tensor of `shape`, which becomes the padded shape. */
static PadAttributes draw_padding(Random *random, Shape *shape) {
  PadAttributes pad = {.mode = (PadMode)draw(random, 0, 2)};
  for (int axis = 0; axis < RANK; axis++) {
    const bool space = axis == AXIS_H || axis == AXIS_W;
    if (pad.mode != PAD_ZERO && !space) continue;
    const int64_t most = pad.mode == PAD_REFLECT ? shape->dim[axis] - 1 : 4;
    pad.before.dim[axis] = draw(random, 0, most < 4 ? most : 4);
    pad.after.dim[axis] = draw(random, 0, most < 4 ? most : 4);
    shape->dim[axis] += pad.before.dim[axis] + pad.after.dim[axis];
  }
  return pad;
}

static Case draw_any_pad(Random *random, bool forward) {
  const Tensor x = {.shape = draw_shape(random), .dtype = draw_dtype(random)};
  Tensor y = x;
  const PadAttributes pad = draw_padding(random, &y.shape);
  Case test = map_case(random, forward ? OP_PAD : OP_PAD_BACKWARD, forward, x, y);
  test.op.attributes.pad = pad;
  return test;
}

static Case draw_any_resize(Random *random, bool forward) {
  const Tensor x = {.shape = draw_shape(random), .dtype = draw_dtype(random)};
  Tensor y = x;
  for (int axis = AXIS_H; axis <= AXIS_W; axis++) {
    const int64_t length = x.shape.dim[axis];
    y.shape.dim[axis] = draw(random, 0, 1) ? draw(random, 1, 15) : length * draw(random, 1, 4);
  }
  PadAttributes pad = {.mode = PAD_ZERO};
  if (draw(random, 0, 1)) pad = draw_padding(random, &y.shape);
  Case test = map_case(random, forward ? OP_RESIZE : OP_RESIZE_BACKWARD, forward, x, y);
  test.op.attributes.resize.mode = (ResizeMode)draw(random, 0, 1);
  test.op.attributes.resize.pad = pad;
  return test;
}

static Case draw_any_pool(Random *random, bool forward) {
  Tensor x = {.shape = draw_shape(random), .dtype = draw_dtype(random)};
  const bool box = draw(random, 0, 2) == 0; /* a large window at every pixel */
  if (box) x.shape.dim[AXIS_W] += draw(random, 10, 60), x.shape.dim[AXIS_H] += 8;
  Tensor y = x;
  const int64_t height = x.shape.dim[AXIS_H], width = x.shape.dim[AXIS_W];
  const int64_t shortest = height < width ? height : width;
  const int size = (int)draw(random, 1, shortest < 4 || box ? shortest : 4);
  const int stride = box ? 1 : (int)draw(random, 1, 3), pad = (int)draw(random, 0, size / 2);
  y.shape.dim[AXIS_H] = (height + 2 * pad - size) / stride + 1;
  y.shape.dim[AXIS_W] = (width + 2 * pad - size) / stride + 1;
  Case test = map_case(random, forward ? OP_AVERAGE_POOL : OP_AVERAGE_POOL_BACKWARD, forward, x, y);
  test.op.attributes.pool.size = size;
  test.op.attributes.pool.stride = stride;
  test.op.attributes.pool.pad = pad;
  return test;
}

/* Half of the cases have many equal numbers, some infinities and NaN. */
static Case draw_any_max_pool(Random *random, bool forward) {
  static float coarse[1 << 17]; /* until the next case */
  Case test = case_new(forward ? OP_MAX_POOL : OP_MAX_POOL_BACKWARD);
  Tensor x = {.shape = draw_shape(random), .dtype = draw_dtype(random)}, y = x;
  if (draw(random, 0, 3) == 0) x.shape.dim[AXIS_C] = y.shape.dim[AXIS_C] = draw(random, 1, 600);
  const int64_t height = x.shape.dim[AXIS_H], width = x.shape.dim[AXIS_W];
  const int64_t most = height < width ? height : width;
  const int size = (int)(draw(random, 0, 1) ? draw(random, 1, most) : most < 2 ? 1 : 2);
  y.shape.dim[AXIS_H] = height / size;
  y.shape.dim[AXIS_W] = width / size;
  test.op.attributes.max_pool.size = size;
  if (!forward && draw(random, 0, 1)) {
    test.op.attributes.max_pool.activation = ACTIVATION_LEAKY_RELU;
    test.op.attributes.max_pool.slope = draw(random, 0, 1) ? 0.2f : 0.0f;
  }
  test.op.output_count = 1;
  test.op.input_count = forward ? (int)draw(random, 1, 2) : 2;
  test.inputs[0] = forward ? x : y;
  test.inputs[1] = x;
  test.outputs[0] = forward ? y : x;
  test.alignment = draw(random, 0, 1) ? 16 : 1;
  test.special = draw(random, 0, 3) == 0;
  const bool equal = draw(random, 0, 1) && shape_count(x.shape) <= 1 << 17;
  for (int64_t i = 0; equal && i < shape_count(x.shape); i++)
    coarse[i] = (float)draw(random, -1, 1);
  if (equal) test.content[forward ? 0 : 1] = coarse;
  return test;
}

static Case draw_pad(Random *random) {
  return draw_any_pad(random, true);
}
static Case draw_pad_backward(Random *random) {
  return draw_any_pad(random, false);
}
static Case draw_resize(Random *random) {
  return draw_any_resize(random, true);
}
static Case draw_resize_backward(Random *random) {
  return draw_any_resize(random, false);
}
static Case draw_pool(Random *random) {
  return draw_any_pool(random, true);
}
static Case draw_pool_backward(Random *random) {
  return draw_any_pool(random, false);
}
static Case draw_max_pool(Random *random) {
  return draw_any_max_pool(random, true);
}
static Case draw_max_pool_backward(Random *random) {
  return draw_any_max_pool(random, false);
}

/* --- Segment norms ------------------------------------------------------------------------------
 */

/* Segments of a few elements and of many chunks, beginning at multiples of 16 (as parameters do),
 * of 4 or anywhere. */
static Case draw_segment_norms(Random *random) {
  enum { MAX_SEGMENTS = 6 };
  static int64_t offsets[MAX_SEGMENTS + 1]; /* until the next case */
  const int64_t multiple = (int64_t[]){16, 4, 1}[draw(random, 0, 2)];
  const int segments = (int)draw(random, 1, MAX_SEGMENTS);
  for (int r = 0; r < segments; r++)
    offsets[r + 1] = offsets[r] + multiple * draw(random, 1, draw(random, 0, 2) ? 40 : 4000);
  Case test = case_new(OP_SEGMENT_SQUARED_NORM);
  test.op.input_count = test.op.output_count = 1;
  test.op.attributes.segment_norm.offsets = offsets;
  test.op.attributes.segment_norm.segments = segments;
  test.inputs[0] = (Tensor){.shape = shape_vector(offsets[segments])};
  test.outputs[0] = (Tensor){.shape = shape_vector(segments)};
  test.special = draw(random, 0, 3) == 0;
  test.alignment = draw(random, 0, 1) ? 16 : 1;
  return test;
}

/* --- Updates ---------------------------------------------------------------------------------- */

static Case draw_store(Random *random) {
  Case test = case_new(OP_STORE);
  const Shape shape = draw_large_shape(random);
  test.op.input_count = 2;
  test.inputs[0] = (Tensor){.shape = shape, .dtype = draw_dtype(random)};
  test.inputs[1] = (Tensor){.shape = shape, .dtype = draw_dtype(random)};
  test.op.attributes.store.accumulate = draw(random, 0, 1);
  return test;
}

static Case draw_adam(Random *random) {
  static const float norms[][1] = {{0.3f}, {5.0f}, {40.0f}, {INFINITY}, {NAN}};
  static const float controls[][4] = {
      {0.01f, 0.0f, 0.9f, 0.0f}, {0.1f, 1.0f, 0.999f, 0.0f}, {0.1f, 1.0f, 0.9f, 10.0f}};
  /* 2^24: floats count no further */
  static const float counters[][3] = {{0, 0, 0}, {7, 2, 0}, {1000, 3, 3}, {0x1p24f, 0x1p24f, 9}};
  Case test = case_new(OP_ADAM);
  const Shape flat = shape_vector(draw(random, 1, 60000));
  test.op.input_count = 9;
  for (int i = 0; i < 6; i++) test.inputs[i] = (Tensor){.shape = flat};
  test.inputs[5].dtype = DTYPE_BF16;
  if (draw(random, 0, 1)) test.inputs[4] = (Tensor){0};
  if (draw(random, 0, 1)) test.inputs[5] = (Tensor){0};
  test.inputs[6] = (Tensor){.shape = shape_scalar()};
  test.inputs[7] = (Tensor){.shape = shape_vector(4)};
  test.inputs[8] = (Tensor){.shape = shape_vector(3), .dtype = DTYPE_I64};
  test.content[6] = norms[draw(random, 0, 4)];
  test.content[7] = controls[draw(random, 0, 2)];
  test.content[8] = counters[draw(random, 0, 3)];
  test.positive[3] = true;
  test.op.attributes.adam.beta1 = draw(random, 0, 1) ? 0.5f : 0.9f;
  test.op.attributes.adam.beta2 = 0.999f;
  test.op.attributes.adam.epsilon = 1e-6f;
  test.op.attributes.adam.weight_decay = draw(random, 0, 1) ? 0.01f : 0.0f;
  return test;
}

/* --- The families ----------------------------------------------------------------------------- */

const CaseFamily case_families[CASE_FAMILIES] = {
    {"pointwise", draw_pointwise, 150},
    {"instructions", draw_instruction, 150},
    {"reduce", draw_reduce, 150},
    {"segment_squared_norm", draw_segment_norms, 60},
    {"conv3d", draw_conv3d, 60},
    {"conv3d_backward_data", draw_conv3d_backward_data, 60},
    {"conv3d_backward_weights", draw_conv3d_backward_weights, 60},
    {"norm", draw_norm_forward, 100},
    {"norm_backward", draw_norm_backward, 100},
    {"concat", draw_concat, 60},
    {"slice", draw_slice, 100},
    {"pad", draw_pad, 100},
    {"pad_backward", draw_pad_backward, 100},
    {"resize", draw_resize, 100},
    {"resize_backward", draw_resize_backward, 100},
    {"average_pool", draw_pool, 100},
    {"average_pool_backward", draw_pool_backward, 100},
    {"max_pool", draw_max_pool, 100},
    {"max_pool_backward", draw_max_pool_backward, 100},
    {"matmul", case_matmul, 150},
    {"warp", case_warp, 100},
    {"translate", case_translate, 100},
    {"store", draw_store, 40},
    {"adam", draw_adam, 40},
};

void family_check(const CaseFamily *family, int most, Backend *const *backends, int backend_count) {
  for (int i = 0; i < family->count && i < most; i++) {
    const uint64_t seed = (uint64_t)i;
    Backend *backend = backends[i % backend_count];
    Random random = random_stream(seed, RANDOM_TEST, 1, 0);
    Case test = family->draw(&random);
    const OpKind kind = test.op.kind;
    const bool convolution =
        kind == OP_CONV3D || kind == OP_CONV3D_BACKWARD_DATA || kind == OP_CONV3D_BACKWARD_WEIGHTS;
    const bool bf16 = test.inputs[0].dtype == DTYPE_BF16;
    if (convolution && bf16 && !backend->supports_bf16(backend)) continue;
    case_check(&test, backend, &random, family->name, seed);
  }
}
