/* One training step: the graph of every program that gan_step runs.
 *
 *   discriminator_pass    D on [real; fake], its adversarial loss, R1, gradient penalty, backward
 *   discriminator_update  Adam on D
 *   generator_pass        L1, adversarial loss, feature matching ... of G's output, backward
 *   generator_update      Adam on G */
#include "engine/parameters/spectral_norm.h"
#include "trainer/gan/internal.h"
#include "trainer/gan/losses.h"
#include "trainer/gan/perceptual_loss.h"

/* The graph under construction and the values that both networks' passes use. */
typedef struct Step {
  Gan *gan;
  Graph *graph;
  bool last_micro_batch;
  bool apply_r1;
  Value source, target, output; /* [N,T,H,W,*] in the compute dtype */
} Step;

static bool in_micro_batches(const Gan *gan) {
  return gan->options.micro_batches > 1;
}

static DType compute_dtype(const Gan *gan) {
  return gan->config->train.precision == PRECISION_BF16 ? DTYPE_BF16 : DTYPE_F32;
}

static Value control_view(Step *step, int offset, int count) {
  return graph_view(step->graph, &step->gan->controls, offset, shape_vector(count));
}

static Value metric_view(Step *step, Metric metric) {
  return graph_view(step->graph, &step->gan->metrics, metric, shape_scalar());
}

/* Stores a scalar as a metric: its mean over this rank's micro-batches. */
static void report(Step *step, Metric metric, Value value) {
  if (in_micro_batches(step->gan)) {
    float weight = 1 / (float)step->gan->options.micro_batches;
    graph_accumulate(step->graph, graph_affine(step->graph, value, weight, 0),
                     metric_view(step, metric));
  } else {
    graph_store(step->graph, value, metric_view(step, metric));
  }
}

/* Reports a term of a loss and adds it, weighted, to `sum` (NO_VALUE: nothing yet). */
static Value add_term(Step *step, Value sum, Metric metric, double weight, Value term) {
  report(step, metric, term);
  Value weighted = graph_affine(step->graph, term, (float)weight, 0);
  return sum.id < 0 ? weighted : graph_add(step->graph, sum, weighted);
}

/* --- Forward pass ----------------------------------------------------------------------------- */

static void generator_forward(Step *step) {
  Gan *gan = step->gan;
  Graph *graph = step->graph;
  const ClipShape *clip = &gan->options.shape;
  int64_t batch = gan->config->train.micro_batch, noise = gan->config->model.noise_channels;
  Shape source = shape_make(batch, clip->frames, clip->source_height, clip->source_width,
                            clip->source_channels);
  Shape target = shape_make(batch, clip->frames, clip->target_height, clip->target_width, 3);
  Shape noise_shape = target;
  noise_shape.dim[AXIS_C] = noise;
  DType dtype = compute_dtype(gan);
  Value frames = frames_normalize(graph, graph_view(graph, &gan->source, 0, source), dtype);
  step->source = frames_upsample(graph, frames, clip->target_height, clip->target_width);
  step->target = frames_normalize(graph, graph_view(graph, &gan->target, 0, target), dtype);
  Value noise_view = noise > 0 ? graph_view(graph, &gan->noise, 0, noise_shape) : NO_VALUE;
  step->output = generator_build(graph, &gan->generator, READ_COMPUTE, &gan->config->model,
                                 step->source, noise_view, NULL);
}

/* The conditional input of the discriminators: source and candidate along the channels. */
static Value pair(Step *step, Value candidate) {
  return graph_concat(step->graph, (Value[]){step->source, candidate}, 2, AXIS_C);
}

static DiscriminatorOutputs discriminate(Step *step, Value pairs) {
  DiscriminatorOutputs outputs;
  discriminators_build(step->graph, &step->gan->discriminator, &step->gan->config->model, pairs,
                       &outputs);
  return outputs;
}

/* --- Backward pass and gradient accumulation -------------------------------------------------- */

static AccumulationTree *accumulation_of(Gan *gan, const Parameters *parameters) {
  return parameters == &gan->generator ? &gan->generator_accumulation
                                       : &gan->discriminator_accumulation;
}

/* Computes the gradient of loss / micro-batches. The last micro-batch adds the partial sums of all
 * others (the set bits of its index) and all-reduces. Neighbouring micro-batches are added first,
 * then pairs of neighbours, and so on; ranks hold neighbouring micro-batches and are added in the
 * same order, so world sizes that are powers of two round alike. */
