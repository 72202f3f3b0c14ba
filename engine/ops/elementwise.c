/* Pointwise arithmetic. Each builder appends a program of one instruction; fusion merges them
 * later. Gradient rules therefore see single instructions only. */
#include <math.h>

#include "engine/graph/pointwise.h"
#include "engine/ops/append.h"
#include "engine/ops/rules.h"

static Value append_instruction(Graph *graph, const char *label, PointwiseInstruction instruction,
                                const Value *inputs, int count, Shape shape, DType dtype) {
  Op op = {.kind = OP_POINTWISE, .input_count = count};
  for (int i = 0; i < count; i++) op.inputs[i] = inputs[i];
  PointwiseProgram *program = &op.attributes.pointwise;
  program->instruction_count = 1;
  program->instructions[0] = instruction;
  program->outputs[0] = count; /* the first register after the inputs */
  return append_one(graph, &op, label, shape, dtype);
}

static Value append_unary(Graph *graph, PointwiseCode code, Value x, float p, float q) {
  const char *label = pointwise_name(code);
  if (!operands_usable(graph, label, &x, 1)) return NO_VALUE;
  if (isnan(p) || isnan(q)) {
    graph_fail(graph, "%s: a constant is NaN", label);
    return NO_VALUE;
  }
  PointwiseInstruction instruction = {.code = code, .p = p, .q = q};
  return append_instruction(graph, label, instruction, &x, 1, graph_shape(graph, x),
                            graph_dtype(graph, x));
}

/* The broadcast shape of two operands; false if two lengths differ and neither is 1. */
static bool broadcast_shape(Shape a, Shape b, Shape *out) {
  for (int axis = 0; axis < RANK; axis++) {
    int64_t p = a.dim[axis], q = b.dim[axis];
    if (p != q && p != 1 && q != 1) return false;
    out->dim[axis] = p > q ? p : q;
  }
  return true;
}

/* bf16 if every operand of the full shape is bf16; if no operand has the full shape, bf16 if all
 * operands are. */
static DType result_dtype(const Graph *graph, const Value *operands, Shape full) {
  bool any_full = false, full_are_bf16 = true, all_are_bf16 = true;
  for (int i = 0; i < 2; i++) {
    bool bf16 = graph_dtype(graph, operands[i]) == DTYPE_BF16;
    bool is_full = shape_equal(graph_shape(graph, operands[i]), full);
    any_full |= is_full;
    all_are_bf16 &= bf16;
    if (is_full) full_are_bf16 &= bf16;
  }
  return (any_full ? full_are_bf16 : all_are_bf16) ? DTYPE_BF16 : DTYPE_F32;
}

static Value append_binary(Graph *graph, PointwiseCode code, Value a, Value b) {
  const char *label = pointwise_name(code);
  Value operands[] = {a, b};
  if (!operands_usable(graph, label, operands, 2)) return NO_VALUE;
  Shape shape;
  if (!broadcast_shape(graph_shape(graph, a), graph_shape(graph, b), &shape)) {
    char left[SHAPE_TEXT_SIZE], right[SHAPE_TEXT_SIZE];
    graph_fail(graph, "%s: %s and %s do not broadcast; lengths must be equal or 1", label,
               shape_text(graph_shape(graph, a), left), shape_text(graph_shape(graph, b), right));
    return NO_VALUE;
  }
  PointwiseInstruction instruction = {.code = code, .a = 0, .b = 1};
  return append_instruction(graph, label, instruction, operands, 2, shape,
                            result_dtype(graph, operands, shape));
}

/* --- Builders --------------------------------------------------------------------------------- */

Value graph_constant(Graph *graph, Shape shape, float value) {
  PointwiseInstruction instruction = {.code = PW_CONSTANT, .p = value};
  return append_instruction(graph, "constant", instruction, NULL, 0, shape, DTYPE_F32);
}

Value graph_cast(Graph *graph, Value x, DType dtype) {
  if (!graph_usable(graph, &x, 1)) {
    graph_fail(graph, "cast: operand 0 is missing");
    return NO_VALUE;
  }
  const DType from = graph_dtype(graph, x);
  if (!dtype_is_float(dtype) || from == DTYPE_I64) {
    graph_fail(graph, "cast: %s to %s; it must be f32, bf16 or u8 to f32 or bf16", dtype_name(from),
               dtype_name(dtype));
    return NO_VALUE;
  }
  if (from == dtype) return x;
  PointwiseInstruction instruction = {.code = PW_COPY};
  return append_instruction(graph, "cast", instruction, &x, 1, graph_shape(graph, x), dtype);
}

