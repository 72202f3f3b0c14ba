/* Fusion of neighbouring ops: biases, activations and residuals after convolutions and norms; the
 * activation before the backward pass of a norm or a max pool; bias gradients; padding after
 * resizes and norms; sums of gradients. */
#include "engine/planner/plan.h"

/* --- Patterns --------------------------------------------------------------------------------- */

/* The instruction of a pointwise op if it has exactly one, with this code; else NULL. */
static const PointwiseInstruction *single_instruction(const Op *op, PointwiseCode code) {
  if (op->kind != OP_POINTWISE || op->output_count != 1) return NULL;
  const PointwiseProgram *program = &op->attributes.pointwise;
  if (program->instruction_count != 1 || program->instructions[0].code != code) return NULL;
  return &program->instructions[0];
}

static const Op *producer_of(const Plan *plan, Value value) {
  int producer = value.id < 0 ? -1 : plan_value(plan, value)->producer;
  return producer < 0 ? NULL : &plan->ops[producer];
}

static bool same_type(const Plan *plan, Value a, Value b) {
  const PlanValue *x = plan_value(plan, a), *y = plan_value(plan, b);
  return x->dtype == y->dtype && shape_equal(x->shape, y->shape);
}

/* True if `value` is available before `op`; views always are. */
static bool ready_before(const Plan *plan, Value value, int op) {
  const PlanValue *info = plan_value(plan, value);
  return info->buffer || info->producer < op;
}

/* The only op that reads `value`, with a single input; -1: none, or several. */
static int single_user(const Plan *plan, Value value) {
  const PlanValue *info = plan_value(plan, value);
  return info->use_count == 1 ? info->uses[0] : -1;
}

/* The operand of a binary op that is not `value`; NO_VALUE if there is none. */
static Value other_operand(const Op *op, Value value) {
  if (op->input_count != 2) return NO_VALUE;
  if (op->inputs[0].id == value.id) return op->inputs[1];
  return op->inputs[1].id == value.id ? op->inputs[0] : NO_VALUE;
}

/* --- Aliases ---------------------------------------------------------------------------------- */

/* Removes reshapes that do not change the shape; their readers read their input. */
static void remove_aliases(Plan *plan) {
  for (int i = 0; i < plan->op_count; i++) {
    const Op *op = &plan->ops[i];
    if (!plan->live[i] || op->kind != OP_RESHAPE) continue;
    if (!same_type(plan, op->inputs[0], op->outputs[0])) continue;
    const PlanValue *out = plan_value(plan, op->outputs[0]);
    while (out->use_count > 0) {
      int user = out->uses[0];
      for (int j = 0; j < plan->ops[user].input_count; j++) {
        if (plan->ops[user].inputs[j].id == op->outputs[0].id) {
          plan_set_input(plan, user, j, op->inputs[0]);
        }
      }
    }
    plan_remove(plan, i);
  }
}

/* --- Activation before the backward pass of a norm ---------------------------------------------
 */

/* The slot of the unfused norm whose output is `value`, directly or through a leaky ReLU; -1: none.
 * With a slope of at least 0 the step of the activation's output equals that of its input. */
static int norm_producing(const Plan *plan, Value value) {
  const Op *op = producer_of(plan, value);
  if (!op) return -1;
  const PointwiseInstruction *leaky = single_instruction(op, PW_LEAKY_RELU);
  if (leaky && leaky->p >= 0) {
    value = op->inputs[0];
    op = producer_of(plan, value);
  }
  bool plain = op && op->kind == OP_NORM && op->input_count <= 3 &&
               op->attributes.norm.activation == ACTIVATION_NONE;
  return plain ? plan_value(plan, value)->producer : -1;
}

