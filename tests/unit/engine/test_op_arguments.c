/* Op arguments: values read from ops, and operands that kernel constructors refuse on every
 * backend. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/backend/op_arguments.h"
#include "engine/graph/pointwise.h"

static Error error;
static char norm_name[] = "net.norm", store_name[] = "net.store";
static char adam_name[] = "net.adam", sums_name[] = "net.sums";

static Tensor tensor(DType dtype, Shape shape) {
  return (Tensor){.shape = shape, .dtype = dtype};
}

static void check(Status status, const char *message) {
  assert_int_equal(status, message ? ERROR_INTERNAL : OK);
  if (message) assert_string_equal(error.message, message);
}

/* --- Segment norms ---------------------------------------------------------------------------- */

static void segments_are_cut_into_chunks(void **state) {
  (void)state;
  const int64_t offsets[] = {0, 16, 16 + 40000};
  Op op = {.kind = OP_SEGMENT_SQUARED_NORM, .name = sums_name, .input_count = 1, .output_count = 1};
  op.attributes.segment_norm.offsets = offsets;
  op.attributes.segment_norm.segments = 2;
  Tensor x = tensor(DTYPE_F32, shape_vector(40016)), sums = tensor(DTYPE_F32, shape_vector(2));
  SegmentChunks pieces;
  check(segment_norm_chunks(&op, &x, &sums, "cpu", &pieces, &error), NULL);
  const int64_t begin[] = {0, 16, 16 + 16384, 16 + 32768, 40016}, first[] = {0, 1, 4};
  assert_int_equal(pieces.count, 4);
  assert_memory_equal(pieces.begin, begin, sizeof begin);
  assert_memory_equal(pieces.first, first, sizeof first);
  segment_chunks_free(&pieces);
  sums.shape = shape_vector(3);
  check(segment_norm_chunks(&op, &x, &sums, "cpu", &pieces, &error),
        "net.sums: cpu: segment_squared_norm: 40016 f32 to 3 f32, expected 40016 f32 to 2 f32");
  sums.shape = shape_vector(2);
  x.dtype = DTYPE_BF16;
  check(segment_norm_chunks(&op, &x, &sums, "cpu", &pieces, &error),
        "net.sums: cpu: segment_squared_norm: 40016 bf16 to 2 f32, expected 40016 f32 to 2 f32");
}

/* --- Norms ------------------------------------------------------------------------------------ */

typedef struct NormOp {
  Op op;
  Tensor inputs[4], outputs[3];
} NormOp;

/* A group norm over 6 channels of 2 x 3 frames of 4 x 5 pixels, with all optional operands. */
static NormOp norm_op(OpKind kind) {
  const Tensor x = tensor(DTYPE_BF16, shape_make(2, 3, 4, 5, 6));
  const Tensor vector = tensor(DTYPE_F32, shape_vector(6));
  const bool backward = kind == OP_NORM_BACKWARD;
  NormOp made = {.op = {.kind = kind, .name = norm_name, .input_count = 4}};
  made.op.output_count = backward ? 3 : 1;
  made.op.attributes.norm = (NormAttributes){.kind = NORM_GROUP,
                                             .groups = 3,
                                             .epsilon = 0.5f,
                                             .activation = ACTIVATION_LEAKY_RELU,
                                             .slope = 0.25f};
  made.inputs[0] = x;
  made.inputs[1] = backward ? x : vector;
  made.inputs[2] = vector;
  made.inputs[3] = backward ? vector : x;
  made.outputs[0] = x;
  made.outputs[1] = made.outputs[2] = vector;
  return made;
}

