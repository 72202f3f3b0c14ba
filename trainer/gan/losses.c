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

Value loss_discriminator(Graph *graph, Adversarial kind, const DiscriminatorOutputs *outputs) {
  Value sum = NO_VALUE;
  for (int i = 0; i < outputs->count; i++) {
    Value logits = to_f32(graph, outputs->heads[i].logits);
    Shape half = graph_shape(graph, logits);
    half.dim[AXIS_N] /= 2;
    Value real = graph_slice(graph, logits, shape_make(0, 0, 0, 0, 0), half);
    Value fake = graph_slice(graph, logits, shape_make(half.dim[AXIS_N], 0, 0, 0, 0), half);
    Value loss = graph_add(graph, graph_mean(graph, patch_loss(graph, kind, real, true)),
                           graph_mean(graph, patch_loss(graph, kind, fake, false)));
    sum = add_weighted(graph, sum, loss, head_weight(outputs, i));
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
