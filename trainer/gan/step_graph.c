#include "engine/parameters/spectral_norm.h"
#include "trainer/gan/internal.h"
#include "trainer/gan/losses.h"
#include "trainer/gan/perceptual_loss.h"

/* The values that the halves of a step hand on to each other. */
typedef struct Step {
  Model *model;
  Graph *graph;
  bool last;                  /* of the micro-batches */
  bool regularise;            /* with R1 */
  Value film, target, output; /* [N,T,H,W,*] in the precision's dtype */
} Step;

static bool in_micro_batches(const Model *model) {
  return model->options.micro_batches > 1;
}

static DType compute_dtype(const Model *model) {
  return model->config->train.precision == PRECISION_BF16 ? DTYPE_BF16 : DTYPE_F32;
}

static Value control(Step *step, int place, int count) {
  return graph_view(step->graph, &step->model->controls, place, shape_vector(count));
}

static Value metric_view(Step *step, Metric metric) {
  return graph_view(step->graph, &step->model->metrics, metric, shape_scalar());
}

/* A term of a loss as a metric: the mean over this rank's micro-batches. */
static void report(Step *step, Metric metric, Value value) {
  if (in_micro_batches(step->model)) {
    float share = 1 / (float)step->model->options.micro_batches;
    graph_accumulate(step->graph, graph_affine(step->graph, value, share, 0),
                     metric_view(step, metric));
  } else {
    graph_store(step->graph, value, metric_view(step, metric));
  }
}

static void forward(Step *step) {
  Model *model = step->model;
  Graph *graph = step->graph;
  const ClipShape *clip = &model->options.shape;
  int64_t batch = model->config->train.micro_batch, noise = model->config->model.noise_channels;
  Shape source = shape_make(batch, clip->frames, clip->source_height, clip->source_width,
                            clip->source_channels);
  Shape target = shape_make(batch, clip->frames, clip->target_height, clip->target_width, 3);
  Shape noise_shape = target;
  noise_shape.dim[AXIS_C] = noise;
  DType dtype = compute_dtype(model);
  Value film = frames_normalize(graph, graph_view(graph, &model->source, 0, source), dtype);
  step->film = frames_enlarge(graph, film, clip->target_height, clip->target_width);
  step->target = frames_normalize(graph, graph_view(graph, &model->target, 0, target), dtype);
  Value noise_view = noise > 0 ? graph_view(graph, &model->noise, 0, noise_shape) : NO_VALUE;
  step->output = generator_build(graph, &model->generator, READ_COMPUTE, &model->config->model,
                                 step->film, noise_view, NULL);
}

static Value pair(Step *step, Value candidate) {
  return graph_concat(step->graph, (Value[]){step->film, candidate}, 2, AXIS_C);
}

static void judge(Step *step, Value pairs, Verdicts *verdicts) {
  discriminators_build(step->graph, &step->model->discriminator, &step->model->config->model, pairs,
                       verdicts);
}

static Carries *carries_of(Model *model, const Parameters *parameters) {
  return parameters == &model->generator ? &model->generator_carries
                                         : &model->discriminator_carries;
}

/* Micro-batches are added up as a binary counter counts: neighbours first, then pairs of
 * neighbours, and so on. Ranks hold neighbouring micro-batches and are added up the same way, so
 * world sizes that are powers of two round alike. The last micro-batch takes all carries: the bits
 * of its number. */
static void differentiate(Step *step, Parameters *parameters, Value loss) {
  Model *model = step->model;
  int micro_batches = model->options.micro_batches;
  Carries *carries = carries_of(model, parameters);
  Buffer *carried[MAX_CARRIES];
  PartialSums partial = {0, carried};
  for (int k = 0; step->last && k < carries->count; k++)
    if ((micro_batches - 1) >> k & 1) carried[partial.count++] = &carries->sums[k];
  if (in_micro_batches(model)) loss = graph_affine(step->graph, loss, 1 / (float)micro_batches, 0);
  bool complete = step->last || !in_micro_batches(model);
  int64_t bucket = (int64_t)(model->config->comm.bucket_mib * 1048576);
  parameters_differentiate(parameters, step->graph, loss, &partial,
                           complete && model->options.all_reduce, bucket);
}

void model_graph_fold(Parameters *parameters, Carries *carries, int level, Graph *graph) {
  Shape flat = shape_vector(parameters->total);
  Value sum = graph_view(graph, &parameters->gradient, 0, flat);
  for (int k = 0; k < level; k++)
    sum = graph_add(graph, sum, graph_view(graph, &carries->sums[k], 0, flat));
  graph_store(graph, sum, graph_view(graph, &carries->sums[level], 0, flat));
}

static Value add_term(Step *step, Value sum, Metric metric, double weight, Value term) {
  report(step, metric, term);
  Value weighted = graph_affine(step->graph, term, (float)weight, 0);
  return sum.id < 0 ? weighted : graph_add(step->graph, sum, weighted);
}

/* The penalty for a discriminator that is steep at the targets. A step with R1 stands for those
 * without it since the last one (Karras et al. 2020, "lazy regularization"). */
