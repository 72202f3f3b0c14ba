#include "trainer/gan/losses.h"

static Value to_f32(Graph *graph, Value x) {
  return graph_cast(graph, x, DTYPE_F32);
}

/* x without the last (`from` 0) or the first (`from` 1) index along an axis. */
static Value all_but_one(Graph *graph, Value x, int axis, int64_t from) {
  Shape size = graph_shape(graph, x), begin = shape_make(0, 0, 0, 0, 0);
  begin.dim[axis] = from;
  size.dim[axis] -= 1;
  return graph_slice(graph, x, begin, size);
}

static Value difference_along(Graph *graph, Value x, int axis) {
  return graph_sub(graph, all_but_one(graph, x, axis, 1), all_but_one(graph, x, axis, 0));
}

Value loss_l1(Graph *graph, Value a, Value b) {
  return graph_mean(graph, graph_abs(graph, graph_sub(graph, to_f32(graph, a), to_f32(graph, b))));
}

Value loss_temporal(Graph *graph, Value output, Value target) {
  /* (o_t - o_{t-1}) - (b_t - b_{t-1}) = e_t - e_{t-1} with the error e = o - b. */
  Value error = graph_sub(graph, to_f32(graph, output), to_f32(graph, target));
  return graph_mean(graph, graph_abs(graph, difference_along(graph, error, AXIS_T)));
}

Value loss_total_variation(Graph *graph, Value output) {
  Value x = to_f32(graph, output);
  Value down = graph_mean(graph, graph_abs(graph, difference_along(graph, x, AXIS_H)));
  Value right = graph_mean(graph, graph_abs(graph, difference_along(graph, x, AXIS_W)));
  return graph_add(graph, down, right);
}

Value loss_gradient(Graph *graph, Value output, Value target) {
  /* Differences are linear: those of the error are the differences of output minus target. */
  Value error = graph_sub(graph, to_f32(graph, output), to_f32(graph, target));
  return loss_total_variation(graph, error);
}

/* --- Colours ---------------------------------------------------------------------------------- */

/* The differences of luma and of both colour differences, [N,T,H,W,1] each. */
typedef struct ColorDifference {
  Value y, u, v;
} ColorDifference;

static ColorDifference color_difference(Graph *graph, Value a, Value b) {
  Value d[3];
  for (int i = 0; i < 3; i++) { /* halved: from [-1, 1] to [0, 1] */
    Value difference = graph_sub(graph, to_f32(graph, frames_channel(graph, a, i)),
                                 to_f32(graph, frames_channel(graph, b, i)));
    d[i] = graph_affine(graph, difference, 0.5f, 0);
  }
  Value y = graph_add(
      graph, graph_affine(graph, d[0], 0.299f, 0),
      graph_add(graph, graph_affine(graph, d[1], 0.587f, 0), graph_affine(graph, d[2], 0.114f, 0)));
  Value u = graph_affine(graph, graph_sub(graph, d[2], y), 0.492f, 0);
  Value v = graph_affine(graph, graph_sub(graph, d[0], y), 0.877f, 0);
  return (ColorDifference){y, u, v};
}

static Value mean_size(Graph *graph, Value x) {
  return graph_mean(graph, graph_abs(graph, x));
}

Value loss_color(Graph *graph, Value output, Value source) {
  enum { BLOCK = 8, STRIDE = 4 };
  ColorDifference difference = color_difference(graph, output, source);
  Value coarse = graph_average_pool(graph, difference.y, BLOCK, STRIDE, 0);
  Value chroma = graph_add(graph, mean_size(graph, difference.u), mean_size(graph, difference.v));
  return graph_add(graph, mean_size(graph, coarse), chroma);
}

/* --- Consistency over time -------------------------------------------------------------------- */

Value loss_motion_consistency(Graph *graph, Value output, Value moved, Value flow) {
  return loss_l1(graph, graph_warp(graph, graph_detach(graph, output), flow), moved);
}

Value loss_flow_consistency(Graph *graph, Value output, Value flow, Value mask) {
  Value before = graph_detach(graph, all_but_one(graph, output, AXIS_T, 0));
  Value warped = to_f32(graph, graph_warp(graph, before, flow));
  Value now = to_f32(graph, all_but_one(graph, output, AXIS_T, 1));
  Value change = graph_abs(graph, graph_sub(graph, now, warped));
  return graph_mean(graph, graph_mul(graph, change, mask));
}

/* --- Adversarial ------------------------------------------------------------------------------ */

/* The loss of each patch's logit against the label real or fake. */
static Value patch_loss(Graph *graph, Adversarial kind, Value logits, bool real) {
  float sign = real ? -1 : 1;
  switch (kind) {
  case ADVERSARIAL_BCE:
    return graph_softplus(graph, graph_affine(graph, logits, sign, 0));
  case ADVERSARIAL_LSGAN: {
    Value distance = graph_affine(graph, logits, 1, real ? -1 : 0);
    return graph_affine(graph, graph_square(graph, distance), 0.5f, 0);
  }
  case ADVERSARIAL_HINGE:
    return graph_relu(graph, graph_affine(graph, logits, sign, 1));
  case ADVERSARIAL_WGAN_GP:
    return graph_affine(graph, logits, sign, 0);
  }
  graph_fail(graph, "unknown adversarial loss %d", (int)kind);
  return NO_VALUE;
}