static bool same_norm(const Op *norm, const Op *backward) {
  const NormAttributes *a = &norm->attributes.norm, *b = &backward->attributes.norm;
  if (norm->input_count + 1 != backward->input_count) return false;
  for (int i = 0; i < norm->input_count; i++) {
    if (norm->inputs[i].id != backward->inputs[i + 1].id) return false;
  }
  return a->kind == b->kind && a->groups == b->groups && a->epsilon == b->epsilon;
}

/* norm_backward(dy * leaky_step(y)): the op recomputes the sign of y, which makes the product
 * unnecessary. */
static void fuse_norm_backward(Plan *plan, int slot) {
  const Op *op = &plan->ops[slot];
  if (op->attributes.norm.activation != ACTIVATION_NONE) return;
  Value product = op->inputs[0];
  const Op *multiply = producer_of(plan, product);
  if (!multiply || !single_instruction(multiply, PW_MUL) || single_user(plan, product) != slot) {
    return;
  }
  for (int i = 0; i < multiply->input_count; i++) {
    const Op *step = producer_of(plan, multiply->inputs[i]);
    const PointwiseInstruction *leaky = step ? single_instruction(step, PW_LEAKY_STEP) : NULL;
    Value dy = other_operand(multiply, multiply->inputs[i]);
    if (!leaky || dy.id < 0 || !same_type(plan, dy, product)) continue;
    int norm = norm_producing(plan, step->inputs[0]);
    int freed = plan_value(plan, product)->producer;
    if (norm < 0 || !same_norm(&plan->ops[norm], op) ||
        !plan_inputs_unchanged_between(plan, norm, slot) ||
        !plan_unchanged_between(plan, dy, freed, slot)) {
      continue;
    }
    plan->ops[slot].attributes.norm.activation = ACTIVATION_LEAKY_RELU;
    plan->ops[slot].attributes.norm.slope = leaky->p;
    plan_set_input(plan, slot, 0, dy);
    plan_remove(plan, freed);
    return;
  }
}

/* Drops the gradients of gain and bias if they are unused. */
static void drop_parameter_gradients(Plan *plan, int slot) {
  Op *op = &plan->ops[slot];
  for (int i = 1; i < op->output_count; i++) {
    if (op->outputs[i].id >= 0 && plan_value(plan, op->outputs[i])->use_count > 0) return;
  }
  for (int i = 1; i < op->output_count; i++) plan_set_output(plan, slot, i, NO_VALUE);
  op->output_count = 1;
}

/* --- Bias, activation, residual --------------------------------------------------------------- */

/* conv3d(x, w) + vector, if only the sum reads the convolution. */
static void fuse_bias(Plan *plan, int slot) {
  const Op *op = &plan->ops[slot];
  int user = single_user(plan, op->outputs[0]);
  if (op->input_count > 2 || user < 0 || !single_instruction(&plan->ops[user], PW_ADD)) return;
  Value sum = plan->ops[user].outputs[0], bias = other_operand(&plan->ops[user], op->outputs[0]);
  if (bias.id < 0 || !same_type(plan, sum, op->outputs[0])) return;
  const PlanValue *vector = plan_value(plan, bias);
  int64_t channels = plan_value(plan, sum)->shape.dim[AXIS_C];
  if (vector->dtype != DTYPE_F32 || !shape_equal(vector->shape, shape_vector(channels))) return;
  if (!ready_before(plan, bias, slot) || !plan_unchanged_between(plan, bias, slot, user)) return;
  plan_remove(plan, user);
  plan_set_input(plan, slot, 2, bias);
  plan_set_output(plan, slot, 0, sum);
}

/* The derivative of leaky_relu(x) is a step of x, which equals a step of the output for slopes of
 * at least 0. If there are no other readers of x, its steps become steps of the output, so that the
 * activation can be fused into the producer of x. */
