#include "engine/ops/rules.h"

static const OpRule *const rules[OP_KIND_COUNT] = {
    [OP_VIEW] = &rule_view,
    [OP_RESHAPE] = &rule_reshape,
    [OP_DETACH] = &rule_detach,
    [OP_POINTWISE] = &rule_pointwise,
    [OP_REDUCE] = &rule_reduce,
    [OP_SEGMENT_SQUARED_NORM] = &rule_segment_squared_norm,
    [OP_CONV3D] = &rule_conv3d,
    [OP_CONV3D_BACKWARD_DATA] = &rule_conv3d_backward_data,
    [OP_CONV3D_BACKWARD_WEIGHTS] = &rule_conv3d_backward_weights,
    [OP_MATMUL] = &rule_matmul,
    [OP_NORM] = &rule_norm,
    [OP_NORM_BACKWARD] = &rule_norm_backward,
    [OP_CONCAT] = &rule_concat,
    [OP_SLICE] = &rule_slice,
    [OP_PAD] = &rule_pad,
    [OP_PAD_BACKWARD] = &rule_pad_backward,
    [OP_RESIZE] = &rule_resize,
    [OP_RESIZE_BACKWARD] = &rule_resize_backward,
    [OP_AVERAGE_POOL] = &rule_average_pool,
    [OP_AVERAGE_POOL_BACKWARD] = &rule_average_pool_backward,
    [OP_MAX_POOL] = &rule_max_pool,
    [OP_MAX_POOL_BACKWARD] = &rule_max_pool_backward,
    [OP_WARP] = &rule_warp,
    [OP_TRANSLATE] = &rule_translate,
    [OP_STORE] = &rule_store,
    [OP_ALL_REDUCE] = &rule_all_reduce,
    [OP_ADAM] = &rule_adam,
};

const OpRule *op_rule(OpKind kind) {
  return rules[kind];
}
