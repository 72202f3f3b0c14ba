/* The generator's half of a step. */
#include "trainer/gan/patch_nce.h"
#include "trainer/gan/perceptual_loss.h"
#include "trainer/gan/step.h"

/* --- Forward pass ----------------------------------------------------------------------------- */

static DType compute_dtype(const Gan *gan) {
  return gan->config->train.precision == PRECISION_BF16 ? DTYPE_BF16 : DTYPE_F32;
}

/* The generator's output for other frames than the step's source. */
static Value generate(Step *step, Value frames) {
  return generator_build(step->graph, &step->gan->generator, READ_COMPUTE,
                         &step->gan->config->model, frames, step->noise, NULL);
}

void step_generator_forward(Step *step) {
  Gan *gan = step->gan;
  Graph *graph = step->graph;
  const ClipShape *clip = &gan->options.shape;
  const ModelConfig *model = &gan->config->model;
  int64_t batch = gan->config->train.micro_batch;
  Shape source = shape_make(batch, clip->frames, clip->source_height, clip->source_width,
                            clip->source_channels);
  Shape target = shape_make(batch, clip->frames, clip->target_height, clip->target_width, 3);
  Shape noise = target;
  noise.dim[AXIS_C] = model->noise_channels;
  DType dtype = compute_dtype(gan);
  Value frames = frames_normalize(graph, graph_view(graph, &gan->source, 0, source), dtype);
  step->source = frames_upsample(graph, frames, clip->target_height, clip->target_width);
  step->target = frames_normalize(graph, graph_view(graph, &gan->target, 0, target), dtype);
  step->noise =
      model->noise_channels > 0 ? graph_view(graph, &gan->inputs[INPUT_NOISE], 0, noise) : NO_VALUE;
  if (gan->config->loss.patch_nce > 0 && !gan_mirrors(gan->config))
    step->output = generator_build_with_features(graph, &gan->generator, model, step->source,
                                                 step->noise, &step->features);
  else
    step->output = generate(step, step->source);
}

/* --- Losses against the discriminators -------------------------------------------------------- */

static Value add_adversarial_terms(Step *step, Value sum) {
  Graph *graph = step->graph;
  const LossConfig *loss = &step->gan->config->loss;
  DiscriminatorOutputs fake = step_discriminate(step, step_visible_output(step), PART_FAKE);
  Value adversarial = loss_generator(graph, (Adversarial)loss->adversarial, &fake);
  step_report(step, METRIC_ADVERSARIAL, adversarial);
  Value weight = step_control(step, CONTROL_ADVERSARIAL_WEIGHT, 1);
  Value weighted = graph_mul(graph, adversarial, weight);
  sum = sum.id < 0 ? weighted : graph_add(graph, sum, weighted);
  if (loss->feature_matching <= 0) return sum;
  DiscriminatorOutputs real = step_discriminate(step, step->target, PART_FAKE);
  return step_add_term(step, sum, METRIC_FEATURE_MATCHING, loss->feature_matching,
                       loss_feature_matching(graph, &fake, &real));
}

/* --- Losses against the source ---------------------------------------------------------------- */

static Value mirror(Step *step, Value x) {
  Graph *graph = step->graph;
  Gan *gan = step->gan;
  Shape shape = graph_shape(graph, x);
  Value mirrored =
      graph_view(graph, &gan->inputs[INPUT_MIRROR], 0, shape_make(shape.dim[AXIS_N], 1, 1, 1, 1));
  Value columns =
      graph_view(graph, &gan->coordinates, 0, shape_make(1, 1, 1, shape.dim[AXIS_W], 1));
  return patch_nce_mirror(graph, x, mirrored, columns);
}

/* Features of the source or, of mirrored clips, of its mirror image. */
static void encode_mirrored(Step *step, GeneratorFeatures *features) {
  Gan *gan = step->gan;
  Value source = mirror(step, step->source);
  Value noise = step->noise.id < 0 ? NO_VALUE : mirror(step, step->noise);
  generator_encode(step->graph, &gan->generator, &gan->config->model, source, noise, features);
  for (int i = 0; i < GENERATOR_FEATURES; i++)
    features->layers[i] = mirror(step, features->layers[i]);
}

static Value patch_nce(Step *step) {
  Gan *gan = step->gan;
  GeneratorFeatures output;
  if (gan_mirrors(gan->config)) encode_mirrored(step, &step->features);
  generator_encode(step->graph, &gan->generator, &gan->config->model, step->output, step->noise,
                   &output);
  return loss_patch_nce(step->graph, &gan->projection, &output, &step->features,
                        (float)gan->config->loss.patch_nce_temperature);
}