static void norm_arguments_of_an_op(void **state) {
  (void)state;
  for (int backward = 0; backward <= 1; backward++) {
    NormOp full = norm_op(backward ? OP_NORM_BACKWARD : OP_NORM);
    NormArguments task;
    check(norm_arguments(&full.op, full.inputs, full.outputs, "cpu", &task, &error), NULL);
    assert_int_equal(task.kind, NORM_GROUP);
    assert_int_equal(task.dtype, DTYPE_BF16);
    assert_int_equal(task.frames, 6);
    assert_int_equal(task.pixels, 20);
    assert_int_equal(task.channels, 6);
    assert_int_equal(task.groups, 3);
    assert_true(task.epsilon == 0.5f && task.slope == 0.25f);
    assert_true(task.parameters);
    assert_int_equal(task.residual, !backward);
    assert_int_equal(task.dgain, backward);
    assert_int_equal(task.dbias, backward);

    full.op.input_count = backward ? 2 : 1;
    full.op.output_count = 1;
    full.op.attributes.norm.kind = NORM_INSTANCE;
    full.op.attributes.norm.activation = ACTIVATION_NONE;
    check(norm_arguments(&full.op, full.inputs, full.outputs, "cpu", &task, &error), NULL);
    assert_int_equal(task.groups, 6);
    assert_true(task.slope == 1);
    assert_false(task.parameters || task.residual || task.dgain || task.dbias);
  }
}

static void wrong_norms(void **state) {
  (void)state;
  NormArguments task;
  NormOp norm = norm_op(OP_NORM);
  norm.inputs[3].dtype = DTYPE_F32;
  check(norm_arguments(&norm.op, norm.inputs, norm.outputs, "cpu", &task, &error),
        "net.norm: cpu: norm: dtypes are bf16, bf16, f32, expected all f32 or all bf16");
  norm = norm_op(OP_NORM_BACKWARD);
  norm.inputs[0].dtype = norm.inputs[1].dtype = norm.outputs[0].dtype = DTYPE_U8;
  check(norm_arguments(&norm.op, norm.inputs, norm.outputs, "cuda", &task, &error),
        "net.norm: cuda: norm_backward: dtypes are u8, u8, u8, expected all f32 or all bf16");
  norm = norm_op(OP_NORM);
  norm.op.attributes.norm.activation = ACTIVATION_TANH;
  check(norm_arguments(&norm.op, norm.inputs, norm.outputs, "cpu", &task, &error),
        "net.norm: cpu: norm: activation is tanh, expected none or leaky ReLU");
  norm = norm_op(OP_NORM);
  norm.op.attributes.norm.groups = 4;
  check(norm_arguments(&norm.op, norm.inputs, norm.outputs, "cpu", &task, &error),
        "net.norm: cpu: norm: 4 groups do not divide 6 channels");
}

/* Padding of an RMS norm of 4 x 5 pixels: 1 on each side, 2 more on the right; the residual has a
 * border of 3. */
static NormOp padded_norm(void) {
  NormOp norm = norm_op(OP_NORM);
  NormAttributes *attributes = &norm.op.attributes.norm;
  attributes->kind = NORM_RMS;
  attributes->pad = (PadAttributes){{{0, 0, 1, 1, 0}}, {{0, 0, 1, 3, 0}}, PAD_REFLECT};
  attributes->residual_pad = (PadAttributes){{{0, 0, 3, 3, 0}}, {{0, 0, 3, 3, 0}}, PAD_REFLECT};
  norm.outputs[0].shape = shape_make(2, 3, 6, 9, 6);
  norm.inputs[3].shape = shape_make(2, 3, 10, 11, 6);
  return norm;
}

