#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/memory.h"
#include "base/random.h"
#include "engine/parameters/spectral_norm.h"
#include "trainer/gan/internal.h"

enum { COUNTERS = 3 }; /* of a network: see graph_adam */

static const char *const PROGRAM_NAMES[PROGRAM_KIND_COUNT] = {
    [PROGRAM_STEP] = "step",
    [PROGRAM_WARMUP] = "warm-up step",
    [PROGRAM_STEP_R1] = "step with R1",
    [PROGRAM_D_MICRO] = "discriminator, micro-batch",
    [PROGRAM_D_LAST] = "discriminator, last micro-batch",
    [PROGRAM_D_MICRO_R1] = "discriminator with R1, micro-batch",
    [PROGRAM_D_LAST_R1] = "discriminator with R1, last micro-batch",
    [PROGRAM_D_UPDATE] = "discriminator, update",
    [PROGRAM_G_MICRO] = "generator, micro-batch",
    [PROGRAM_G_LAST] = "generator, last micro-batch",
    [PROGRAM_G_UPDATE] = "generator, update",
    [PROGRAM_WARMUP_MICRO] = "warm-up, micro-batch",
    [PROGRAM_WARMUP_LAST] = "warm-up, last micro-batch",
};

const char *model_metric_name(Metric metric) {
  static const char *const NAMES[METRIC_COUNT] = {
      [METRIC_LOSS_G] = "loss/g",
      [METRIC_LOSS_D] = "loss/d",
      [METRIC_L1] = "loss/l1",
      [METRIC_ADVERSARIAL] = "loss/adversarial",
      [METRIC_FEATURE_MATCHING] = "loss/feature_matching",
      [METRIC_PERCEPTUAL] = "loss/perceptual",
      [METRIC_TEMPORAL] = "loss/temporal",
      [METRIC_TOTAL_VARIATION] = "loss/total_variation",
      [METRIC_GRADIENT_PENALTY] = "loss/gradient_penalty",
      [METRIC_R1] = "loss/r1",
      [METRIC_NORM_G] = "grad_norm/g",
      [METRIC_NORM_D] = "grad_norm/d",
  };
  return NAMES[metric];
}

/* --- Planning --------------------------------------------------------------------------------- */

static void describe_buffers(Model *model) {
  const ClipShape *clip = &model->options.shape;
  int64_t batch = model->config->train.micro_batch;
  int64_t pixels = (int64_t)clip->frames * clip->target_height * clip->target_width;
  model->source =
      buffer_describe("source frames", DTYPE_U8, batch * (int64_t)clip_source_bytes(clip));
  model->target =
      buffer_describe("target frames", DTYPE_U8, batch * (int64_t)clip_target_bytes(clip));
  model->noise =
      buffer_describe("noise", DTYPE_F32, batch * pixels * model->config->model.noise_channels);
  bool penalised =
      model_computes_metric(model, &(StepControls){.kind = STEP_GAN}, METRIC_GRADIENT_PENALTY);
  model->shares = buffer_describe("shares of output and target", DTYPE_F32, penalised ? batch : 0);
  model->controls = buffer_describe("controls", DTYPE_F32, CONTROL_COUNT);
  model->metrics = buffer_describe("metrics", DTYPE_F32, METRIC_COUNT);
}

static Status declare_parameters(Model *model, Error *error) {
  DType precision = model->config->train.precision == PRECISION_BF16 ? DTYPE_BF16 : DTYPE_F32;
  parameters_init(&model->generator, "generator", precision);
  parameters_init(&model->discriminator, "discriminator", precision);
  if (model->config->model.spectral_norm) spectral_attach(&model->discriminator);
  parameters_init(&model->perceptual, "perceptual", precision);
  Graph *graph = graph_new();
  model_graph_declare(model, graph);
  Status status = graph_status(graph, error);
  graph_free(graph);
  parameters_freeze(&model->generator);
  parameters_freeze(&model->discriminator);
  parameters_freeze(&model->perceptual);
  const ClipShape *clip = &model->options.shape;
  if (status == OK) return OK;
  return error_context(error, "model.* does not fit samples of %dx%d pixels and %d frames",
                       clip->target_width, clip->target_height, clip->frames);
}