static void rewrite_steps(Plan *plan, Value x) {
  const PlanValue *info = plan_value(plan, x);
  int activation = -1;
  for (int i = 0; i < info->use_count; i++) {
    const Op *user = &plan->ops[info->uses[i]];
    const PointwiseInstruction *leaky = single_instruction(user, PW_LEAKY_RELU);
    if (leaky && leaky->p >= 0 && activation < 0) {
      activation = info->uses[i];
    } else if (!single_instruction(user, PW_LEAKY_STEP)) {
      return;
    }
  }
  if (activation < 0) return;
  for (int i = 0; i < info->use_count; i++) {
    if (info->uses[i] < activation) return;
  }
  Value y = plan->ops[activation].outputs[0];
  while (info->use_count > 1) {
    int step = info->uses[0] == activation ? info->uses[1] : info->uses[0];
    plan_set_input(plan, step, 0, y);
  }
}

/* Fuses the activation if it is the only reader of the output. */
static void fuse_activation(Plan *plan, int slot, Activation *activation, float *slope) {
  Value x = plan->ops[slot].outputs[0];
  rewrite_steps(plan, x);
  int user = single_user(plan, x);
  if (user < 0 || *activation != ACTIVATION_NONE) return;
  const PointwiseInstruction *leaky = single_instruction(&plan->ops[user], PW_LEAKY_RELU);
  bool is_tanh =
      plan->ops[slot].kind == OP_CONV3D && single_instruction(&plan->ops[user], PW_TANH) != NULL;
  Value y = plan->ops[user].outputs[0];
  if ((!leaky && !is_tanh) || !same_type(plan, x, y)) return;
  *activation = leaky ? ACTIVATION_LEAKY_RELU : ACTIVATION_TANH;
  *slope = leaky ? leaky->p : 0;
  plan_remove(plan, user);
  plan_set_output(plan, slot, 0, y);
}

/* norm(x) + residual, or the gradient of a resample map + another gradient: the op gets the other
 * operand as input `place` and moves to the slot of the sum. */
static void fuse_sum(Plan *plan, int slot, int place) {
  const Op *op = &plan->ops[slot];
  int user = single_user(plan, op->outputs[0]);
  if (op->input_count > place || user < 0 || !single_instruction(&plan->ops[user], PW_ADD)) return;
  Value sum = plan->ops[user].outputs[0];
  Value other = other_operand(&plan->ops[user], op->outputs[0]);
  if (other.id < 0 || !same_type(plan, other, op->outputs[0]) ||
      !same_type(plan, sum, op->outputs[0]) || !plan_inputs_unchanged_between(plan, slot, user)) {
    return;
  }
  plan_remove(plan, user);
  plan_move(plan, slot, user);
  plan_set_input(plan, user, place, other);
  plan_set_output(plan, user, 0, sum);
}

/* The gradient of a padding, a resize or a pool + another gradient of the same value. Only if the
 * sum follows directly, so that no lifetime grows. */
static void fuse_gradient_sum(Plan *plan, int slot) {
  int user = single_user(plan, plan->ops[slot].outputs[0]);
  for (int i = slot + 1; i < user; i++) {
    if (plan->live[i] && op_runs(&plan->ops[i])) return;
  }
  fuse_sum(plan, slot, 1);
}

/* --- Activation before the backward pass of a max pool -----------------------------------------
 */

/* max_pool_backward(dy, x) * leaky_step(x) is non-zero only at the maxima of x, whose values the op
 * computes anyway. */
static void fuse_pool_backward(Plan *plan, int slot) {
  Op *op = &plan->ops[slot];
  const Value dx = op->outputs[0];
  const int user = single_user(plan, dx);
  if (user < 0 || !single_instruction(&plan->ops[user], PW_MUL)) return;
  const Value product = plan->ops[user].outputs[0], other = other_operand(&plan->ops[user], dx);
  const Op *step = producer_of(plan, other);
  const PointwiseInstruction *leaky = step ? single_instruction(step, PW_LEAKY_STEP) : NULL;
  if (!leaky || step->inputs[0].id != op->inputs[1].id || !same_type(plan, product, dx) ||
      !plan_unchanged_between(plan, op->inputs[1], slot, plan_value(plan, other)->producer)) {
    return;
  }
  op->attributes.max_pool.activation = ACTIVATION_LEAKY_RELU;
  op->attributes.max_pool.slope = leaky->p;
  plan_remove(plan, user);
  plan_set_output(plan, slot, 0, product);
}

