/* Composes two pointwise programs into one and simplifies it without changing a bit of the results:
 * copies are removed, arithmetic with constants becomes PW_AFFINE, common subexpressions are
 * shared, unused instructions and inputs are dropped. Values that are bf16 in the graph are rounded
 * where they are no longer stored, so that results do not depend on which ops are fused, and thus
 * not on what else reads a value (the discriminator's pass of a step with several micro-batches
 * runs the generator without its backward pass). */
#include <math.h>
#include <string.h>

#include "base/bf16.h"
#include "engine/graph/pointwise.h"
#include "engine/planner/plan.h"

/* While composing, instructions have fixed register numbers, which new inputs do not shift. */
enum {
  MAX_INPUTS = 2 * POINTWISE_MAX_INPUTS,
  MAX_INSTRUCTIONS = 2 * POINTWISE_MAX_INSTRUCTIONS + 8
};
enum { FIRST_INSTRUCTION = MAX_INPUTS, REGISTERS = MAX_INPUTS + MAX_INSTRUCTIONS };

typedef struct Composer {
  const Plan *plan; /* has the dtypes of the inputs */
  int input_count, instruction_count;
  Value inputs[MAX_INPUTS];
  PointwiseInstruction instructions[MAX_INSTRUCTIONS];
} Composer;

static int add_input(Composer *composer, Value value) {
  for (int i = 0; i < composer->input_count; i++) {
    if (composer->inputs[i].id == value.id) return i;
  }
  composer->inputs[composer->input_count] = value;
  return composer->input_count++;
}

static bool is_constant(const Composer *composer, int reg, float *value) {
  if (reg < FIRST_INSTRUCTION) return false;
  const PointwiseInstruction *instruction = &composer->instructions[reg - FIRST_INSTRUCTION];
  *value = instruction->p;
  return instruction->code == PW_CONSTANT;
}

static PointwiseInstruction constant(float value) {
  return (PointwiseInstruction){.code = PW_CONSTANT, .p = value};
}

static PointwiseInstruction affine(int reg, float scale, float shift) {
  return (PointwiseInstruction){.code = PW_AFFINE, .a = reg, .p = scale, .q = shift};
}

static float rounded_to_bf16(float value) {
  return bf16_to_f32(bf16_from_f32(value));
}

static bool same_bits(float x, float y) {
  return float_bits(x) == float_bits(y);
}

/* p * a + q, unless that depends on whether the backend rounds the product. */
static PointwiseInstruction fold_affine(PointwiseInstruction in, float a) {
  const float product = in.p * a, sum = product + in.q;
  return same_bits(sum, fmaf(in.p, a, in.q)) ? constant(sum) : in;
}

/* Turns arithmetic with one constant operand into PW_AFFINE, with constants only into a constant.
 * Adding -0 to a product, unlike 0, keeps its sign if it is zero. */
static PointwiseInstruction fold_constants(const Composer *composer, PointwiseInstruction in) {
  float a = 0, b = 0;
  int operands = pointwise_operands(in.code);
  bool a_known = operands > 0 && is_constant(composer, in.a, &a);
  bool b_known = operands > 1 && is_constant(composer, in.b, &b);
  switch (in.code) {
  case PW_AFFINE:
    return a_known ? fold_affine(in, a) : in;
  case PW_ADD:
    if (a_known && b_known) return constant(a + b);
    if (a_known) return affine(in.b, 1, a);
    return b_known ? affine(in.a, 1, b) : in;
  case PW_SUB:
    if (a_known && b_known) return constant(a - b);
    if (a_known) return affine(in.b, -1, a);
    return b_known ? affine(in.a, 1, -b) : in;
  case PW_MUL:
    if (a_known && b_known) return constant(a * b);
    if (a_known) return affine(in.b, a, -0.0f);
    return b_known ? affine(in.a, b, -0.0f) : in;
  case PW_ROUND_BF16:
    return a_known ? constant(rounded_to_bf16(a)) : in;
  default:
    return in;
  }
}