static Value add_r1(Step *step, Value sum) {
  const LossConfig *loss = &step->model->config->loss;
  Verdicts real;
  judge(step, pair(step, step->target), &real);
  return add_term(step, sum, METRIC_R1, loss->r1 / 2 * (double)loss->r1_interval,
                  loss_r1(step->graph, &real, step->target));
}

/* The penalty for a discriminator whose gradient between output and target is not of length 1. */
static Value add_gradient_penalty(Step *step, Value sum) {
  const Model *model = step->model;
  Shape each = shape_make(model->config->train.micro_batch, 1, 1, 1, 1);
  Value share = graph_view(step->graph, &step->model->shares, 0, each);
  Value between = frames_between(step->graph, step->output, step->target, share);
  Verdicts verdicts;
  judge(step, pair(step, between), &verdicts);
  Value penalty = loss_gradient_penalty(step->graph, &verdicts, between);
  return add_term(step, sum, METRIC_GRADIENT_PENALTY, model->config->loss.gradient_penalty,
                  penalty);
}

static void discriminator_half(Step *step) {
  Graph *graph = step->graph;
  Verdicts both;
  Value pairs =
      graph_concat(graph, (Value[]){pair(step, step->target), pair(step, step->output)}, 2, AXIS_N);
  judge(step, pairs, &both);
  Value loss = loss_discriminator(graph, (Adversarial)step->model->config->loss.adversarial, &both);
  report(step, METRIC_LOSS_D, loss);
  if (step->model->shares.count > 0) loss = add_gradient_penalty(step, loss);
  if (step->regularise) loss = add_r1(step, loss);
  differentiate(step, &step->model->discriminator, loss);
}

static Value adversarial_terms(Step *step, Value sum) {
  Graph *graph = step->graph;
  const LossConfig *loss = &step->model->config->loss;
  Verdicts fake, real;
  judge(step, pair(step, step->output), &fake);
  Value verdict = loss_generator(graph, (Adversarial)loss->adversarial, &fake);
  report(step, METRIC_ADVERSARIAL, verdict);
  Value weighted = graph_mul(graph, verdict, control(step, CONTROL_ADVERSARIAL_WEIGHT, 1));
  sum = sum.id < 0 ? weighted : graph_add(graph, sum, weighted);
  if (loss->feature_matching <= 0) return sum;
  judge(step, pair(step, step->target), &real);
  return add_term(step, sum, METRIC_FEATURE_MATCHING, loss->feature_matching,
                  loss_feature_matching(graph, &fake, &real));
}

static void generator_half(Step *step, StepKind kind) {
  Graph *graph = step->graph;
  Model *model = step->model;
  const StepControls controls = {.kind = kind};
  const LossConfig *loss = &model->config->loss;
  Value sum = NO_VALUE;
  if (model_computes_metric(model, &controls, METRIC_L1))
    sum = add_term(step, sum, METRIC_L1, loss->l1, loss_l1(graph, step->output, step->target));
  if (model_computes_metric(model, &controls, METRIC_ADVERSARIAL))
    sum = adversarial_terms(step, sum);
  if (model_computes_metric(model, &controls, METRIC_PERCEPTUAL))
    sum = add_term(step, sum, METRIC_PERCEPTUAL, loss->perceptual,
                   loss_perceptual(graph, &model->perceptual, step->output, step->target));
  if (model_computes_metric(model, &controls, METRIC_TEMPORAL))
    sum = add_term(step, sum, METRIC_TEMPORAL, loss->temporal,
                   loss_temporal(graph, step->output, step->target));
  if (model_computes_metric(model, &controls, METRIC_TOTAL_VARIATION))
    sum = add_term(step, sum, METRIC_TOTAL_VARIATION, loss->total_variation,
                   loss_total_variation(graph, step->output));
  report(step, METRIC_LOSS_G, sum);
  differentiate(step, &model->generator, sum);
}

static void update(Step *step, Parameters *parameters, int controls, Metric norm_metric, Value gate,
                   bool with_ema) {
  Graph *graph = step->graph;
  const OptimConfig *optim = &step->model->config->optim;
  Shape flat = shape_vector(parameters->total);
  spectral_append_gradient(parameters, graph);
  Value norm = parameters_gradient_norm(parameters, graph);
  graph_store(graph, norm, metric_view(step, norm_metric));
  if (gate.id >= 0) /* 0 * NaN is NaN: a gate that is not finite skips this update too */
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
      .controls = control(step, controls, 4),
      .counters = graph_view(graph, &parameters->counters, 0, shape_vector(3)),
  };
  graph_adam(graph, &views, (float)optim->beta1, (float)optim->beta2, (float)optim->epsilon,
             (float)optim->weight_decay);
  spectral_append_iteration(parameters, graph);
}

static void discriminator_update(Step *step) {
  update(step, &step->model->discriminator, CONTROL_DISCRIMINATOR, METRIC_NORM_D, NO_VALUE, false);
}