/* The weight of a head in a sum that averages over the image scales. */
static float head_weight(const DiscriminatorOutputs *outputs, int head) {
  return head < outputs->image_count ? 1 / (float)outputs->image_count : 1;
}

static Value add_weighted(Graph *graph, Value sum, Value term, float weight) {
  Value weighted = graph_affine(graph, term, weight, 0);
  return sum.id < 0 ? weighted : graph_add(graph, sum, weighted);
}

/* Part `index` of a batch of `parts` parts of equal size. */
static Value part_of(Graph *graph, Value logits, int parts, int index) {
  Shape size = graph_shape(graph, logits);
  size.dim[AXIS_N] /= parts;
  return graph_slice(graph, logits, shape_make(index * size.dim[AXIS_N], 0, 0, 0, 0), size);
}

static Value mean_patch_loss(Graph *graph, Adversarial kind, Value logits, bool real) {
  return graph_mean(graph, patch_loss(graph, kind, logits, real));
}

Value loss_discriminator(Graph *graph, Adversarial kind, const DiscriminatorOutputs *outputs,
                         float edge_weight) {
  Value sum = NO_VALUE;
  int parts = edge_weight > 0 ? 3 : 2;
  for (int i = 0; i < outputs->count; i++) {
    Value logits = to_f32(graph, outputs->heads[i].logits);
    Value real = mean_patch_loss(graph, kind, part_of(graph, logits, parts, 0), true);
    Value fake = mean_patch_loss(graph, kind, part_of(graph, logits, parts, 1), false);
    Value loss = graph_add(graph, real, fake);
    if (edge_weight > 0) {
      Value edges = mean_patch_loss(graph, kind, part_of(graph, logits, parts, 2), false);
      loss = add_weighted(graph, loss, edges, edge_weight);
    }
    sum = add_weighted(graph, sum, loss, head_weight(outputs, i));
  }
  return sum;
}

Value discriminator_real_sign(Graph *graph, Adversarial kind, const DiscriminatorOutputs *outputs,
                              int parts) {
  Value sum = NO_VALUE;
  float middle = kind == ADVERSARIAL_LSGAN ? -0.5f : 0; /* lsgan's labels are 0 and 1 */
  for (int i = 0; i < outputs->count; i++) {
    Value real = part_of(graph, to_f32(graph, outputs->heads[i].logits), parts, 0);
    Value sign = graph_sign(graph, graph_affine(graph, real, 1, middle));
    sum = add_weighted(graph, sum, graph_mean(graph, sign), 1 / (float)outputs->count);
  }
  return sum;
}

Value loss_generator(Graph *graph, Adversarial kind, const DiscriminatorOutputs *fake) {
  Value sum = NO_VALUE;
  for (int i = 0; i < fake->count; i++) {
    Value logits = to_f32(graph, fake->heads[i].logits);
    Value loss = kind == ADVERSARIAL_HINGE ? graph_affine(graph, logits, -1, 0)
                                           : patch_loss(graph, kind, logits, true);
    sum = add_weighted(graph, sum, graph_mean(graph, loss), head_weight(fake, i));
  }
  return sum;
}

/* The squared gradient of each clip's D (its mean logit) with respect to its `candidate`. */
static Value squared_input_gradient(Graph *graph, const DiscriminatorOutputs *outputs,
                                    Value candidate) {
  Value sum = NO_VALUE, gradient = NO_VALUE;
  float clips = (float)graph_shape(graph, candidate).dim[AXIS_N];
  for (int i = 0; i < outputs->count; i++) {
    Value mean = graph_mean(graph, to_f32(graph, outputs->heads[i].logits));
    sum = add_weighted(graph, sum, mean, clips * head_weight(outputs, i));
  }
  graph_gradients(graph, sum, &candidate, 1, &gradient);
  return graph_square(graph, to_f32(graph, gradient));
}

Value loss_r1(Graph *graph, const DiscriminatorOutputs *real, Value target) {
  Value squares = squared_input_gradient(graph, real, target);
  float clips = (float)graph_shape(graph, target).dim[AXIS_N];
  return graph_reduce_sum(graph, squares, ALL_AXES, 1 / clips);
}

Value loss_gradient_penalty(Graph *graph, const DiscriminatorOutputs *outputs, Value mixed) {
  Value squares = squared_input_gradient(graph, outputs, mixed);
  Value norm = graph_sqrt(graph, graph_reduce_sum(graph, squares, ALL_AXES & ~(1u << AXIS_N), 1));
  return graph_mean(graph, graph_square(graph, graph_affine(graph, norm, 1, -1)));
}

Value frames_interpolate(Graph *graph, Value output, Value target, Value weights) {
  Value from = to_f32(graph, output);
  Value difference = graph_sub(graph, to_f32(graph, target), from);
  Value mixed = graph_add(graph, from, graph_mul(graph, weights, difference));
  return graph_cast(graph, mixed, graph_dtype(graph, output));
}

Value loss_feature_matching(Graph *graph, const DiscriminatorOutputs *fake,
                            const DiscriminatorOutputs *real) {
  Value sum = NO_VALUE;
  for (int i = 0; i < fake->count; i++) {
    const DiscriminatorOutput *a = &fake->heads[i], *b = &real->heads[i];
    float weight = head_weight(fake, i) / (float)a->feature_count;
    for (int k = 0; k < a->feature_count; k++)
      sum = add_weighted(graph, sum, loss_l1(graph, a->features[k], b->features[k]), weight);
  }
  return sum;
}
