#include <stdlib.h>

#include "base/crc32c.h"
#include "base/memory.h"
#include "engine/parameters/spectral_norm.h"
#include "trainer/gan/internal.h"

static const char *const PROGRAM_NAMES[PROGRAM_KIND_COUNT] = {
    [PROGRAM_STEP] = "step",
    [PROGRAM_PRETRAIN] = "pretraining step",
    [PROGRAM_STEP_R1] = "step with R1",
    [PROGRAM_D_MICRO] = "discriminator, micro-batch",
    [PROGRAM_D_LAST] = "discriminator, last micro-batch",
    [PROGRAM_D_MICRO_R1] = "discriminator with R1, micro-batch",
    [PROGRAM_D_LAST_R1] = "discriminator with R1, last micro-batch",
    [PROGRAM_D_UPDATE] = "discriminator, update",
    [PROGRAM_G_MICRO] = "generator, micro-batch",
    [PROGRAM_G_LAST] = "generator, last micro-batch",
    [PROGRAM_G_UPDATE] = "generator, update",
    [PROGRAM_PRETRAIN_MICRO] = "pretraining, micro-batch",
    [PROGRAM_PRETRAIN_LAST] = "pretraining, last micro-batch",
    [PROGRAM_PRETRAIN_UPDATE] = "pretraining, update",
};

/* --- Planning --------------------------------------------------------------------------------- */

bool gan_needs_smoothed(const Config *config) {
  return config->loss.adversarial_weight > 0 && config->loss.edge_negatives > 0;
}

bool gan_needs_flow(const Config *config, const ClipShape *shape) {
  return config->loss.flow_consistency > 0 && shape->frames > 1;
}

static void describe_buffers(Gan *gan) {
  const ClipShape *clip = &gan->options.shape;
  int64_t batch = gan->config->train.micro_batch;
  int64_t targets = batch * (int64_t)clip_target_bytes(clip);
  int64_t flows = gan_needs_flow(gan->config, clip)
                      ? batch * (clip->frames - 1) * clip->target_height * clip->target_width
                      : 0;
  int side = clip->target_height > clip->target_width ? clip->target_height : clip->target_width;
  int64_t padding = generator_multiple(&gan->config->model) - 1;
  bool needs_coordinates = gan_augments(gan) || gan_mirrors(gan->config);
  gan->source =
      buffer_describe("source frames", DTYPE_U8, batch * (int64_t)clip_source_bytes(clip));
  gan->target = buffer_describe("target frames", DTYPE_U8, targets);
  gan->smoothed = buffer_describe("edge-smoothed targets", DTYPE_U8,
                                  gan_needs_smoothed(gan->config) ? targets : 0);
  gan->flow = buffer_describe("optical flow", DTYPE_F32, 2 * flows);
  gan->flow_mask = buffer_describe("mask of the optical flow", DTYPE_F32, flows);
  gan->coordinates =
      buffer_describe("coordinates", DTYPE_F32, needs_coordinates ? side + padding : 0);
  step_inputs_describe(gan, gan->inputs);
  gan->controls = buffer_describe("controls", DTYPE_F32, CONTROL_COUNT);
  gan->metrics = buffer_describe("metrics", DTYPE_F32, METRIC_COUNT);
}

void gan_input_buffers(const Gan *gan, const Buffer *out[GAN_MAX_INPUT_BUFFERS]) {
  const Buffer *batch[] = {&gan->source, &gan->target,    &gan->smoothed,
                           &gan->flow,   &gan->flow_mask, &gan->coordinates};
  int count = 0;
  for (size_t i = 0; i < sizeof batch / sizeof *batch; i++) out[count++] = batch[i];
  for (int i = 0; i < INPUT_COUNT; i++) out[count++] = &gan->inputs[i];
  out[count] = NULL;
}

static Status declare_parameters(Gan *gan, Error *error) {
  DType precision = gan->config->train.precision == PRECISION_BF16 ? DTYPE_BF16 : DTYPE_F32;
  parameters_init(&gan->generator, "generator", precision);
  parameters_init(&gan->discriminator, "discriminator", precision);
  if (gan->config->model.spectral_norm) spectral_attach(&gan->discriminator);
  parameters_init(&gan->projection, "projection", precision);
  parameters_init(&gan->perceptual, "perceptual", precision);
  Graph *graph = graph_new();
  step_graph_declare(gan, graph);
  Status status = graph_status(graph, error);
  graph_free(graph);
  parameters_freeze(&gan->generator);
  parameters_freeze(&gan->discriminator);
  parameters_freeze(&gan->projection);
  parameters_freeze(&gan->perceptual);
  const ClipShape *clip = &gan->options.shape;
  if (status == OK) return OK;
  return error_context(error, "model.* does not fit clips of %dx%d pixels and %d frames",
                       clip->target_width, clip->target_height, clip->frames);
}

