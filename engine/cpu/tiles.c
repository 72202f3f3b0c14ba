#include "engine/cpu/tiles.h"

#include "engine/cpu/vector_math.h"
#include "engine/graph/pointwise.h"

/* --- Planning --------------------------------------------------------------------------------- */

static bool plan_input(TileInput *input, const Tensor *tensor, Shape full, bool is_output) {
  input->dtype = tensor->dtype;
  if (!broadcast_join(tensor->shape, full, &input->axes)) return false;
  const Broadcast *axes = &input->axes;
  const bool repeats = axes->groups == 2 && axes->stride[0] == 0;
  if (shape_equal(tensor->shape, full)) {
    /* An output that is an unchanged input may overwrite the memory of that input before another
     * output has read it: such an input is copied. */
    input->kind = tensor->dtype == DTYPE_F32 && !is_output ? TILE_IN_PLACE : TILE_FULL;
  } else if (shape_count(tensor->shape) == 1) {
    input->kind = TILE_SCALAR;
  } else if (repeats && axes->length[1] <= TILE_MAX_PERIOD) {
    input->kind = TILE_PERIODIC;
    input->period = axes->length[1];
  } else {
    input->kind = TILE_GENERAL;
  }
  return true;
}

/* The last instruction that reads each register; outputs are read after the last instruction. */
static void find_last_uses(const TilePlan *plan, int last[TILE_REGISTERS]) {
  const PointwiseProgram *program = &plan->program;
  for (int r = 0; r < TILE_REGISTERS; r++) last[r] = -1;
  for (int k = 0; k < program->instruction_count; k++) {
    const PointwiseInstruction *i = &program->instructions[k];
    if (pointwise_operands(i->code) > 0) last[i->a] = k;
    if (pointwise_operands(i->code) > 1) last[i->b] = k;
  }
  for (int k = 0; k < plan->output_count; k++) {
    last[program->outputs[k]] = program->instruction_count;
  }
}

/* Assigns workspace offsets to registers: expanded inputs keep theirs for the whole run, the others
 * share by lifetime. */
static void place_registers(TilePlan *plan) {
  int last[TILE_REGISTERS];
  int free_slots[TILE_REGISTERS], free_count = 0;
  int slots = 0, slot_of[TILE_REGISTERS] = {0};
  int64_t kept = 0;
  find_last_uses(plan, last);
  for (int r = 0; r < plan->input_count; r++) {
    slot_of[r] = -1;
    const TileInput *input = &plan->inputs[r];
    if (input->kind == TILE_SCALAR || input->kind == TILE_PERIODIC) {
      plan->offset[r] = kept;
      kept += (TILE_LENGTH + input->period + 15) & ~(int64_t)15;
    } else if (input->kind != TILE_IN_PLACE) {
      slot_of[r] = slots++;
    }
  }
  for (int k = 0; k < plan->program.instruction_count; k++) {
    /* A register whose lifetime ends in this instruction may be its output: elements are read
     * first. */
    for (int r = 0; r < plan->input_count + k; r++) {
      if (last[r] == k && slot_of[r] >= 0) free_slots[free_count++] = slot_of[r];
    }
    slot_of[plan->input_count + k] = free_count > 0 ? free_slots[--free_count] : slots++;
  }
  for (int r = 0; r < plan->input_count + plan->program.instruction_count; r++) {
    if (slot_of[r] >= 0) plan->offset[r] = kept + (int64_t)slot_of[r] * TILE_LENGTH;
  }
  plan->floats = kept + (int64_t)slots * TILE_LENGTH;
}

static int find_direct(const TilePlan *plan) {
  const int count = plan->program.instruction_count;
  int found = -1;
  for (int k = 0; k < plan->output_count; k++) {
    if (count == 0 || plan->program.outputs[k] != plan->input_count + count - 1) continue;
    if (found >= 0) return -1;
    found = k;
  }
  return found;
}