/* Frees the graph. */
static Status plan_graph(Model *model, Graph *graph, const char *name, Program **out,
                         Error *error) {
  ProgramOptions options = {.name = name,
                            .arena = model->arena,
                            .collectives = model->options.collectives,
                            .recompute = model->config->train.recompute};
  Status status = graph_status(graph, error);
  if (status == OK) status = program_plan(graph, model->backend, &options, out, error);
  graph_free(graph);
  return status;
}

static Status plan_program(Model *model, ProgramKind kind, Error *error) {
  Graph *graph = graph_new();
  model_graph_build(model, kind, graph);
  return plan_graph(model, graph, PROGRAM_NAMES[kind], &model->programs[kind], error);
}

static void describe_carries(const Model *model, const Parameters *parameters, Carries *carries) {
  while (parameters->total > 0 && (model->options.micro_batches - 1) >> carries->count)
    carries->sums[carries->count++] =
        buffer_describe("gradients of micro-batches", DTYPE_F32, parameters->total);
}

static Status plan_folds(Model *model, Parameters *parameters, Carries *carries, Error *error) {
  Status status = OK;
  for (int k = 0; k < carries->count; k++) {
    Graph *graph = graph_new();
    model_graph_fold(parameters, carries, k, graph);
    TRY(plan_graph(model, graph, "sum of micro-batches", &carries->fold[k], error));
  }
done:
  return status;
}

/* --- Results ---------------------------------------------------------------------------------- */

static Status network_readback_new(const Parameters *parameters, Backend *backend,
                                   NetworkReadback *out, Error *error) {
  Status status = OK;
  TRY(backend->readback_new(backend, COUNTERS * sizeof(float), &out->counters, error));
  TRY(backend->readback_new(backend, (size_t)parameters->count * sizeof(float), &out->squares,
                            error));
done:
  return status;
}

static void network_readback_free(Backend *backend, NetworkReadback *readback) {
  if (readback->counters) backend->readback_free(backend, readback->counters);
  if (readback->squares) backend->readback_free(backend, readback->squares);
}

static Status network_readback_start(const Parameters *parameters, Backend *backend,
                                     const NetworkReadback *readback, Error *error) {
  Status status = OK;
  if (!readback->counters) goto done;
  TRY(backend->readback_start(backend, readback->counters, parameters->counters.data, error));
  TRY(backend->readback_start(backend, readback->squares, parameters->squares.data, error));
done:
  return status;
}

static Status network_readback_wait(const Parameters *parameters, Backend *backend,
                                    const NetworkReadback *readback, NetworkResult *out,
                                    Error *error) {
  Status status = OK;
  const void *data = NULL;
  out->worst = -1;
  if (!readback->counters) goto done;
  TRY(backend->readback_wait(backend, readback->counters, &data, error));
  const float *counters = data;
  out->applied = (int64_t)counters[0];
  out->skipped = (int64_t)counters[1];
  out->skipped_in_a_row = (int64_t)counters[2];
  TRY(backend->readback_wait(backend, readback->squares, &data, error));
  out->worst = parameters_worst_gradient(parameters, data);
done:
  return status;
}

static Status result_allocate(Model *model, ResultSlot *slot, Error *error) {
  Status status = OK;
  Backend *backend = model->backend;
  TRY(backend->readback_new(backend, METRIC_COUNT * sizeof(float), &slot->metrics, error));
  TRY(network_readback_new(&model->generator, backend, &slot->generator, error));
  if (model->adversarial)
    TRY(network_readback_new(&model->discriminator, backend, &slot->discriminator, error));
done:
  return status;
}

static void result_free(Backend *backend, ResultSlot *slot) {
  if (slot->metrics) backend->readback_free(backend, slot->metrics);
  network_readback_free(backend, &slot->generator);
  network_readback_free(backend, &slot->discriminator);
}