/* Losses against the source need one of the output's size and colours. */
static Status check_clips(const Gan *gan, Error *error) {
  const ClipShape *clip = &gan->options.shape;
  const LossConfig *loss = &gan->config->loss;
  bool same_size =
      clip->source_height == clip->target_height && clip->source_width == clip->target_width;
  const char *key = loss->identity > 0                                    ? "loss.identity"
                    : loss->patch_nce > 0                                 ? "loss.patch_nce"
                    : gan_needs_flow(gan->config, clip)                   ? "loss.flow_consistency"
                    : gan_augments(gan) && gan->config->model.conditional ? "augment.mode"
                                                                          : NULL;
  if (!key || (same_size && clip->source_channels == 3)) return OK;
  return error_set(error, ERROR_USAGE,
                   "%s needs sources with 3 channels and the size of the targets; these have %d "
                   "channels and %dx%d pixels, the targets %dx%d",
                   key, clip->source_channels, clip->source_width, clip->source_height,
                   clip->target_width, clip->target_height);
}

/* Takes ownership of the graph. */
static Status plan_graph(Gan *gan, Graph *graph, const char *name, Program **out, Error *error) {
  ProgramOptions options = {.name = name,
                            .arena = gan->arena,
                            .collectives = gan->options.collectives,
                            .rematerialize = gan->config->train.recompute};
  Status status = graph_status(graph, error);
  if (status == OK) status = program_plan(graph, gan->backend, &options, out, error);
  graph_free(graph);
  return status;
}

static Status plan_program(Gan *gan, ProgramKind kind, Error *error) {
  Graph *graph = graph_new();
  step_graph_build(gan, kind, graph);
  return plan_graph(gan, graph, PROGRAM_NAMES[kind], &gan->programs[kind], error);
}

static void describe_accumulation(const Gan *gan, const Parameters *parameters,
                                  AccumulationTree *tree) {
  while (parameters->total > 0 && (gan->options.micro_batches - 1) >> tree->levels)
    tree->partial_sums[tree->levels++] =
        buffer_describe("accumulated gradients", DTYPE_F32, parameters->total);
}

static Status plan_accumulation(Gan *gan, Parameters *parameters, AccumulationTree *tree,
                                Error *error) {
  Status status = OK;
  for (int k = 0; k < tree->levels; k++) {
    Graph *graph = graph_new();
    step_graph_accumulate(parameters, tree, k, graph);
    TRY(plan_graph(gan, graph, "gradient accumulation", &tree->merge[k], error));
  }
done:
  return status;
}

static void accumulation_free(AccumulationTree *tree) {
  for (int k = 0; k < tree->levels; k++) {
    program_free(tree->merge[k]);
    buffer_free(&tree->partial_sums[k]);
  }
}

static Status accumulation_allocate(AccumulationTree *tree, Backend *backend, Error *error) {
  Status status = OK;
  for (int k = 0; k < tree->levels; k++)
    TRY(buffer_allocate(&tree->partial_sums[k], backend, error));
done:
  return status;
}

Status gan_plan(const Config *config, Backend *backend, const GanOptions *options, Gan **out,
                Error *error) {
  Status status = OK;
  Gan *gan = mem_new(1, sizeof *gan);
  gan->config = config;
  gan->backend = backend;
  gan->options = *options;
  gan->adversarial = config->loss.adversarial_weight > 0;
  gan->arena = arena_new();
  if (config->train.precision == PRECISION_BF16 && !backend->supports_bf16(backend))
    FAIL(error, ERROR_USAGE, "train.precision: bf16 does not run on this device (%s); allowed: f32",
         backend->describe(backend));
  describe_buffers(gan);
  TRY(check_clips(gan, error));
  TRY(declare_parameters(gan, error));
  describe_accumulation(gan, &gan->generator, &gan->generator_accumulation);
  describe_accumulation(gan, &gan->discriminator, &gan->discriminator_accumulation);
  describe_accumulation(gan, &gan->projection, &gan->projection_accumulation);
  for (ProgramKind kind = 0; kind < PROGRAM_KIND_COUNT; kind++)
    if (gan_needs_program(gan, kind)) TRY(plan_program(gan, kind, error));
  TRY(plan_accumulation(gan, &gan->generator, &gan->generator_accumulation, error));
  TRY(plan_accumulation(gan, &gan->discriminator, &gan->discriminator_accumulation, error));
  TRY(plan_accumulation(gan, &gan->projection, &gan->projection_accumulation, error));
  *out = gan;
  gan = NULL;
done:
  gan_free(gan);
  return status;
}

void gan_release_captures(Gan *gan) {
  if (!gan) return;
  for (int i = 0; i < PROGRAM_KIND_COUNT; i++)
    if (gan->programs[i]) program_release_capture(gan->programs[i]);
}