static Value motion_consistency(Step *step) {
  Graph *graph = step->graph;
  Gan *gan = step->gan;
  Shape shape = graph_shape(graph, step->output);
  Shape field = shape_make(shape.dim[AXIS_N], 1, shape.dim[AXIS_H], shape.dim[AXIS_W], 2);
  Value flow = graph_view(graph, &gan->inputs[INPUT_MOTION], 0, field);
  field.dim[AXIS_C] = 1;
  Value noise = graph_view(graph, &gan->inputs[INPUT_MOTION_NOISE], 0, field);
  Value moved = graph_add(graph, graph_warp(graph, step->source, flow), noise);
  moved = graph_cast(graph, moved, graph_dtype(graph, step->source));
  return loss_motion_consistency(graph, step->output, generate(step, moved), flow);
}

static Value flow_consistency(Step *step) {
  Gan *gan = step->gan;
  Shape shape = graph_shape(step->graph, step->output);
  shape.dim[AXIS_T] -= 1;
  shape.dim[AXIS_C] = 2;
  Value flow = graph_view(step->graph, &gan->flow, 0, shape);
  shape.dim[AXIS_C] = 1;
  Value mask = graph_view(step->graph, &gan->flow_mask, 0, shape);
  return loss_flow_consistency(step->graph, step->output, flow, mask);
}

/* --- All losses ------------------------------------------------------------------------------- */

static Value identity(Step *step) {
  return loss_l1(step->graph, generate(step, step->target), step->target);
}

/* The losses whose value depends on source, target and output alone, in the order of their sum. */
static Value build_term(Step *step, Metric metric) {
  Graph *graph = step->graph;
  Parameters *vgg = &step->gan->perceptual;
  switch (metric) {
  case METRIC_L1:
    return loss_l1(graph, step->output, step->target);
  case METRIC_GRADIENT:
    return loss_gradient(graph, step->output, step->target);
  case METRIC_PERCEPTUAL:
    return loss_perceptual(graph, vgg, step->output, step->target);
  case METRIC_TEMPORAL:
    return loss_temporal(graph, step->output, step->target);
  case METRIC_TOTAL_VARIATION:
    return loss_total_variation(graph, step->output);
  case METRIC_PATCH_NCE:
    return patch_nce(step);
  case METRIC_COLOR:
    return loss_color(graph, step->output, step->source);
  case METRIC_IDENTITY:
    return identity(step);
  case METRIC_MOTION_CONSISTENCY:
    return motion_consistency(step);
  case METRIC_FLOW_CONSISTENCY:
    return flow_consistency(step);
  case METRIC_CONTENT:
    return loss_content(graph, vgg, step->output, step->source);
  case METRIC_STYLE:
    return loss_style(graph, vgg, step->output, step->target);
  default:
    break;
  }
  graph_fail(graph, "%s is not a term of the generator's loss", gan_metric_name(metric));
  return NO_VALUE;
}

static Value add_term(Step *step, StepKind kind, Value sum, Metric metric, double weight) {
  if (!step_computes(step, kind, metric)) return sum;
  return step_add_term(step, sum, metric, weight, build_term(step, metric));
}

void step_generator_pass(Step *step, StepKind kind) {
  Gan *gan = step->gan;
  const LossConfig *loss = &gan->config->loss;
  Value sum = add_term(step, kind, NO_VALUE, METRIC_L1, loss->l1);
  sum = add_term(step, kind, sum, METRIC_GRADIENT, loss->gradient);
  if (step_computes(step, kind, METRIC_ADVERSARIAL)) sum = add_adversarial_terms(step, sum);
  sum = add_term(step, kind, sum, METRIC_PERCEPTUAL, loss->perceptual);
  sum = add_term(step, kind, sum, METRIC_TEMPORAL, loss->temporal);
  sum = add_term(step, kind, sum, METRIC_TOTAL_VARIATION, loss->total_variation);
  sum = add_term(step, kind, sum, METRIC_PATCH_NCE, loss->patch_nce);
  sum = add_term(step, kind, sum, METRIC_COLOR, loss->color);
  sum = add_term(step, kind, sum, METRIC_IDENTITY, loss->identity);
  sum = add_term(step, kind, sum, METRIC_MOTION_CONSISTENCY, loss->motion_consistency);
  sum = add_term(step, kind, sum, METRIC_FLOW_CONSISTENCY, loss->flow_consistency);
  sum = add_term(step, kind, sum, METRIC_CONTENT, loss->content);
  sum = add_term(step, kind, sum, METRIC_STYLE, loss->style);
  step_report(step, METRIC_LOSS_G, sum);
  step_backward(step, &gan->generator, sum);
  if (step_computes(step, kind, METRIC_PATCH_NCE)) step_backward(step, &gan->projection, sum);
}

void step_declare_loss_networks(Step *step) {
  const LossConfig *loss = &step->gan->config->loss;
  if (loss->perceptual > 0) build_term(step, METRIC_PERCEPTUAL);
  if (loss->content > 0) build_term(step, METRIC_CONTENT);
  if (loss->style > 0) build_term(step, METRIC_STYLE);
  if (loss->patch_nce > 0) build_term(step, METRIC_PATCH_NCE);
}