static void padded_norms(void **state) {
  (void)state;
  NormArguments task;
  NormOp norm = norm_op(OP_NORM);
  check(norm_arguments(&norm.op, norm.inputs, norm.outputs, "cpu", &task, &error), NULL);
  assert_false(task.padded);
  assert_int_equal(task.outer.height, 4);
  assert_int_equal(task.residual_outer.width, 5);
  norm = padded_norm();
  check(norm_arguments(&norm.op, norm.inputs, norm.outputs, "cpu", &task, &error), NULL);
  assert_true(task.padded);
  assert_int_equal(task.pixels, 20);
  assert_int_equal(task.height, 4);
  assert_int_equal(task.width, 5);
  assert_int_equal(task.outer.height, 6);
  assert_int_equal(task.outer.width, 9);
  assert_int_equal(task.outer.top, 1);
  assert_int_equal(task.outer.left, 1);
  assert_int_equal(task.residual_outer.height, 10);
  assert_int_equal(task.residual_outer.left, 3);

  norm.op.attributes.norm.kind = NORM_INSTANCE;
  check(norm_arguments(&norm.op, norm.inputs, norm.outputs, "cpu", &task, &error),
        "net.norm: cpu: norm: a padded tensor is [2,3,6,9,6], its interior [2,3,4,5,6]; the "
        "padding must "
        "be the op's: of RMS norm reflecting, in height and width, of others none");
  norm = padded_norm();
  norm.op.attributes.norm.pad.before.dim[AXIS_H] = 0; /* smaller than the tensor */
  assert_int_equal(norm_arguments(&norm.op, norm.inputs, norm.outputs, "cpu", &task, &error),
                   ERROR_INTERNAL);
  norm = padded_norm();
  norm.op.attributes.norm.residual_pad.mode = PAD_ZERO;
  assert_int_equal(norm_arguments(&norm.op, norm.inputs, norm.outputs, "cpu", &task, &error),
                   ERROR_INTERNAL);
  norm = padded_norm();
  norm.inputs[0].shape.dim[AXIS_W] = NORM_MAX_SIDE - 3; /* with padding one pixel too many */
  norm.outputs[0].shape.dim[AXIS_W] = (int64_t)NORM_MAX_SIDE + 1;
  norm.op.input_count = 3;
  norm.op.attributes.norm.residual_pad = (PadAttributes){0};
  check(
      norm_arguments(&norm.op, norm.inputs, norm.outputs, "cpu", &task, &error),
      "net.norm: cpu: norm: frames of 6 x 1073741824 pixels, expected at most 1073741823 per side");
  norm = padded_norm();
  norm.op.attributes.norm.pad.before.dim[AXIS_H] = 4; /* as much as there is */
  norm.outputs[0].shape.dim[AXIS_H] = 9;
  assert_int_equal(norm_arguments(&norm.op, norm.inputs, norm.outputs, "cpu", &task, &error),
                   ERROR_INTERNAL);
}

/* --- Store and fill --------------------------------------------------------------------------- */

static void stores(void **state) {
  (void)state;
  Op op = {.kind = OP_STORE, .name = store_name, .input_count = 2};
  Tensor inputs[] = {tensor(DTYPE_U8, shape_vector(8)), tensor(DTYPE_U8, shape_vector(8))};
  StoreArguments task;
  check(store_arguments(&op, inputs, "cpu", &task, &error), NULL);
  assert_true(task.count == 8 && task.copies && !task.accumulates);
  op.attributes.store.accumulate = true;
  check(store_arguments(&op, inputs, "cpu", &task, &error),
        "net.store: cpu: store of 8 u8 into 8 u8, expected equal counts of f32 or bf16");
  inputs[0] = tensor(DTYPE_BF16, shape_vector(8));
  inputs[1] = tensor(DTYPE_BF16, shape_vector(8));
  check(store_arguments(&op, inputs, "cpu", &task, &error), NULL);
  assert_true(!task.copies && task.accumulates);
  inputs[1] = tensor(DTYPE_F32, shape_vector(9));
  check(store_arguments(&op, inputs, "cpu", &task, &error),
        "net.store: cpu: store of 8 bf16 into 9 f32, expected equal counts of f32 or bf16");
}

/* --- Adam ------------------------------------------------------------------------------------- */