static void backward(Step *step, Parameters *parameters, Value loss) {
  Gan *gan = step->gan;
  int micro_batches = gan->options.micro_batches;
  AccumulationTree *tree = accumulation_of(gan, parameters);
  Buffer *buffers[ACCUMULATION_MAX_LEVELS];
  PartialSums partial = {0, buffers};
  for (int k = 0; step->last_micro_batch && k < tree->levels; k++)
    if ((micro_batches - 1) >> k & 1) buffers[partial.count++] = &tree->partial_sums[k];
  if (in_micro_batches(gan)) loss = graph_affine(step->graph, loss, 1 / (float)micro_batches, 0);
  bool complete = step->last_micro_batch || !in_micro_batches(gan);
  int64_t bucket = (int64_t)(gan->config->comm.bucket_mib * 1048576);
  parameters_differentiate(parameters, step->graph, loss, &partial,
                           complete && gan->options.all_reduce, bucket);
}

void step_graph_accumulate(Parameters *parameters, AccumulationTree *tree, int level,
                           Graph *graph) {
  Shape flat = shape_vector(parameters->total);
  Value sum = graph_view(graph, &parameters->gradient, 0, flat);
  for (int k = 0; k < level; k++)
    sum = graph_add(graph, sum, graph_view(graph, &tree->partial_sums[k], 0, flat));
  graph_store(graph, sum, graph_view(graph, &tree->partial_sums[level], 0, flat));
}

/* --- Discriminator ---------------------------------------------------------------------------- */

/* R1 on real pairs. Lazy regularisation (Karras et al. 2020): applied every r1_interval steps and
 * scaled by r1_interval. */
static Value add_r1(Step *step, Value sum) {
  const LossConfig *loss = &step->gan->config->loss;
  DiscriminatorOutputs real = discriminate(step, pair(step, step->target));
  return add_term(step, sum, METRIC_R1, loss->r1 / 2 * (double)loss->r1_interval,
                  loss_r1(step->graph, &real, step->target));
}

/* WGAN-GP's gradient penalty, at random points between real and fake. */
static Value add_gradient_penalty(Step *step, Value sum) {
  const Gan *gan = step->gan;
  Shape one_per_clip = shape_make(gan->config->train.micro_batch, 1, 1, 1, 1);
  Value weights = graph_view(step->graph, &step->gan->interpolation, 0, one_per_clip);
  Value mixed = frames_interpolate(step->graph, step->output, step->target, weights);
  DiscriminatorOutputs outputs = discriminate(step, pair(step, mixed));
  Value penalty = loss_gradient_penalty(step->graph, &outputs, mixed);
  return add_term(step, sum, METRIC_GRADIENT_PENALTY, gan->config->loss.gradient_penalty, penalty);
}

static void discriminator_pass(Step *step) {
  Graph *graph = step->graph;
  Value real_and_fake =
      graph_concat(graph, (Value[]){pair(step, step->target), pair(step, step->output)}, 2, AXIS_N);
  DiscriminatorOutputs outputs = discriminate(step, real_and_fake);
  Value loss =
      loss_discriminator(graph, (Adversarial)step->gan->config->loss.adversarial, &outputs);
  report(step, METRIC_LOSS_D, loss);
  if (step->gan->interpolation.count > 0) loss = add_gradient_penalty(step, loss);
  if (step->apply_r1) loss = add_r1(step, loss);
  backward(step, &step->gan->discriminator, loss);
}

/* --- Generator -------------------------------------------------------------------------------- */

static Value add_adversarial_terms(Step *step, Value sum) {
  Graph *graph = step->graph;
  const LossConfig *loss = &step->gan->config->loss;
  DiscriminatorOutputs fake = discriminate(step, pair(step, step->output));
  Value adversarial = loss_generator(graph, (Adversarial)loss->adversarial, &fake);
  report(step, METRIC_ADVERSARIAL, adversarial);
  Value weight = control_view(step, CONTROL_ADVERSARIAL_WEIGHT, 1);
  Value weighted = graph_mul(graph, adversarial, weight);
  sum = sum.id < 0 ? weighted : graph_add(graph, sum, weighted);
  if (loss->feature_matching <= 0) return sum;
  DiscriminatorOutputs real = discriminate(step, pair(step, step->target));
  return add_term(step, sum, METRIC_FEATURE_MATCHING, loss->feature_matching,
                  loss_feature_matching(graph, &fake, &real));
}