/* --- Gradients of biases ---------------------------------------------------------------------- */

/* The slot of a sum of `dy` over all but its channels, else -1. */
static int channel_sum(const Plan *plan, Value dy) {
  const PlanValue *info = plan_value(plan, dy);
  for (int i = 0; i < info->use_count; i++) {
    const Op *user = &plan->ops[info->uses[i]];
    if (user->kind != OP_REDUCE || user->attributes.reduce.program.instruction_count != 0) continue;
    Shape vector = shape_vector(info->shape.dim[AXIS_C]);
    if (user->attributes.reduce.scale == 1 && user->input_count == 1 &&
        shape_equal(plan_value(plan, user->outputs[0])->shape, vector)) {
      return info->uses[i];
    }
  }
  return -1;
}

/* conv3d_backward_weights(x, dy) also sums dy, which it reads anyway. It takes the earlier of the
 * two slots. */
static void fuse_bias_gradient(Plan *plan, int slot) {
  const Op *op = &plan->ops[slot];
  if (op->output_count > 1) return;
  int sum = channel_sum(plan, op->inputs[1]);
  if (sum < 0 || !plan_unchanged_between(plan, op->inputs[1], sum, slot)) return;
  Value bias_gradient = plan->ops[sum].outputs[0];
  bool moves = sum < slot;
  if (moves && (!ready_before(plan, op->inputs[0], sum) ||
                !plan_inputs_unchanged_between(plan, slot, sum))) {
    return;
  }
  plan_remove(plan, sum);
  if (moves) plan_move(plan, slot, sum);
  plan_set_output(plan, moves ? sum : slot, 1, bias_gradient);
}

/* --- Padding after a resize or a norm ----------------------------------------------------------
 */

/* pad(resize(x)), if only the padding reads the resize. */
static void fuse_pad(Plan *plan, int slot) {
  Op *op = &plan->ops[slot];
  int user = single_user(plan, op->outputs[0]);
  if (user < 0 || plan->ops[user].kind != OP_PAD || op_fused_pad(op)) return;
  Value padded = plan->ops[user].outputs[0];
  op->attributes.resize.pad = plan->ops[user].attributes.pad;
  plan_remove(plan, user);
  plan_set_output(plan, slot, 0, padded);
}

/* RMS norm with reflect padding only. */
static bool norm_can_pad(const Op *norm, const Op *pad) {
  return norm->attributes.norm.kind == NORM_RMS && pad->attributes.pad.mode == PAD_REFLECT;
}

/* True if `op` is an RMS norm with residual y: it can read y in the interior of a padded tensor. */
static bool reads_residual(const Op *op, Value y) {
  if (op->kind != OP_NORM || op->attributes.norm.kind != NORM_RMS || op->input_count < 4)
    return false;
  return op->inputs[3].id == y.id && op->inputs[0].id != y.id;
}

/* pad(norm(x)), if the only other readers of the norm are residuals of norms: these read the
 * interior of the padded tensor, which the following convolution needs anyway. */
static void fuse_norm_pad(Plan *plan, int slot) {
  Op *op = &plan->ops[slot];
  const Value y = op->outputs[0];
  const PlanValue *info = plan_value(plan, y);
  int pad = -1;
  for (int i = 0; i < info->use_count; i++) {
    const Op *user = &plan->ops[info->uses[i]];
    if (user->kind == OP_PAD && pad < 0)
      pad = info->uses[i];
    else if (!reads_residual(user, y))
      return;
  }
  if (pad < 0 || op_fused_pad(op) || !norm_can_pad(op, &plan->ops[pad])) return;
  const Value padded = plan->ops[pad].outputs[0];
  op->attributes.norm.pad = plan->ops[pad].attributes.pad;
  plan_remove(plan, pad);
  while (info->use_count > 0) { /* each reads y with input 3 only */
    const int reader = info->uses[0];
    plan->ops[reader].attributes.norm.residual_pad = op->attributes.norm.pad;
    plan_set_input(plan, reader, 3, padded);
  }
  plan_set_output(plan, slot, 0, padded);
}

