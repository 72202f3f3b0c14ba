#include "engine/graph/op.h"

typedef struct KindInfo {
  const char *name;
  unsigned written; /* a bit for each input that is written if it is present */
} KindInfo;

static const KindInfo kinds[OP_KIND_COUNT] = {
    [OP_VIEW] = {"view", 0},
    [OP_RESHAPE] = {"reshape", 0},
    [OP_DETACH] = {"detach", 0},
    [OP_POINTWISE] = {"pointwise", 0},
    [OP_REDUCE] = {"reduce", 0},
    [OP_SEGMENT_SQUARED_NORM] = {"segment_squared_norm", 0},
    [OP_CONV3D] = {"conv3d", 0},
    [OP_CONV3D_BACKWARD_DATA] = {"conv3d_backward_data", 0},
    [OP_CONV3D_BACKWARD_WEIGHTS] = {"conv3d_backward_weights", 0},
    [OP_MATMUL] = {"matmul", 0},
    [OP_NORM] = {"norm", 0},
    [OP_NORM_BACKWARD] = {"norm_backward", 0},
    [OP_CONCAT] = {"concat", 0},
    [OP_SLICE] = {"slice", 0},
    [OP_PAD] = {"pad", 0},
    [OP_PAD_BACKWARD] = {"pad_backward", 0},
    [OP_RESIZE] = {"resize", 0},
    [OP_RESIZE_BACKWARD] = {"resize_backward", 0},
    [OP_AVERAGE_POOL] = {"average_pool", 0},
    [OP_AVERAGE_POOL_BACKWARD] = {"average_pool_backward", 0},
    [OP_MAX_POOL] = {"max_pool", 0},
    [OP_MAX_POOL_BACKWARD] = {"max_pool_backward", 0},
    [OP_WARP] = {"warp", 0},
    [OP_TRANSLATE] = {"translate", 0},
    [OP_STORE] = {"store", 1u << 1},
    [OP_ALL_REDUCE] = {"all_reduce", 1u << 0},
    [OP_ADAM] = {"adam", 1u << ADAM_PARAMETERS | 1u << ADAM_MOMENT1 | 1u << ADAM_MOMENT2 |
                             1u << ADAM_EMA | 1u << ADAM_COMPUTE | 1u << ADAM_COUNTERS},
};

const char *op_kind_name(OpKind kind) {
  return kinds[kind].name;
}

unsigned op_written_inputs(const Op *op) {
  unsigned written = kinds[op->kind].written;
  for (int i = 0; i < OP_MAX_INPUTS; i++) {
    if (i >= op->input_count || op->inputs[i].id < 0) written &= ~(1u << i);
  }
  return written;
}

const PadAttributes *op_fused_pad(const Op *op) {
  const bool resizes = op->kind == OP_RESIZE || op->kind == OP_RESIZE_BACKWARD;
  if (!resizes && op->kind != OP_NORM && op->kind != OP_NORM_BACKWARD) return NULL;
  const PadAttributes *pad = resizes ? &op->attributes.resize.pad : &op->attributes.norm.pad;
  for (int axis = 0; axis < RANK; axis++) {
    if (pad->before.dim[axis] > 0 || pad->after.dim[axis] > 0) return pad;
  }
  return NULL;
}

bool op_has_addend(const Op *op) {
  return op->input_count > 1 && (op->kind == OP_PAD_BACKWARD || op->kind == OP_RESIZE_BACKWARD ||
                                 op->kind == OP_AVERAGE_POOL_BACKWARD);
}

AdamInputSpec adam_input_spec(AdamInput input, int64_t count) {
  static const char *const names[ADAM_INPUTS] = {
      [ADAM_PARAMETERS] = "parameters",
      [ADAM_GRADIENTS] = "gradients",
      [ADAM_MOMENT1] = "moment1",
      [ADAM_MOMENT2] = "moment2",
      [ADAM_EMA] = "ema",
      [ADAM_COMPUTE] = "compute",
      [ADAM_NORM] = "norm",
      [ADAM_CONTROLS] = "controls",
      [ADAM_COUNTERS] = "counters",
  };
  AdamInputSpec spec = {.name = names[input], .dtype = DTYPE_F32, .count = count};
  if (input == ADAM_COMPUTE) spec.dtype = DTYPE_BF16;
  if (input == ADAM_COUNTERS) spec.dtype = DTYPE_I64;
  if (input == ADAM_NORM) spec.count = 1;
  if (input == ADAM_CONTROLS) spec.count = ADAM_CONTROL_COUNT;
  if (input == ADAM_COUNTERS) spec.count = ADAM_COUNTER_COUNT;
  spec.optional = input == ADAM_EMA || input == ADAM_COMPUTE;
  return spec;
}