Value graph_broadcast(Graph *graph, Value x, Shape shape) {
  if (!operands_usable(graph, "broadcast", &x, 1)) return NO_VALUE;
  Shape from = graph_shape(graph, x), full;
  if (shape_equal(from, shape)) return x;
  if (!broadcast_shape(from, shape, &full) || !shape_equal(full, shape)) {
    char left[SHAPE_TEXT_SIZE], right[SHAPE_TEXT_SIZE];
    graph_fail(graph, "broadcast: %s to %s; lengths must be equal or 1 before",
               shape_text(from, left), shape_text(shape, right));
    return NO_VALUE;
  }
  PointwiseInstruction instruction = {.code = PW_COPY};
  return append_instruction(graph, "broadcast", instruction, &x, 1, shape, graph_dtype(graph, x));
}

Value graph_add(Graph *graph, Value a, Value b) {
  return append_binary(graph, PW_ADD, a, b);
}
Value graph_sub(Graph *graph, Value a, Value b) {
  return append_binary(graph, PW_SUB, a, b);
}
Value graph_mul(Graph *graph, Value a, Value b) {
  return append_binary(graph, PW_MUL, a, b);
}
Value graph_div(Graph *graph, Value a, Value b) {
  return append_binary(graph, PW_DIV, a, b);
}

Value graph_affine(Graph *graph, Value x, float scale, float shift) {
  if (scale == 1 && shift == 0 && operands_usable(graph, "affine", &x, 1)) return x;
  return append_unary(graph, PW_AFFINE, x, scale, shift);
}

Value graph_leaky_relu(Graph *graph, Value x, float slope) {
  return append_unary(graph, PW_LEAKY_RELU, x, slope, 0);
}

Value graph_relu(Graph *graph, Value x) {
  return graph_leaky_relu(graph, x, 0);
}

Value graph_leaky_step(Graph *graph, Value x, float slope) {
  return append_unary(graph, PW_LEAKY_STEP, x, slope, 0);
}

Value graph_tanh(Graph *graph, Value x) {
  return append_unary(graph, PW_TANH, x, 0, 0);
}
Value graph_sigmoid(Graph *graph, Value x) {
  return append_unary(graph, PW_SIGMOID, x, 0, 0);
}
Value graph_softplus(Graph *graph, Value x) {
  return append_unary(graph, PW_SOFTPLUS, x, 0, 0);
}
Value graph_abs(Graph *graph, Value x) {
  return append_unary(graph, PW_ABS, x, 0, 0);
}
Value graph_sign(Graph *graph, Value x) {
  return append_unary(graph, PW_SIGN, x, 0, 0);
}
Value graph_sqrt(Graph *graph, Value x) {
  return append_unary(graph, PW_SQRT, x, 0, 0);
}
Value graph_exp(Graph *graph, Value x) {
  return append_unary(graph, PW_EXP, x, 0, 0);
}
Value graph_log(Graph *graph, Value x) {
  return append_unary(graph, PW_LOG, x, 0, 0);
}

/* One input, read as both factors. */
Value graph_square(Graph *graph, Value x) {
  if (!operands_usable(graph, "square", &x, 1)) return NO_VALUE;
  PointwiseInstruction instruction = {.code = PW_MUL, .a = 0, .b = 0};
  return append_instruction(graph, "square", instruction, &x, 1, graph_shape(graph, x),
                            graph_dtype(graph, x));
}

Value graph_clamp(Graph *graph, Value x, float low, float high) {
  if (low > high) {
    graph_fail(graph, "clamp: bounds %g and %g; the lower bound must not exceed the upper one",
               (double)low, (double)high);
    return NO_VALUE;
  }
  return append_unary(graph, PW_CLAMP, x, low, high);
}

Value append_safe_reciprocal(Graph *graph, Value x) {
  return append_unary(graph, PW_SAFE_RECIPROCAL, x, 0, 0);
}