Status tile_plan(TilePlan *plan, const Op *op, const PointwiseProgram *program, int output_count,
                 const Tensor *inputs, Shape full, Error *error) {
  Status status = OK;
  char have[SHAPE_TEXT_SIZE], want[SHAPE_TEXT_SIZE];
  *plan = (TilePlan){.program = *program, .input_count = op->input_count};
  plan->output_count = output_count;
  if (!pointwise_well_formed(program, op->input_count, output_count)) {
    FAIL(error, ERROR_INTERNAL, "%s: cpu: the pointwise program is not well formed", op->name);
  }
  for (int r = 0; r < op->input_count; r++) {
    bool is_output = false;
    for (int k = 0; k < output_count; k++) is_output = is_output || program->outputs[k] == r;
    if (!plan_input(&plan->inputs[r], &inputs[r], full, is_output)) {
      FAIL(error, ERROR_INTERNAL, "%s: cpu: input %d of shape %s does not broadcast to %s",
           op->name, r, shape_text(inputs[r].shape, have), shape_text(full, want));
    }
  }
  place_registers(plan);
  plan->direct = find_direct(plan);
done:
  return status;
}

/* --- Loading ---------------------------------------------------------------------------------- */

static void load(float *to, const Tensor *tensor, int64_t first, int64_t count) {
  if (tensor->dtype == DTYPE_U8) {
    const uint8_t *from = (const uint8_t *)tensor->data + first;
    for (int64_t i = 0; i < count; i++) to[i] = (float)from[i];
  } else {
    cpu_load(to, tensor->data, tensor->dtype, first, count);
  }
}

static float load_one(const Tensor *tensor, int64_t index) {
  float value;
  load(&value, tensor, index, 1);
  return value;
}

static void load_broadcast(const Broadcast *axes, const Tensor *tensor, int64_t first,
                           int64_t length, float *to) {
  const int inner = axes->groups - 1;
  int64_t position[RANK] = {0}, rest = first, from = 0;
  for (int g = inner; g >= 0; g--) {
    position[g] = rest % axes->length[g];
    rest /= axes->length[g];
    from += position[g] * axes->stride[g];
  }
  for (int64_t done = 0; done < length;) {
    int64_t run = axes->length[inner] - position[inner];
    if (run > length - done) run = length - done;
    if (axes->stride[inner] == 0) {
      const float value = load_one(tensor, from);
      for (int64_t i = 0; i < run; i++) to[done + i] = value;
    } else {
      load(to + done, tensor, from, run);
    }
    done += run;
    /* Advance to the start of the next run. */
    from -= position[inner] * axes->stride[inner];
    position[inner] = 0;
    for (int g = inner - 1; g >= 0; g--) {
      from += axes->stride[g];
      if (++position[g] < axes->length[g]) break;
      from -= axes->length[g] * axes->stride[g];
      position[g] = 0;
    }
  }
}

void tile_begin(const TilePlan *plan, const Tensor *inputs, float *workspace) {
  for (int r = 0; r < plan->input_count; r++) {
    const TileInput *input = &plan->inputs[r];
    float *to = workspace + plan->offset[r];
    if (input->kind == TILE_SCALAR) {
      const float value = load_one(&inputs[r], 0);
      for (int i = 0; i < TILE_LENGTH; i++) to[i] = value;
    } else if (input->kind == TILE_PERIODIC) {
      load(to, &inputs[r], 0, input->period);
      for (int64_t i = input->period; i < TILE_LENGTH + input->period; i++) {
        to[i] = to[i - input->period];
      }
    }
  }
}

static const float *load_input(const TilePlan *plan, int r, const Tensor *tensor, int64_t first,
                               int64_t length, float *workspace) {
  const TileInput *input = &plan->inputs[r];
  float *place = workspace + plan->offset[r];
  switch (input->kind) {
  case TILE_IN_PLACE:
    return (const float *)tensor->data + first;
  case TILE_SCALAR:
    break;
  case TILE_PERIODIC:
    return place + first % input->period;
  case TILE_FULL:
    load(place, tensor, first, length);
    break;
  case TILE_GENERAL:
    load_broadcast(&input->axes, tensor, first, length, place);
    break;
  }
  return place;
}

/* --- Instructions ----------------------------------------------------------------------------- */