static bool same_instruction(const PointwiseInstruction *x, const PointwiseInstruction *y) {
  return x->code == y->code && x->a == y->a && x->b == y->b && same_bits(x->p, y->p) &&
         same_bits(x->q, y->q);
}

/* Adds an instruction, simplified, and returns the register of its result. */
static int emit(Composer *composer, PointwiseInstruction instruction) {
  instruction = fold_constants(composer, instruction);
  int operands = pointwise_operands(instruction.code);
  if (operands < 2) instruction.b = 0;
  if (operands < 1) instruction.a = 0;
  if (instruction.code == PW_COPY) return instruction.a;
  if (instruction.code == PW_AFFINE && instruction.p == 1 && same_bits(instruction.q, -0.0f)) {
    return instruction.a;
  }
  bool commutes = instruction.code == PW_ADD || instruction.code == PW_MUL;
  if (commutes && instruction.a > instruction.b) {
    int a = instruction.a;
    instruction.a = instruction.b;
    instruction.b = a;
  }
  for (int i = 0; i < composer->instruction_count; i++) {
    if (same_instruction(&composer->instructions[i], &instruction)) return FIRST_INSTRUCTION + i;
  }
  composer->instructions[composer->instruction_count] = instruction;
  return FIRST_INSTRUCTION + composer->instruction_count++;
}

/* True if the register is known to hold only numbers that are a bf16. */
static bool holds_bf16(const Composer *composer, int reg) {
  if (reg < FIRST_INSTRUCTION)
    return plan_value(composer->plan, composer->inputs[reg])->dtype != DTYPE_F32; /* bf16 or u8 */
  const PointwiseInstruction *made = &composer->instructions[reg - FIRST_INSTRUCTION];
  const float p = made->p, q = made->q;
  switch (made->code) {
  case PW_ROUND_BF16:
  case PW_SIGN:
  case PW_CLAMP_STEP:
    return true;
  case PW_CONSTANT:
  case PW_LEAKY_STEP:
    return same_bits(p, rounded_to_bf16(p));
  case PW_ABS:
    return holds_bf16(composer, made->a);
  case PW_LEAKY_RELU:
    return (p == 0 || p == 1) && holds_bf16(composer, made->a);
  case PW_AFFINE:
    return fabsf(p) == 1 && q == 0 && holds_bf16(composer, made->a);
  case PW_CLAMP:
    return same_bits(p, rounded_to_bf16(p)) && same_bits(q, rounded_to_bf16(q)) &&
           holds_bf16(composer, made->a);
  default:
    return false;
  }
}

/* The register with what a reader of `value`, computed in register `reg`, would load. */
static int as_stored(Composer *composer, Value value, int reg) {
  const bool rounds = plan_value(composer->plan, value)->dtype == DTYPE_BF16;
  if (!rounds || holds_bf16(composer, reg)) return reg;
  return emit(composer, (PointwiseInstruction){.code = PW_ROUND_BF16, .a = reg});
}

/* Appends a program whose inputs are `registers[0..input_count)`; the registers of its instructions
 * are stored after them. */
static void append_program(Composer *composer, const PointwiseProgram *program, int input_count,
                           int *registers) {
  for (int i = 0; i < program->instruction_count; i++) {
    PointwiseInstruction instruction = program->instructions[i];
    int operands = pointwise_operands(instruction.code);
    if (operands > 0) instruction.a = registers[instruction.a];
    if (operands > 1) instruction.b = registers[instruction.b];
    registers[input_count + i] = emit(composer, instruction);
  }
}

static void find_needed(const Composer *composer, const int *outputs, int count, bool *needed) {
  for (int i = 0; i < count; i++) needed[outputs[i]] = true;
  for (int i = composer->instruction_count - 1; i >= 0; i--) {
    const PointwiseInstruction *instruction = &composer->instructions[i];
    if (!needed[FIRST_INSTRUCTION + i]) continue;
    int operands = pointwise_operands(instruction->code);
    if (operands > 0) needed[instruction->a] = true;
    if (operands > 1) needed[instruction->b] = true;
  }
}