static void adam(void **state) {
  (void)state;
  Op op = {.kind = OP_ADAM, .name = adam_name, .input_count = ADAM_INPUTS};
  op.attributes.adam = (AdamConstants){0.5f, 0.75f, 1e-8f, 0.25f};
  Tensor inputs[ADAM_INPUTS];
  for (int i = 0; i < ADAM_INPUTS; i++)
    inputs[i] = tensor(i == ADAM_COMPUTE    ? DTYPE_BF16
                       : i == ADAM_COUNTERS ? DTYPE_I64
                                            : DTYPE_F32,
                       shape_vector(i == ADAM_NORM       ? 1
                                    : i == ADAM_CONTROLS ? 4
                                    : i == ADAM_COUNTERS ? 3
                                                         : 16));
  AdamArguments task;
  check(adam_arguments(&op, inputs, "cpu", &task, &error), NULL);
  assert_true(task.count == 16 && task.ema && task.compute);
  assert_memory_equal(&task.constants, &op.attributes.adam, sizeof task.constants);
  /* Each operand in turn has another length, then is absent; two are optional. */
  for (int i = 1; i < ADAM_INPUTS; i++) {
    const Tensor right = inputs[i];
    inputs[i].shape = shape_vector(15);
    assert_int_equal(adam_arguments(&op, inputs, "cpu", &task, &error), ERROR_INTERNAL);
    inputs[i] = (Tensor){0};
    const bool optional = i == ADAM_EMA || i == ADAM_COMPUTE;
    assert_int_equal(adam_arguments(&op, inputs, "cpu", &task, &error),
                     optional ? OK : ERROR_INTERNAL);
    inputs[i] = right;
  }
  inputs[ADAM_COUNTERS].dtype = DTYPE_F32;
  check(adam_arguments(&op, inputs, "cpu", &task, &error),
        "net.adam: cpu: adam: counters must be 3 elements of i64");
  inputs[ADAM_COUNTERS].dtype = DTYPE_I64;
  inputs[ADAM_COMPUTE].dtype = DTYPE_F32;
  check(adam_arguments(&op, inputs, "cpu", &task, &error),
        "net.adam: cpu: adam: compute must be 16 elements of bf16");
}

/* --- Pointwise programs ----------------------------------------------------------------------- */

static void well_formed_programs(void **state) {
  (void)state;
  const PointwiseProgram good = {
      .instruction_count = 2,
      .instructions = {{.code = PW_MUL, .a = 0, .b = 1}, {.code = PW_TANH, .a = 2}},
      .outputs = {3, 0}};
  assert_true(pointwise_well_formed(&good, 2, 2));
  assert_false(pointwise_well_formed(&good, 1, 2)); /* tanh would read itself */
  assert_false(pointwise_well_formed(&good, POINTWISE_MAX_INPUTS + 1, 2));
  assert_false(pointwise_well_formed(&good, 2, POINTWISE_MAX_OUTPUTS + 1));
  PointwiseProgram bad = good;
  bad.instructions[0].b = 2;
  assert_false(pointwise_well_formed(&bad, 2, 2));
  bad = good;
  bad.instructions[1].a = -1;
  assert_false(pointwise_well_formed(&bad, 2, 2));
  bad = good;
  bad.outputs[1] = 4;
  assert_false(pointwise_well_formed(&bad, 2, 2));
  bad = good;
  bad.instruction_count = POINTWISE_MAX_INSTRUCTIONS + 1;
  assert_false(pointwise_well_formed(&bad, 2, 2));
  bad = good;
  bad.instructions[1].code = PW_CODE_COUNT;
  assert_false(pointwise_well_formed(&bad, 2, 2));
  for (int code = 0; code < PW_CODE_COUNT; code++) {
    assert_non_null(pointwise_name((PointwiseCode)code));
    assert_in_range(pointwise_operands((PointwiseCode)code), code == PW_CONSTANT ? 0 : 1, 2);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(segments_are_cut_into_chunks),
      cmocka_unit_test(norm_arguments_of_an_op),
      cmocka_unit_test(wrong_norms),
      cmocka_unit_test(padded_norms),
      cmocka_unit_test(stores),
      cmocka_unit_test(adam),
      cmocka_unit_test(well_formed_programs),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