/* One SIMD loop: `out` may be `a` or `b`. */
#define UNARY(expression)                                                                          \
  do {                                                                                             \
    _Pragma("omp simd") for (int64_t i = 0; i < length; i++) {                                     \
      const float x = a[i];                                                                        \
      out[i] = (expression);                                                                       \
    }                                                                                              \
  } while (0)
#define BINARY(expression)                                                                         \
  do {                                                                                             \
    _Pragma("omp simd") for (int64_t i = 0; i < length; i++) {                                     \
      const float x = a[i], y = b[i];                                                              \
      out[i] = (expression);                                                                       \
    }                                                                                              \
  } while (0)

static float clamp(float x, float low, float high) {
  const float raised = float_select(x < low, low, x);
  return float_select(raised > high, high, raised);
}

static void run_instruction(const PointwiseInstruction *instruction, const float *a, const float *b,
                            float *out, int64_t length) {
  const float p = instruction->p, q = instruction->q;
  switch (instruction->code) {
  case PW_CONSTANT:
    for (int64_t i = 0; i < length; i++) out[i] = p;
    break;
  case PW_COPY:
    UNARY(x);
    break;
  case PW_ADD:
    BINARY(x + y);
    break;
  case PW_SUB:
    BINARY(x - y);
    break;
  case PW_MUL:
    BINARY(x * y);
    break;
  case PW_DIV:
    BINARY(x / y);
    break;
  case PW_AFFINE:
    UNARY(float_multiply_add(p, x, q));
    break;
  case PW_LEAKY_RELU:
    UNARY(x * float_select(x > 0.0f, 1.0f, p));
    break;
  case PW_LEAKY_STEP:
    UNARY(float_select(x > 0.0f, 1.0f, p));
    break;
  case PW_TANH:
    UNARY(float_tanh(x));
    break;
  case PW_SIGMOID:
    UNARY(float_sigmoid(x));
    break;
  case PW_SOFTPLUS:
    UNARY(float_softplus(x));
    break;
  case PW_ABS:
    UNARY(float_from_bits(float_bits(x) & 0x7fffffffu));
    break;
  case PW_SIGN:
    UNARY(float_select(x > 0.0f, 1.0f, float_select(x < 0.0f, -1.0f, 0.0f)));
    break;
  case PW_SQRT:
    UNARY(sqrtf(x));
    break;
  case PW_SAFE_RECIPROCAL:
    UNARY(float_select(x == 0.0f, 0.0f, 1.0f / float_select(x == 0.0f, 1.0f, x)));
    break;
  case PW_CLAMP:
    UNARY(clamp(x, p, q));
    break;
  case PW_CLAMP_STEP:
    UNARY(float_select((p < x) & (x < q), 1.0f, 0.0f));
    break;
  case PW_EXP:
    UNARY(float_exp(x));
    break;
  case PW_LOG:
    UNARY(float_log(x));
    break;
  case PW_ROUND_BF16:
    UNARY(bf16_to_f32(bf16_from_f32(x)));
    break;
  case PW_CODE_COUNT:
    break;
  }
}

void tile_run(const TilePlan *plan, const Tensor *inputs, int64_t first, int64_t length,
              float *workspace, float *direct, const float **results) {
  const PointwiseProgram *program = &plan->program;
  const float *registers[TILE_REGISTERS];
  for (int r = 0; r < plan->input_count; r++) {
    registers[r] = load_input(plan, r, &inputs[r], first, length, workspace);
  }
  for (int k = 0; k < program->instruction_count; k++) {
    const PointwiseInstruction *instruction = &program->instructions[k];
    const bool last = k == program->instruction_count - 1;
    const int r = plan->input_count + k;
    float *out = last && direct ? direct : workspace + plan->offset[r];
    const int operands = pointwise_operands(instruction->code);
    const float *a = operands > 0 ? registers[instruction->a] : NULL;
    const float *b = operands > 1 ? registers[instruction->b] : NULL;
    run_instruction(instruction, a, b, out, length);
    registers[r] = out;
  }
  for (int k = 0; k < plan->output_count; k++) results[k] = registers[program->outputs[k]];
}
