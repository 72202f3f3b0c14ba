/* One training step: the graph of every program that gan_step runs.
 *
 *   discriminator_pass    D on [real; fake], its adversarial loss, R1, gradient penalty, backward
 *   discriminator_update  Adam on D
 *   generator_pass        L1, adversarial loss, feature matching ... of G's output, backward
 *   generator_update      Adam on G, and on the projections of PatchNCE
 *
 * The two passes are in discriminator_step.c and generator_step.c. */
#include "engine/parameters/spectral_norm.h"
#include "trainer/gan/step.h"

static bool in_micro_batches(const Gan *gan) {
  return gan->options.micro_batches > 1;
}

/* --- Controls and metrics --------------------------------------------------------------------- */

Value step_control(Step *step, int offset, int count) {
  return graph_view(step->graph, &step->gan->controls, offset, shape_vector(count));
}

Value step_metric_view(Step *step, Metric metric) {
  return graph_view(step->graph, &step->gan->metrics, metric, shape_scalar());
}

bool step_computes(const Step *step, StepKind kind, Metric metric) {
  return gan_computes_metric(step->gan, &(StepControls){.kind = kind}, metric);
}

void step_report(Step *step, Metric metric, Value value) {
  if (in_micro_batches(step->gan)) {
    float weight = 1 / (float)step->gan->options.micro_batches;
    graph_accumulate(step->graph, graph_affine(step->graph, value, weight, 0),
                     step_metric_view(step, metric));
  } else {
    graph_store(step->graph, value, step_metric_view(step, metric));
  }
}

Value step_add_term(Step *step, Value sum, Metric metric, double weight, Value term) {
  step_report(step, metric, term);
  Value weighted = graph_affine(step->graph, term, (float)weight, 0);
  return sum.id < 0 ? weighted : graph_add(step->graph, sum, weighted);
}

/* --- Backward pass and gradient accumulation -------------------------------------------------- */

static AccumulationTree *accumulation_of(Gan *gan, const Parameters *parameters) {
  if (parameters == &gan->generator) return &gan->generator_accumulation;
  if (parameters == &gan->projection) return &gan->projection_accumulation;
  return &gan->discriminator_accumulation;
}

/* Computes the gradient of loss / micro-batches. The last micro-batch adds the partial sums of all
 * others (the set bits of its index) and all-reduces. Neighbouring micro-batches are added first,
 * then pairs of neighbours, and so on; ranks hold neighbouring micro-batches and are added in the
 * same order, so world sizes that are powers of two round alike. */
