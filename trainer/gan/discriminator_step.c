/* The discriminators' half of a step. */
#include "trainer/gan/diff_augment.h"
#include "trainer/gan/step.h"

/* --- What the discriminators see -------------------------------------------------------------- */

/* The draws of one part for all clips, [N,1,1,1,count]. */
static Value draws_of(Step *step, StepInput input, Part part, int64_t count) {
  int64_t batch = step->gan->config->train.micro_batch;
  return graph_view(step->graph, &step->gan->inputs[input], part * batch * count,
                    shape_make(batch, 1, 1, 1, count));
}

static Value augment(Step *step, Value frames, Part part) {
  Gan *gan = step->gan;
  if (!gan_augments(gan)) return frames;
  Shape shape = graph_shape(step->graph, frames);
  int64_t height = shape.dim[AXIS_H], width = shape.dim[AXIS_W];
  Value columns = graph_view(step->graph, &gan->coordinates, 0, shape_make(1, 1, 1, width, 1));
  Value rows = graph_view(step->graph, &gan->coordinates, 0, shape_make(1, 1, height, 1, 1));
  return diff_augment(step->graph, frames, draws_of(step, INPUT_AUGMENTATION, part, DRAW_VALUES),
                      columns, rows);
}

static DiscriminatorInput input_of(Step *step, Value candidate, Part part) {
  const ModelConfig *model = &step->gan->config->model;
  return (DiscriminatorInput){
      .candidate = augment(step, candidate, part),
      .source = model->conditional ? augment(step, step->source, part) : NO_VALUE,
      .grey_weights = model->grey_view ? draws_of(step, INPUT_GREY, part, 3) : NO_VALUE,
  };
}

Value step_visible_output(Step *step) {
  return graph_clamp(step->graph, step->output, -1, 1);
}

static DiscriminatorOutputs discriminate(Step *step, const DiscriminatorInput *input) {
  DiscriminatorOutputs outputs;
  discriminators_build(step->graph, &step->gan->discriminator, &step->gan->config->model, input,
                       &outputs);
  return outputs;
}

DiscriminatorOutputs step_discriminate(Step *step, Value candidate, Part part) {
  DiscriminatorInput input = input_of(step, candidate, part);
  return discriminate(step, &input);
}

/* Concatenates the parts along N. */
static DiscriminatorInput concatenate(Step *step, const DiscriminatorInput *parts, int count) {
  Value candidates[PART_COUNT], sources[PART_COUNT], weights[PART_COUNT];
  for (int i = 0; i < count; i++) {
    candidates[i] = parts[i].candidate;
    sources[i] = parts[i].source;
    weights[i] = parts[i].grey_weights;
  }
  bool conditional = sources[0].id >= 0, grey = weights[0].id >= 0;
  return (DiscriminatorInput){
      .candidate = graph_concat(step->graph, candidates, count, AXIS_N),
      .source = conditional ? graph_concat(step->graph, sources, count, AXIS_N) : NO_VALUE,
      .grey_weights = grey ? graph_concat(step->graph, weights, count, AXIS_N) : NO_VALUE,
  };
}

/* Targets with smoothed edges, as frames. */
static Value smoothed_targets(Step *step) {
  Gan *gan = step->gan;
  Value frames = graph_view(step->graph, &gan->smoothed, 0, graph_shape(step->graph, step->target));
  return frames_normalize(step->graph, frames, graph_dtype(step->graph, step->target));
}

/* --- Penalties -------------------------------------------------------------------------------- */

/* R1 on real clips. Lazy regularisation (Karras et al. 2020): applied every r1_interval steps and
 * scaled by r1_interval. */
static Value add_r1(Step *step, Value sum) {
  const LossConfig *loss = &step->gan->config->loss;
  DiscriminatorInput input = input_of(step, step->target, PART_REAL);
  DiscriminatorOutputs real = discriminate(step, &input);
  return step_add_term(step, sum, METRIC_R1, loss->r1 / 2 * (double)loss->r1_interval,
                       loss_r1(step->graph, &real, input.candidate));
}

/* WGAN-GP's gradient penalty, at random points between real and fake. */
static Value add_gradient_penalty(Step *step, Value sum) {
  Gan *gan = step->gan;
  Shape one_per_clip = shape_make(gan->config->train.micro_batch, 1, 1, 1, 1);
  Value weights = graph_view(step->graph, &gan->inputs[INPUT_INTERPOLATION], 0, one_per_clip);
  Value mixed = frames_interpolate(step->graph, step_visible_output(step), step->target, weights);
  DiscriminatorInput input = input_of(step, mixed, PART_FAKE);
  DiscriminatorOutputs outputs = discriminate(step, &input);
  Value penalty = loss_gradient_penalty(step->graph, &outputs, input.candidate);
  return step_add_term(step, sum, METRIC_GRADIENT_PENALTY, gan->config->loss.gradient_penalty,
                       penalty);
}

/* --- The half --------------------------------------------------------------------------------- */

void step_discriminator_pass(Step *step) {
  const LossConfig *config = &step->gan->config->loss;
  Adversarial kind = (Adversarial)config->adversarial;
  DiscriminatorInput parts[PART_COUNT];
  int count = config->edge_negatives > 0 ? 3 : 2;
  parts[PART_REAL] = input_of(step, step->target, PART_REAL);
  parts[PART_FAKE] = input_of(step, step_visible_output(step), PART_FAKE);
  if (count > 2) parts[PART_EDGES] = input_of(step, smoothed_targets(step), PART_EDGES);
  DiscriminatorInput batch = concatenate(step, parts, count);
  DiscriminatorOutputs outputs = discriminate(step, &batch);
  Value loss = loss_discriminator(step->graph, kind, &outputs, (float)config->edge_negatives);
  step_report(step, METRIC_LOSS_D, loss);
  if (step_computes(step, STEP_GAN, METRIC_REAL_SIGN))
    step_report(step, METRIC_REAL_SIGN,
                discriminator_real_sign(step->graph, kind, &outputs, count));
  if (step->gan->inputs[INPUT_INTERPOLATION].count > 0) loss = add_gradient_penalty(step, loss);
  if (step->apply_r1) loss = add_r1(step, loss);
  step_backward(step, &step->gan->discriminator, loss);
}