/* The transpose: resize_backward(pad_backward(dy)), norm_backward(pad_backward(dy), x). */
static void fuse_pad_backward(Plan *plan, int slot) {
  Op *op = &plan->ops[slot];
  const bool resizes = op->kind == OP_RESIZE_BACKWARD;
  Value inner = op->inputs[0];
  const Op *pad = producer_of(plan, inner);
  if (!pad || pad->kind != OP_PAD_BACKWARD || op_has_addend(pad) || op_fused_pad(op)) return;
  if (!resizes && !norm_can_pad(op, pad)) return;
  int freed = plan_value(plan, inner)->producer;
  if (single_user(plan, inner) != slot || !plan_inputs_unchanged_between(plan, freed, slot)) return;
  if (resizes)
    op->attributes.resize.pad = pad->attributes.pad;
  else
    op->attributes.norm.pad = pad->attributes.pad;
  plan_set_input(plan, slot, 0, pad->inputs[0]);
  plan_remove(plan, freed);
}

/* --- The pass --------------------------------------------------------------------------------- */

static void fuse_neighbours(Plan *plan, int slot) {
  Op *op = &plan->ops[slot];
  if (op->kind == OP_CONV3D) {
    fuse_bias(plan, slot);
    fuse_activation(plan, slot, &op->attributes.conv.activation, &op->attributes.conv.slope);
  } else if (op->kind == OP_NORM && op->input_count <= 3) { /* before the residual is fused */
    fuse_activation(plan, slot, &op->attributes.norm.activation, &op->attributes.norm.slope);
    fuse_sum(plan, slot, 3);
  } else if (op->kind == OP_RESIZE) {
    fuse_pad(plan, slot);
  } else if (op->kind == OP_NORM_BACKWARD) {
    fuse_pad_backward(plan, slot);
  } else if (op->kind == OP_RESIZE_BACKWARD) {
    fuse_pad_backward(plan, slot);
    fuse_gradient_sum(plan, slot);
  } else if (op->kind == OP_MAX_POOL_BACKWARD) {
    fuse_pool_backward(plan, slot);
  } else if (op->kind == OP_PAD_BACKWARD || op->kind == OP_AVERAGE_POOL_BACKWARD) {
    fuse_gradient_sum(plan, slot);
  }
}

void plan_fuse(Plan *plan) {
  remove_aliases(plan);
  /* Backward passes of norms first: the steps they absorb need not be rewritten. */
  for (int i = 0; i < plan->op_count; i++) {
    if (!plan->live[i] || plan->ops[i].kind != OP_NORM_BACKWARD) continue;
    fuse_norm_backward(plan, i);
    drop_parameter_gradients(plan, i);
  }
  plan_remove_dead(plan);
  for (int i = 0; i < plan->op_count; i++) {
    if (plan->live[i]) fuse_neighbours(plan, i);
  }
  for (int i = 0; i < plan->op_count; i++) { /* after residuals have become inputs */
    if (plan->live[i] && plan->ops[i].kind == OP_NORM) fuse_norm_pad(plan, i);
  }
  for (int i = 0; i < plan->op_count; i++) {
    if (plan->live[i] && plan->ops[i].kind == OP_CONV3D_BACKWARD_WEIGHTS) {
      fuse_bias_gradient(plan, i);
    }
  }
  plan_fuse_pointwise(plan);
  plan_remove_dead(plan);
  plan_bind_stores(plan);
}