static void generator_pass(Step *step, StepKind kind) {
  Graph *graph = step->graph;
  Gan *gan = step->gan;
  const StepControls controls = {.kind = kind};
  const LossConfig *loss = &gan->config->loss;
  Value sum = NO_VALUE;
  if (gan_computes_metric(gan, &controls, METRIC_L1))
    sum = add_term(step, sum, METRIC_L1, loss->l1, loss_l1(graph, step->output, step->target));
  if (gan_computes_metric(gan, &controls, METRIC_ADVERSARIAL))
    sum = add_adversarial_terms(step, sum);
  if (gan_computes_metric(gan, &controls, METRIC_PERCEPTUAL))
    sum = add_term(step, sum, METRIC_PERCEPTUAL, loss->perceptual,
                   loss_perceptual(graph, &gan->perceptual, step->output, step->target));
  if (gan_computes_metric(gan, &controls, METRIC_TEMPORAL))
    sum = add_term(step, sum, METRIC_TEMPORAL, loss->temporal,
                   loss_temporal(graph, step->output, step->target));
  if (gan_computes_metric(gan, &controls, METRIC_TOTAL_VARIATION))
    sum = add_term(step, sum, METRIC_TOTAL_VARIATION, loss->total_variation,
                   loss_total_variation(graph, step->output));
  report(step, METRIC_LOSS_G, sum);
  backward(step, &gan->generator, sum);
}

/* --- Updates ---------------------------------------------------------------------------------- */

/* Clips the gradient, applies Adam and EMA, and advances spectral norm. The update is skipped where
 * the gradient norm, or `gate` (NO_VALUE: none), is not finite. */
static void update(Step *step, Parameters *parameters, int controls, Metric norm_metric, Value gate,
                   bool with_ema) {
  Graph *graph = step->graph;
  const OptimConfig *optim = &step->gan->config->optim;
  Shape flat = shape_vector(parameters->total);
  spectral_append_gradient(parameters, graph);
  Value norm = parameters_gradient_norm(parameters, graph);
  graph_store(graph, norm, metric_view(step, norm_metric));
  if (gate.id >= 0) /* 0 * gate: NaN where the gate is not finite, else 0 */
    norm = graph_add(graph, norm, graph_affine(graph, gate, 0, 0));
  bool rounded = parameters_have_compute(parameters) && !parameters->spectral;
  AdamViews views = {
      .parameters = graph_view(graph, &parameters->master, 0, flat),
      .gradients = graph_view(graph, &parameters->gradient, 0, flat),
      .moment1 = graph_view(graph, &parameters->moment1, 0, flat),
      .moment2 = graph_view(graph, &parameters->moment2, 0, flat),
      .ema = with_ema ? graph_view(graph, &parameters->ema, 0, flat) : NO_VALUE,
      .compute = rounded ? graph_view(graph, &parameters->compute, 0, flat) : NO_VALUE,
      .norm = norm,
      .controls = control_view(step, controls, 4),
      .counters = graph_view(graph, &parameters->counters, 0, shape_vector(3)),
  };
  graph_adam(graph, &views, (float)optim->beta1, (float)optim->beta2, (float)optim->epsilon,
             (float)optim->weight_decay);
  spectral_append_iteration(parameters, graph);
}

static void discriminator_update(Step *step) {
  update(step, &step->gan->discriminator, CONTROL_DISCRIMINATOR, METRIC_NORM_D, NO_VALUE, false);
}

/* With `gated`, skipped too where the discriminators' gradient of this step is not finite. */
static void generator_update(Step *step, bool gated) {
  Value gate = gated ? metric_view(step, METRIC_NORM_D) : NO_VALUE;
  update(step, &step->gan->generator, CONTROL_GENERATOR, METRIC_NORM_G, gate, true);
}

/* --- Programs --------------------------------------------------------------------------------- */

void step_graph_declare(Gan *gan, Graph *graph) {
  Step step = {.gan = gan, .graph = graph};
  generator_forward(&step);
  if (gan->adversarial) discriminate(&step, pair(&step, step.target));
  if (gan->config->loss.perceptual > 0)
    loss_perceptual(graph, &gan->perceptual, step.output, step.target);
}

static bool has_r1(ProgramKind kind) {
  return kind == PROGRAM_STEP_R1 || kind == PROGRAM_D_MICRO_R1 || kind == PROGRAM_D_LAST_R1;
}