/* --- Gradients -------------------------------------------------------------------------------- */

/* dy times the derivative of y = code(x), for the unary codes. */
static Value unary_gradient(Graph *graph, const PointwiseInstruction *instruction, Value x, Value y,
                            Value dy) {
  switch (instruction->code) {
  case PW_COPY:
    return dy;
  case PW_AFFINE:
    return instruction->p == 0 ? NO_VALUE : graph_affine(graph, dy, instruction->p, 0);
  case PW_LEAKY_RELU:
    return graph_mul(graph, dy, graph_leaky_step(graph, x, instruction->p));
  case PW_TANH:
    return graph_mul(graph, dy, graph_affine(graph, graph_square(graph, y), -1, 1));
  case PW_SIGMOID:
    return graph_mul(graph, dy, graph_mul(graph, y, graph_affine(graph, y, -1, 1)));
  case PW_SOFTPLUS:
    return graph_mul(graph, dy, graph_sigmoid(graph, x));
  case PW_ABS:
    return graph_mul(graph, dy, graph_sign(graph, x));
  case PW_SQRT:
    return graph_mul(graph, dy, graph_affine(graph, append_safe_reciprocal(graph, y), 0.5f, 0));
  case PW_SAFE_RECIPROCAL:
    return graph_mul(graph, dy, graph_affine(graph, graph_square(graph, y), -1, 0));
  case PW_EXP:
    return graph_mul(graph, dy, y);
  case PW_LOG:
    return graph_div(graph, dy, x);
  case PW_CLAMP:
    return graph_mul(graph, dy,
                     append_unary(graph, PW_CLAMP_STEP, x, instruction->p, instruction->q));
  default: /* constants and steps: the derivative is zero */
    return NO_VALUE;
  }
}

static Value binary_gradient(Graph *graph, PointwiseCode code, int operand, Value a, Value b,
                             Value y, Value dy) {
  switch (code) {
  case PW_ADD:
    return dy;
  case PW_SUB:
    return operand == 0 ? dy : graph_affine(graph, dy, -1, 0);
  case PW_MUL:
    return graph_mul(graph, dy, operand == 0 ? b : a);
  default: /* PW_DIV */
    if (operand == 0) return graph_div(graph, dy, b);
    return graph_affine(graph, graph_div(graph, graph_mul(graph, dy, y), b), -1, 0);
  }
}

static void pointwise_gradient(Graph *graph, const Op *op, const Value *output_gradients,
                               const bool *wanted, Value *gradients) {
  const PointwiseProgram *program = &op->attributes.pointwise;
  const PointwiseInstruction *instruction = &program->instructions[0];
  if (program->instruction_count != 1 || op->output_count != 1) {
    graph_fail(graph,
               "pointwise: a fused program of %d instructions cannot be differentiated; "
               "differentiate before fusion",
               program->instruction_count);
    return;
  }
  Value y = op->outputs[0], dy = output_gradients[0];
  if (instruction->code == PW_MUL && instruction->a == instruction->b) { /* square */
    gradients[0] = graph_mul(graph, dy, graph_affine(graph, op->inputs[0], 2, 0));
    return;
  }
  for (int i = 0; i < op->input_count; i++) {
    if (!wanted[i]) continue;
    Value full =
        pointwise_operands(instruction->code) > 1
            ? binary_gradient(graph, instruction->code, i, op->inputs[0], op->inputs[1], y, dy)
            : unary_gradient(graph, instruction, op->inputs[i], y, dy);
    if (full.id < 0) continue;
    gradients[i] = reduce_to_shape(graph, full, graph_shape(graph, op->inputs[i]));
  }
}

static double pointwise_flops(const Op *op, const Shape *inputs, const Shape *outputs) {
  (void)inputs;
  int instructions = 0; /* copies, roundings and constants do not count */
  const PointwiseProgram *program = &op->attributes.pointwise;
  for (int i = 0; i < program->instruction_count; i++) {
    PointwiseCode code = program->instructions[i].code;
    if (code != PW_COPY && code != PW_ROUND_BF16 && code != PW_CONSTANT) instructions++;
  }
  return (double)instructions * (double)shape_count(outputs[0]);
}

const OpRule rule_pointwise = {pointwise_gradient, pointwise_flops};
