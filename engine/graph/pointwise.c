#include "engine/graph/pointwise.h"

static const struct {
  const char *name;
  int operands;
} codes[PW_CODE_COUNT] = {
    [PW_CONSTANT] = {"constant", 0},
    [PW_COPY] = {"copy", 1},
    [PW_ADD] = {"add", 2},
    [PW_SUB] = {"sub", 2},
    [PW_MUL] = {"mul", 2},
    [PW_DIV] = {"div", 2},
    [PW_AFFINE] = {"affine", 1},
    [PW_LEAKY_RELU] = {"leaky_relu", 1},
    [PW_LEAKY_STEP] = {"leaky_step", 1},
    [PW_TANH] = {"tanh", 1},
    [PW_SIGMOID] = {"sigmoid", 1},
    [PW_SOFTPLUS] = {"softplus", 1},
    [PW_ABS] = {"abs", 1},
    [PW_SIGN] = {"sign", 1},
    [PW_SQRT] = {"sqrt", 1},
    [PW_SAFE_RECIPROCAL] = {"safe_reciprocal", 1},
    [PW_CLAMP] = {"clamp", 1},
    [PW_CLAMP_STEP] = {"clamp_step", 1},
    [PW_EXP] = {"exp", 1},
    [PW_LOG] = {"log", 1},
    [PW_ROUND_BF16] = {"round_bf16", 1},
};

const char *pointwise_name(PointwiseCode code) {
  return codes[code].name;
}

int pointwise_operands(PointwiseCode code) {
  return codes[code].operands;
}

bool pointwise_well_formed(const PointwiseProgram *program, int inputs, int outputs) {
  if (program->instruction_count < 0 || program->instruction_count > POINTWISE_MAX_INSTRUCTIONS ||
      inputs > POINTWISE_MAX_INPUTS || outputs > POINTWISE_MAX_OUTPUTS) {
    return false;
  }
  for (int k = 0; k < program->instruction_count; k++) {
    const PointwiseInstruction *i = &program->instructions[k];
    if (i->code >= PW_CODE_COUNT) return false;
    const int operands = pointwise_operands(i->code);
    if (operands > 0 && (i->a < 0 || i->a >= inputs + k)) return false;
    if (operands > 1 && (i->b < 0 || i->b >= inputs + k)) return false;
  }
  for (int k = 0; k < outputs; k++) {
    const int r = program->outputs[k];
    if (r < 0 || r >= inputs + program->instruction_count) return false;
  }
  return true;
}