void step_graph_build(Gan *gan, ProgramKind kind, Graph *graph) {
  const LossConfig *loss = &gan->config->loss;
  bool last = kind == PROGRAM_D_LAST || kind == PROGRAM_D_LAST_R1 || kind == PROGRAM_G_LAST ||
              kind == PROGRAM_PRETRAIN_LAST;
  Step step = {.gan = gan,
               .graph = graph,
               .last_micro_batch = last,
               .apply_r1 = loss->r1 > 0 && (loss->r1_interval == 1 || has_r1(kind))};
  switch (kind) {
  case PROGRAM_STEP:
  case PROGRAM_STEP_R1:
    generator_forward(&step);
    if (gan->adversarial) {
      discriminator_pass(&step);
      discriminator_update(&step);
    }
    generator_pass(&step, STEP_GAN);
    generator_update(&step, gan->adversarial);
    break;
  case PROGRAM_PRETRAIN:
    generator_forward(&step);
    generator_pass(&step, STEP_PRETRAIN);
    generator_update(&step, false);
    break;
  case PROGRAM_D_MICRO:
  case PROGRAM_D_LAST:
  case PROGRAM_D_MICRO_R1:
  case PROGRAM_D_LAST_R1:
    generator_forward(&step);
    discriminator_pass(&step);
    break;
  case PROGRAM_D_UPDATE:
    discriminator_update(&step);
    break;
  case PROGRAM_G_MICRO:
  case PROGRAM_G_LAST:
    generator_forward(&step);
    generator_pass(&step, STEP_GAN);
    break;
  case PROGRAM_G_UPDATE:
    generator_update(&step, gan->adversarial);
    break;
  case PROGRAM_PRETRAIN_MICRO:
  case PROGRAM_PRETRAIN_LAST:
    generator_forward(&step);
    generator_pass(&step, STEP_PRETRAIN);
    break;
  case PROGRAM_KIND_COUNT:
    break;
  }
}

bool gan_needs_program(const Gan *gan, ProgramKind kind) {
  const LossConfig *loss = &gan->config->loss;
  bool pretrain = gan->config->optim.pretrain_steps > 0, micro = in_micro_batches(gan);
  bool lazy_r1 = loss->r1 > 0 && loss->r1_interval > 1;
  switch (kind) {
  case PROGRAM_STEP:
    return !micro;
  case PROGRAM_PRETRAIN:
    return !micro && pretrain;
  case PROGRAM_STEP_R1:
    return !micro && lazy_r1;
  case PROGRAM_D_MICRO_R1:
  case PROGRAM_D_LAST_R1:
    return micro && lazy_r1;
  case PROGRAM_D_MICRO:
  case PROGRAM_D_LAST:
  case PROGRAM_D_UPDATE:
    return micro && gan->adversarial;
  case PROGRAM_G_MICRO:
  case PROGRAM_G_LAST:
  case PROGRAM_G_UPDATE:
    return micro;
  case PROGRAM_PRETRAIN_MICRO:
  case PROGRAM_PRETRAIN_LAST:
    return micro && pretrain;
  case PROGRAM_KIND_COUNT:
    break;
  }
  return false;
}

bool gan_computes_metric(const Gan *gan, const StepControls *controls, Metric metric) {
  const LossConfig *loss = &gan->config->loss;
  bool adversarial_step = controls->kind == STEP_GAN;
  switch (metric) {
  case METRIC_LOSS_G:
  case METRIC_NORM_G:
    return true;
  case METRIC_L1:
    return loss->l1 > 0;
  case METRIC_LOSS_D:
  case METRIC_NORM_D:
  case METRIC_ADVERSARIAL:
    return adversarial_step && gan->adversarial;
  case METRIC_FEATURE_MATCHING:
    return adversarial_step && gan->adversarial && loss->feature_matching > 0;
  case METRIC_PERCEPTUAL:
    return adversarial_step && loss->perceptual > 0;
  case METRIC_TEMPORAL:
    return adversarial_step && loss->temporal > 0 && gan->options.shape.frames > 1;
  case METRIC_TOTAL_VARIATION:
    return adversarial_step && loss->total_variation > 0;
  case METRIC_GRADIENT_PENALTY:
    return adversarial_step && gan->adversarial && loss->adversarial == ADVERSARIAL_WGAN_GP &&
           loss->gradient_penalty > 0;
  case METRIC_R1:
    return adversarial_step && loss->r1 > 0 && (controls->apply_r1 || loss->r1_interval == 1);
  case METRIC_COUNT:
    break;
  }
  return false;
}
