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

/* --- Gradient accumulation -------------------------------------------------------------------- */

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
  bool pretrain = gan->config->optim.pretrain_steps > 0, micro = gan_in_micro_batches(gan);
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