/* Writes the instructions that `outputs` depend on to the op. Outputs of a pointwise op must be
 * instructions, so an output that is an unchanged input gets a copy. */
static bool finish(const Composer *composer, const int *outputs, int count, Op *op) {
  bool needed[REGISTERS] = {false};
  int renamed[REGISTERS] = {0}, inputs = 0, instructions = 0;
  bool is_reduce = op->kind == OP_REDUCE;
  PointwiseProgram *program =
      is_reduce ? &op->attributes.reduce.program : &op->attributes.pointwise;
  *program = (PointwiseProgram){0};
  find_needed(composer, outputs, count, needed);
  for (int i = 0; i < composer->input_count; i++) {
    if (!needed[i]) continue;
    if (inputs == POINTWISE_MAX_INPUTS) return false;
    op->inputs[inputs] = composer->inputs[i];
    renamed[i] = inputs++;
  }
  if (is_reduce && inputs == 0) return false;
  for (int i = 0; i < composer->instruction_count; i++) {
    if (!needed[FIRST_INSTRUCTION + i]) continue;
    if (instructions == POINTWISE_MAX_INSTRUCTIONS) return false;
    PointwiseInstruction instruction = composer->instructions[i];
    int operands = pointwise_operands(instruction.code);
    if (operands > 0) instruction.a = renamed[instruction.a];
    if (operands > 1) instruction.b = renamed[instruction.b];
    program->instructions[instructions] = instruction;
    renamed[FIRST_INSTRUCTION + i] = inputs + instructions++;
  }
  for (int i = 0; i < count; i++) {
    program->outputs[i] = renamed[outputs[i]];
    if (is_reduce || outputs[i] >= FIRST_INSTRUCTION) continue;
    if (instructions == POINTWISE_MAX_INSTRUCTIONS) return false;
    program->instructions[instructions] =
        (PointwiseInstruction){.code = PW_COPY, .a = renamed[outputs[i]]};
    program->outputs[i] = inputs + instructions++;
  }
  op->input_count = inputs;
  program->instruction_count = instructions;
  return true;
}

static int output_of(const Op *producer, Value value) {
  for (int i = 0; i < producer->output_count; i++) {
    if (producer->outputs[i].id == value.id) return i;
  }
  return -1;
}

bool pointwise_compose(const Plan *plan, const Op *producer, const Op *consumer, unsigned kept,
                       Op *fused) {
  const PointwiseProgram *first = &producer->attributes.pointwise;
  const PointwiseProgram *second = consumer->kind == OP_REDUCE
                                       ? &consumer->attributes.reduce.program
                                       : &consumer->attributes.pointwise;
  Composer composer = {.plan = plan};
  int inner[OP_MAX_INPUTS + POINTWISE_MAX_INSTRUCTIONS];
  int outer[OP_MAX_INPUTS + POINTWISE_MAX_INSTRUCTIONS];
  int outputs[2 * POINTWISE_MAX_OUTPUTS], count = consumer->output_count;
  for (int i = 0; i < producer->input_count; i++) {
    inner[i] = add_input(&composer, producer->inputs[i]);
  }
  append_program(&composer, first, producer->input_count, inner);
  for (int i = 0; i < consumer->input_count; i++) {
    const Value read = consumer->inputs[i];
    int made = output_of(producer, read);
    outer[i] = made < 0 ? add_input(&composer, read)
                        : as_stored(&composer, read, inner[first->outputs[made]]);
  }
  append_program(&composer, second, consumer->input_count, outer);
  *fused = *consumer;
  for (int i = 0; i < count; i++) outputs[i] = outer[second->outputs[i]];
  for (int i = 0; i < producer->output_count; i++) {
    if (!(kept >> i & 1)) continue;
    if (count == POINTWISE_MAX_OUTPUTS) return false;
    fused->outputs[count] = producer->outputs[i];
    outputs[count++] = inner[first->outputs[i]];
  }
  fused->output_count = count;
  return finish(&composer, outputs, count, fused);
}