static void generator_update(Step *step, bool gated) {
  Value gate = gated ? metric_view(step, METRIC_NORM_D) : NO_VALUE;
  update(step, &step->model->generator, CONTROL_GENERATOR, METRIC_NORM_G, gate, true);
}

void model_graph_declare(Model *model, Graph *graph) {
  Step step = {.model = model, .graph = graph};
  Verdicts verdicts;
  forward(&step);
  if (model->adversarial) judge(&step, pair(&step, step.target), &verdicts);
  if (model->config->loss.perceptual > 0)
    loss_perceptual(graph, &model->perceptual, step.output, step.target);
}

static bool has_r1(ProgramKind kind) {
  return kind == PROGRAM_STEP_R1 || kind == PROGRAM_D_MICRO_R1 || kind == PROGRAM_D_LAST_R1;
}

void model_graph_build(Model *model, ProgramKind kind, Graph *graph) {
  const LossConfig *loss = &model->config->loss;
  bool last = kind == PROGRAM_D_LAST || kind == PROGRAM_D_LAST_R1 || kind == PROGRAM_G_LAST ||
              kind == PROGRAM_WARMUP_LAST;
  Step step = {.model = model,
               .graph = graph,
               .last = last,
               .regularise = loss->r1 > 0 && (loss->r1_interval == 1 || has_r1(kind))};
  switch (kind) {
  case PROGRAM_STEP:
  case PROGRAM_STEP_R1:
    forward(&step);
    if (model->adversarial) {
      discriminator_half(&step);
      discriminator_update(&step);
    }
    generator_half(&step, STEP_GAN);
    generator_update(&step, model->adversarial);
    break;
  case PROGRAM_WARMUP:
    forward(&step);
    generator_half(&step, STEP_WARMUP);
    generator_update(&step, false);
    break;
  case PROGRAM_D_MICRO:
  case PROGRAM_D_LAST:
  case PROGRAM_D_MICRO_R1:
  case PROGRAM_D_LAST_R1:
    forward(&step);
    discriminator_half(&step);
    break;
  case PROGRAM_D_UPDATE:
    discriminator_update(&step);
    break;
  case PROGRAM_G_MICRO:
  case PROGRAM_G_LAST:
    forward(&step);
    generator_half(&step, STEP_GAN);
    break;
  case PROGRAM_G_UPDATE:
    generator_update(&step, model->adversarial);
    break;
  case PROGRAM_WARMUP_MICRO:
  case PROGRAM_WARMUP_LAST:
    forward(&step);
    generator_half(&step, STEP_WARMUP);
    break;
  case PROGRAM_KIND_COUNT:
    break;
  }
}

bool model_needs_program(const Model *model, ProgramKind kind) {
  const LossConfig *loss = &model->config->loss;
  bool warmup = model->config->optim.pretrain_steps > 0, micro = in_micro_batches(model);
  bool lazily = loss->r1 > 0 && loss->r1_interval > 1;
  switch (kind) {
  case PROGRAM_STEP:
    return !micro;
  case PROGRAM_WARMUP:
    return !micro && warmup;
  case PROGRAM_STEP_R1:
    return !micro && lazily;
  case PROGRAM_D_MICRO_R1:
  case PROGRAM_D_LAST_R1:
    return micro && lazily;
  case PROGRAM_D_MICRO:
  case PROGRAM_D_LAST:
  case PROGRAM_D_UPDATE:
    return micro && model->adversarial;
  case PROGRAM_G_MICRO:
  case PROGRAM_G_LAST:
  case PROGRAM_G_UPDATE:
    return micro;
  case PROGRAM_WARMUP_MICRO:
  case PROGRAM_WARMUP_LAST:
    return micro && warmup;
  case PROGRAM_KIND_COUNT:
    break;
  }
  return false;
}

bool model_computes_metric(const Model *model, const StepControls *controls, Metric metric) {
  const LossConfig *loss = &model->config->loss;
  bool gan = controls->kind == STEP_GAN;
  switch (metric) {
  case METRIC_LOSS_G:
  case METRIC_NORM_G:
    return true;
  case METRIC_L1:
    return loss->l1 > 0;
  case METRIC_LOSS_D:
  case METRIC_NORM_D:
  case METRIC_ADVERSARIAL:
    return gan && model->adversarial;
  case METRIC_FEATURE_MATCHING:
    return gan && model->adversarial && loss->feature_matching > 0;
  case METRIC_PERCEPTUAL:
    return gan && loss->perceptual > 0;
  case METRIC_TEMPORAL:
    return gan && loss->temporal > 0 && model->options.shape.frames > 1;
  case METRIC_TOTAL_VARIATION:
    return gan && loss->total_variation > 0;
  case METRIC_GRADIENT_PENALTY:
    return gan && model->adversarial && loss->adversarial == ADVERSARIAL_WGAN_GP &&
           loss->gradient_penalty > 0;
  case METRIC_R1:
    return gan && loss->r1 > 0 && (controls->regularise || loss->r1_interval == 1);
  case METRIC_COUNT:
    break;
  }
  return false;
}