static Status result_start(Model *model, const StepControls *controls, Error *error) {
  Status status = OK;
  Backend *backend = model->backend;
  ResultSlot *slot = &model->results[model->steps++ % RESULT_SLOTS];
  for (Metric metric = 0; metric < METRIC_COUNT; metric++)
    slot->computed[metric] = model_computes_metric(model, controls, metric);
  TRY(backend->readback_start(backend, slot->metrics, model->metrics.data, error));
  TRY(network_readback_start(&model->generator, backend, &slot->generator, error));
  TRY(network_readback_start(&model->discriminator, backend, &slot->discriminator, error));
done:
  return status;
}

Status model_result(Model *model, int ago, StepResult *out, Error *error) {
  Status status = OK;
  Backend *backend = model->backend;
  const void *data = NULL;
  *out = (StepResult){0};
  for (int i = 0; i < METRIC_COUNT; i++) out->metrics[i] = (double)NAN;
  out->generator.worst = out->discriminator.worst = -1;
  if (ago < 0 || ago >= RESULT_SLOTS || ago >= model->steps) goto done;
  ResultSlot *slot = &model->results[(model->steps - 1 - ago) % RESULT_SLOTS];
  TRY(backend->readback_wait(backend, slot->metrics, &data, error));
  const float *values = data;
  for (int i = 0; i < METRIC_COUNT; i++) {
    out->computed[i] = slot->computed[i];
    if (slot->computed[i]) out->metrics[i] = (double)values[i];
  }
  TRY(network_readback_wait(&model->generator, backend, &slot->generator, &out->generator, error));
  TRY(network_readback_wait(&model->discriminator, backend, &slot->discriminator,
                            &out->discriminator, error));
done:
  return status;
}

const char *model_first_bad_loss(const StepResult *result) {
  for (Metric metric = 0; metric < METRIC_COUNT; metric++) {
    bool is_loss = metric != METRIC_LOSS_G && metric != METRIC_NORM_G && metric != METRIC_NORM_D;
    if (is_loss && result->computed[metric] && !isfinite(result->metrics[metric]))
      return model_metric_name(metric);
  }
  return NULL;
}

static void carries_free(Carries *carries) {
  for (int k = 0; k < carries->count; k++) {
    program_free(carries->fold[k]);
    buffer_free(&carries->sums[k]);
  }
}

static Status carries_allocate(Carries *carries, Backend *backend, Error *error) {
  Status status = OK;
  for (int k = 0; k < carries->count; k++) TRY(buffer_allocate(&carries->sums[k], backend, error));
done:
  return status;
}

Status model_plan(const Config *config, Backend *backend, const ModelOptions *options, Model **out,
                  Error *error) {
  Status status = OK;
  Model *model = mem_new(1, sizeof *model);
  model->config = config;
  model->backend = backend;
  model->options = *options;
  model->adversarial = config->loss.adversarial_weight > 0;
  model->arena = arena_new();
  if (config->train.precision == PRECISION_BF16 && !backend->supports_bf16(backend))
    FAIL(error, ERROR_USAGE, "train.precision: bf16 does not run on this device (%s); allowed: f32",
         backend->describe(backend));
  describe_buffers(model);
  TRY(declare_parameters(model, error));
  describe_carries(model, &model->generator, &model->generator_carries);
  describe_carries(model, &model->discriminator, &model->discriminator_carries);
  for (ProgramKind kind = 0; kind < PROGRAM_KIND_COUNT; kind++)
    if (model_needs_program(model, kind)) TRY(plan_program(model, kind, error));
  TRY(plan_folds(model, &model->generator, &model->generator_carries, error));
  TRY(plan_folds(model, &model->discriminator, &model->discriminator_carries, error));
  *out = model;
  model = NULL;
done:
  model_free(model);
  return status;
}

void model_release_captures(Model *model) {
  if (!model) return;
  for (int i = 0; i < PROGRAM_KIND_COUNT; i++)
    if (model->programs[i]) program_release_capture(model->programs[i]);
}

void model_free(Model *model) {
  if (!model) return;
  for (int i = 0; i < PROGRAM_KIND_COUNT; i++) program_free(model->programs[i]);
  carries_free(&model->generator_carries);
  carries_free(&model->discriminator_carries);
  parameters_free(&model->generator);
  parameters_free(&model->discriminator);
  parameters_free(&model->perceptual);
  free(model->perceptual_weights);
  for (int i = 0; i < RESULT_SLOTS; i++) result_free(model->backend, &model->results[i]);
  buffer_free(&model->source);
  buffer_free(&model->target);
  buffer_free(&model->noise);
  buffer_free(&model->shares);
  buffer_free(&model->controls);
  buffer_free(&model->metrics);
  arena_free(model->arena);
  free(model);
}