void step_backward(Step *step, Parameters *parameters, Value loss) {
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

/* --- Updates ---------------------------------------------------------------------------------- */

/* Appends Adam with clipping and EMA, and advances spectral norm. `norm` decides about clipping and
 * skipping. */
static void append_adam(Step *step, Parameters *parameters, int controls, Value norm,
                        bool with_ema) {
  Graph *graph = step->graph;
  const OptimConfig *optim = &step->gan->config->optim;
  Shape flat = shape_vector(parameters->total);
  bool rounded = parameters_have_compute(parameters) && !parameters->spectral;
  AdamViews views = {
      .parameters = graph_view(graph, &parameters->master, 0, flat),
      .gradients = graph_view(graph, &parameters->gradient, 0, flat),
      .moment1 = graph_view(graph, &parameters->moment1, 0, flat),
      .moment2 = graph_view(graph, &parameters->moment2, 0, flat),
      .ema = with_ema ? graph_view(graph, &parameters->ema, 0, flat) : NO_VALUE,
      .compute = rounded ? graph_view(graph, &parameters->compute, 0, flat) : NO_VALUE,
      .norm = norm,
      .controls = step_control(step, controls, 4),
      .counters = graph_view(graph, &parameters->counters, 0, shape_vector(3)),
  };
  graph_adam(graph, &views, (float)optim->beta1, (float)optim->beta2, (float)optim->epsilon,
             (float)optim->weight_decay);
  spectral_append_iteration(parameters, graph);
}

static void discriminator_update(Step *step) {
  Parameters *parameters = &step->gan->discriminator;
  spectral_append_gradient(parameters, step->graph);
  Value norm = parameters_gradient_norm(parameters, step->graph);
  graph_store(step->graph, norm, step_metric_view(step, METRIC_NORM_D));
  append_adam(step, parameters, CONTROL_DISCRIMINATOR, norm, false);
}

/* Updates the generator and, in a GAN step, the projections of PatchNCE, which are clipped and
 * skipped together: by the norm of both gradients. With `gated`, both are skipped too where the
 * discriminators' gradient of this step is not finite. */
static void generator_update(Step *step, StepKind kind, bool gated) {
  Gan *gan = step->gan;
  Graph *graph = step->graph;
  bool projects = step_computes(step, kind, METRIC_PATCH_NCE);
  Value norm = parameters_gradient_norm(&gan->generator, graph);
  if (projects) {
    Value other = parameters_gradient_norm(&gan->projection, graph);
    Value squares = graph_add(graph, graph_square(graph, norm), graph_square(graph, other));
    norm = graph_sqrt(graph, squares);
  }
  graph_store(graph, norm, step_metric_view(step, METRIC_NORM_G));
  if (gated) { /* 0 * the other norm: NaN where it is not finite, else 0 */
    Value gate = step_metric_view(step, METRIC_NORM_D);
    norm = graph_add(graph, norm, graph_affine(graph, gate, 0, 0));
  }
  append_adam(step, &gan->generator, CONTROL_GENERATOR, norm, true);
  if (projects) append_adam(step, &gan->projection, CONTROL_GENERATOR, norm, false);
}

/* --- Programs --------------------------------------------------------------------------------- */

void step_graph_declare(Gan *gan, Graph *graph) {
  Step step = {.gan = gan, .graph = graph};
  step_generator_forward(&step);
  if (gan->adversarial) step_discriminate(&step, step.target, PART_REAL);
  step_declare_loss_networks(&step);
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
    step_generator_forward(&step);
    if (gan->adversarial) {
      step_discriminator_pass(&step);
      discriminator_update(&step);
    }
    step_generator_pass(&step, STEP_GAN);
    generator_update(&step, STEP_GAN, gan->adversarial);
    break;
  case PROGRAM_PRETRAIN:
    step_generator_forward(&step);
    step_generator_pass(&step, STEP_PRETRAIN);
    generator_update(&step, STEP_PRETRAIN, false);
    break;
  case PROGRAM_D_MICRO:
  case PROGRAM_D_LAST:
  case PROGRAM_D_MICRO_R1:
  case PROGRAM_D_LAST_R1:
    step_generator_forward(&step);
    step_discriminator_pass(&step);
    break;
  case PROGRAM_D_UPDATE:
    discriminator_update(&step);
    break;
  case PROGRAM_G_MICRO:
  case PROGRAM_G_LAST:
    step_generator_forward(&step);
    step_generator_pass(&step, STEP_GAN);
    break;
  case PROGRAM_G_UPDATE:
    generator_update(&step, STEP_GAN, gan->adversarial);
    break;
  case PROGRAM_PRETRAIN_MICRO:
  case PROGRAM_PRETRAIN_LAST:
    step_generator_forward(&step);
    step_generator_pass(&step, STEP_PRETRAIN);
    break;
  case PROGRAM_PRETRAIN_UPDATE:
    generator_update(&step, STEP_PRETRAIN, false);
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
  case PROGRAM_PRETRAIN_UPDATE:
    return micro && pretrain;
  case PROGRAM_KIND_COUNT:
    break;
  }
  return false;
}

bool gan_augments(const Gan *gan) {
  return gan->adversarial && gan->config->augment.mode != AUGMENT_NONE;
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
  case METRIC_REAL_SIGN:
    return adversarial_step && gan_augments(gan);
  case METRIC_PATCH_NCE:
    return adversarial_step && loss->patch_nce > 0;
  case METRIC_COLOR:
    return adversarial_step && loss->color > 0;
  case METRIC_IDENTITY:
    return adversarial_step && loss->identity > 0;
  case METRIC_MOTION_CONSISTENCY:
    return adversarial_step && loss->motion_consistency > 0;
  case METRIC_FLOW_CONSISTENCY:
    return adversarial_step && loss->flow_consistency > 0 && gan->options.shape.frames > 1;
  case METRIC_CONTENT:
    return adversarial_step && loss->content > 0;
  case METRIC_STYLE:
    return adversarial_step && loss->style > 0;
  case METRIC_COUNT:
    break;
  }
  return false;
}