void gan_free(Gan *gan) {
  const Buffer *inputs[GAN_MAX_INPUT_BUFFERS];
  if (!gan) return;
  for (int i = 0; i < PROGRAM_KIND_COUNT; i++) program_free(gan->programs[i]);
  accumulation_free(&gan->generator_accumulation);
  accumulation_free(&gan->discriminator_accumulation);
  accumulation_free(&gan->projection_accumulation);
  parameters_free(&gan->generator);
  parameters_free(&gan->discriminator);
  parameters_free(&gan->projection);
  parameters_free(&gan->perceptual);
  free(gan->perceptual_weights);
  for (int i = 0; i < RESULT_SLOTS; i++) result_slot_free(gan->backend, &gan->results[i]);
  gan_input_buffers(gan, inputs);
  for (int i = 0; inputs[i]; i++) buffer_free((Buffer *)(uintptr_t)inputs[i]);
  buffer_free(&gan->controls);
  buffer_free(&gan->metrics);
  arena_free(gan->arena);
  free(gan);
}

void gan_set_perceptual_weights(Gan *gan, float *weights) {
  free(gan->perceptual_weights);
  gan->perceptual_weights = weights;
  gan->perceptual_checksum = crc32c(0, weights, (size_t)gan->perceptual.total * sizeof *weights);
}

static Status allocate_perceptual(Gan *gan, Error *error) {
  Status status = OK;
  Parameters *network = &gan->perceptual;
  if (network->total == 0) return OK;
  if (!gan->perceptual_weights)
    FAIL(error, ERROR_INTERNAL, "gan_allocate: the weights of loss.perceptual have not been set");
  TRY(parameters_allocate(network, gan->backend, false, false, error));
  TRY(buffer_upload(&network->master, 0, gan->perceptual_weights, network->total, error));
  TRY(parameters_refresh(network, error));
  free(gan->perceptual_weights);
  gan->perceptual_weights = NULL;
done:
  return status;
}

static Status upload_coordinates(Gan *gan, Error *error) {
  float *values = mem_new((size_t)gan->coordinates.count + 1, sizeof *values);
  for (int64_t i = 0; i < gan->coordinates.count; i++) values[i] = (float)i;
  Status status = buffer_upload(&gan->coordinates, 0, values, gan->coordinates.count, error);
  free(values);
  return status;
}

static Status allocate_inputs(Gan *gan, Error *error) {
  Status status = OK;
  const Buffer *inputs[GAN_MAX_INPUT_BUFFERS];
  gan_input_buffers(gan, inputs);
  for (int i = 0; inputs[i]; i++)
    if (inputs[i]->count > 0)
      TRY(buffer_allocate((Buffer *)(uintptr_t)inputs[i], gan->backend, error));
  if (gan->coordinates.count > 0) TRY(upload_coordinates(gan, error));
done:
  return status;
}

Status gan_allocate(Gan *gan, Error *error) {
  Status status = OK;
  Backend *backend = gan->backend;
  TRY(parameters_allocate(&gan->generator, backend, true, true, error));
  if (gan->adversarial) TRY(parameters_allocate(&gan->discriminator, backend, true, false, error));
  if (gan->projection.total > 0)
    TRY(parameters_allocate(&gan->projection, backend, true, false, error));
  TRY(allocate_perceptual(gan, error));
  TRY(accumulation_allocate(&gan->generator_accumulation, backend, error));
  TRY(accumulation_allocate(&gan->discriminator_accumulation, backend, error));
  TRY(accumulation_allocate(&gan->projection_accumulation, backend, error));
  TRY(allocate_inputs(gan, error));
  TRY(buffer_allocate(&gan->controls, backend, error));
  TRY(buffer_allocate(&gan->metrics, backend, error));
  for (int i = 0; i < RESULT_SLOTS; i++) TRY(result_slot_allocate(gan, &gan->results[i], error));
  for (int i = 0; i < PROGRAM_KIND_COUNT; i++)
    if (gan->programs[i]) TRY(program_bind(gan->programs[i], error));
done:
  return status;
}

Status gan_initialize(Gan *gan, Error *error) {
  Status status = OK;
  for (Network network = 0; network < NETWORK_COUNT; network++) {
    Parameters *parameters = gan_network(gan, network);
    if (parameters->total > 0)
      TRY(parameters_initialize(parameters, (uint64_t)gan->config->run.seed, error));
  }
done:
  return status;
}

/* --- Accessors -------------------------------------------------------------------------------- */

Parameters *gan_network(Gan *gan, Network network) {
  Parameters *networks[NETWORK_COUNT] = {[NETWORK_GENERATOR] = &gan->generator,
                                         [NETWORK_DISCRIMINATOR] = &gan->discriminator,
                                         [NETWORK_PROJECTION] = &gan->projection};
  return networks[network];
}
Parameters *gan_generator(Gan *gan) {
  return &gan->generator;
}
Parameters *gan_discriminator(Gan *gan) {
  return &gan->discriminator;
}
Parameters *gan_perceptual_network(Gan *gan) {
  return &gan->perceptual;
}
uint32_t gan_perceptual_checksum(const Gan *gan) {
  return gan->perceptual_checksum;
}
const Config *gan_config(const Gan *gan) {
  return gan->config;
}
ClipShape gan_clip_shape(const Gan *gan) {
  return gan->options.shape;
}