void model_take_perceptual(Model *model, float *weights) {
  free(model->perceptual_weights);
  model->perceptual_weights = weights;
  model->perceptual_checksum =
      crc32c(0, weights, (size_t)model->perceptual.total * sizeof *weights);
}

static Status allocate_perceptual(Model *model, Error *error) {
  Status status = OK;
  Parameters *network = &model->perceptual;
  if (network->total == 0) return OK;
  if (!model->perceptual_weights)
    FAIL(error, ERROR_INTERNAL, "allocated without the weights of loss.perceptual");
  TRY(parameters_allocate(network, model->backend, false, false, error));
  TRY(buffer_upload(&network->master, 0, model->perceptual_weights, network->total, error));
  TRY(parameters_refresh(network, error));
  free(model->perceptual_weights);
  model->perceptual_weights = NULL;
done:
  return status;
}

Status model_allocate(Model *model, Error *error) {
  Status status = OK;
  Backend *backend = model->backend;
  TRY(parameters_allocate(&model->generator, backend, true, true, error));
  if (model->adversarial)
    TRY(parameters_allocate(&model->discriminator, backend, true, false, error));
  TRY(allocate_perceptual(model, error));
  TRY(carries_allocate(&model->generator_carries, backend, error));
  TRY(carries_allocate(&model->discriminator_carries, backend, error));
  TRY(buffer_allocate(&model->source, backend, error));
  TRY(buffer_allocate(&model->target, backend, error));
  if (model->noise.count > 0) TRY(buffer_allocate(&model->noise, backend, error));
  if (model->shares.count > 0) TRY(buffer_allocate(&model->shares, backend, error));
  TRY(buffer_allocate(&model->controls, backend, error));
  TRY(buffer_allocate(&model->metrics, backend, error));
  for (int i = 0; i < RESULT_SLOTS; i++) TRY(result_allocate(model, &model->results[i], error));
  for (int i = 0; i < PROGRAM_KIND_COUNT; i++)
    if (model->programs[i]) TRY(program_bind(model->programs[i], error));
done:
  return status;
}

Status model_initialize(Model *model, Error *error) {
  Status status =
      parameters_initialize(&model->generator, (uint64_t)model->config->run.seed, error);
  if (status != OK || !model->adversarial) return status;
  return parameters_initialize(&model->discriminator, (uint64_t)model->config->run.seed, error);
}

/* --- Stepping --------------------------------------------------------------------------------- */

static Status upload_controls(Model *model, const StepControls *controls, Error *error) {
  const OptimConfig *optim = &model->config->optim;
  float clip = (float)optim->clip;
  const float values[CONTROL_COUNT] = {
      [CONTROL_GENERATOR] = controls->generator_lr,
      [CONTROL_GENERATOR + 1] = clip,
      [CONTROL_GENERATOR + 2] = (float)optim->ema,
      [CONTROL_GENERATOR + 3] = controls->generator_limit,
      [CONTROL_DISCRIMINATOR] = controls->discriminator_lr,
      [CONTROL_DISCRIMINATOR + 1] = clip,
      [CONTROL_DISCRIMINATOR + 3] = controls->discriminator_limit,
      [CONTROL_ADVERSARIAL_WEIGHT] = controls->adversarial_weight,
  };
  static const float zeros[METRIC_COUNT];
  Status status = buffer_upload(&model->controls, 0, values, CONTROL_COUNT, error);
  if (status != OK) return status;
  return buffer_upload(&model->metrics, 0, zeros, METRIC_COUNT, error);
}

/* Standard normal, keyed by (seed, global sample): the same for every world size. */
static Status upload_noise(Model *model, const int64_t *samples, Error *error) {
  if (model->noise.count == 0) return OK;
  Status status = OK;
  float *values = NULL;
  int64_t batch = model->config->train.micro_batch, each = model->noise.count / batch;
  TRY(mem_bulk((size_t)model->noise.count * sizeof *values, "a batch of noise", (void **)&values,
               error));
  for (int64_t i = 0; i < batch; i++) {
    Random random =
        random_stream((uint64_t)model->config->run.seed, RANDOM_NOISE, (uint64_t)samples[i], 0);
    random_fill_normal(&random, values + i * each, (size_t)each, 1);
  }
  TRY(buffer_upload(&model->noise, 0, values, model->noise.count, error));
done:
  free(values);
  return status;
}

/* Uniform in [0, 1), keyed likewise. */
static Status upload_shares(Model *model, const int64_t *samples, Error *error) {
  if (model->shares.count == 0) return OK;
  float *values = mem_new((size_t)model->shares.count, sizeof *values);
  for (int64_t i = 0; i < model->shares.count; i++) {
    Random random = random_stream((uint64_t)model->config->run.seed, RANDOM_INTERPOLATION,
                                  (uint64_t)samples[i], 0);
    values[i] = (float)random_uniform(&random);
  }
  Status status = buffer_upload(&model->shares, 0, values, model->shares.count, error);
  free(values);
  return status;
}

static Status upload_batch(Model *model, const MicroBatch *batch, Error *error) {
  Status status = OK;
  TRY(buffer_upload(&model->source, 0, batch->source, model->source.count, error));
  TRY(buffer_upload(&model->target, 0, batch->target, model->target.count, error));
  TRY(upload_noise(model, batch->samples, error));
  TRY(upload_shares(model, batch->samples, error));
done:
  return status;
}

/* One network's half: every micro-batch, then its update. */
typedef struct Half {
  ProgramKind micro, last, update;
  Carries *carries;
} Half;

static Status run_half(Model *model, const Half *half, const MicroBatch *batches, Error *error) {
  Status status = OK;
  int count = model->options.micro_batches;
  for (int i = 0; i < count; i++) {
    bool last = i == count - 1;
    TRY(upload_batch(model, &batches[i], error));
    TRY(program_run(model->programs[last ? half->last : half->micro], error));
    /* As many carries as adding 1 to i makes. */
    if (!last) TRY(program_run(half->carries->fold[__builtin_ctz((unsigned)i + 1)], error));
  }
  TRY(program_run(model->programs[half->update], error));
done:
  return status;
}

Status model_step(Model *model, const StepControls *controls, const MicroBatch *batches,
                  Error *error) {
  Status status = OK;
  bool warmup = controls->kind == STEP_WARMUP;
  TRY(upload_controls(model, controls, error));
  if (model->options.micro_batches == 1) {
    TRY(upload_batch(model, &batches[0], error));
    ProgramKind gan = controls->regularise ? PROGRAM_STEP_R1 : PROGRAM_STEP;
    TRY(program_run(model->programs[warmup ? PROGRAM_WARMUP : gan], error));
    return result_start(model, controls, error);
  }
  Half judging = {controls->regularise ? PROGRAM_D_MICRO_R1 : PROGRAM_D_MICRO,
                  controls->regularise ? PROGRAM_D_LAST_R1 : PROGRAM_D_LAST, PROGRAM_D_UPDATE,
                  &model->discriminator_carries};
  Half drawing = {warmup ? PROGRAM_WARMUP_MICRO : PROGRAM_G_MICRO,
                  warmup ? PROGRAM_WARMUP_LAST : PROGRAM_G_LAST, PROGRAM_G_UPDATE,
                  &model->generator_carries};
  if (model->adversarial && !warmup) TRY(run_half(model, &judging, batches, error));
  TRY(run_half(model, &drawing, batches, error));
  TRY(result_start(model, controls, error));
done:
  return status;
}

/* --- Parts ------------------------------------------------------------------------------------ */

Parameters *model_generator(Model *model) {
  return &model->generator;
}
Parameters *model_discriminator(Model *model) {
  return &model->discriminator;
}
Parameters *model_perceptual(Model *model) {
  return &model->perceptual;
}
uint32_t model_perceptual_checksum(const Model *model) {
  return model->perceptual_checksum;
}
const Config *model_config(const Model *model) {
  return model->config;
}
ClipShape model_shape(const Model *model) {
  return model->options.shape;
}
