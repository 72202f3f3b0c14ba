#include "trainer/infer/inference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/memory.h"
#include "base/random.h"
#include "trainer/gan/checkpoint_weights.h"

/* The generator planned for one shape. */
typedef struct Plan {
  InferenceShape shape;
  DType precision;
  Buffer source, noise, output; /* u8, f32, f32 */
  StreamState state;
  Program *program;
} Plan;

struct Inference {
  Config config;
  Backend *backend;
  Parameters own;         /* of inference_from_checkpoint */
  Parameters *parameters; /* &own, or the caller's */
  ParameterSource source;
  DType precision;
  int64_t scale;
  char *path; /* of the weights, or NULL; see inference_path */
  int64_t step;
  bool ema;
  Arena *arena;
  Plan *plan;          /* of the last clip that was begun, or NULL */
  int64_t frame_index; /* of the next frame in its clip */
};

/* --- Planning --------------------------------------------------------------------------------- */

static void plan_free(Plan *plan) {
  if (!plan) return;
  program_free(plan->program);
  stream_state_free(&plan->state);
  buffer_free(&plan->source);
  buffer_free(&plan->noise);
  buffer_free(&plan->output);
  free(plan);
}

static void build(const Config *config, Parameters *parameters, ParameterSource weights, Plan *plan,
                  Graph *graph) {
  const InferenceShape *s = &plan->shape;
  int64_t noise_channels = config->model.noise_channels;
  Value frame = graph_view(graph, &plan->source, 0,
                           shape_make(1, 1, s->source_height, s->source_width, s->source_channels));
  Value source =
      frames_upsample(graph, frames_normalize(graph, frame, plan->precision), s->height, s->width);
  Value noise = NO_VALUE;
  if (noise_channels > 0)
    noise =
        graph_view(graph, &plan->noise, 0, shape_make(1, 1, s->height, s->width, noise_channels));
  Value output =
      generator_build(graph, parameters, weights, &config->model, source, noise, &plan->state);
  graph_store(graph, output,
              graph_view(graph, &plan->output, 0, shape_make(1, 1, s->height, s->width, 3)));
}

static Plan *plan_describe(const Inference *inference, const InferenceShape *s) {
  Plan *plan = mem_new(1, sizeof *plan);
  int64_t pixels = s->height * s->width;
  plan->shape = *s;
  plan->precision = inference->precision;
  plan->source = buffer_describe("source frame", DTYPE_U8,
                                 s->source_height * s->source_width * s->source_channels);
  plan->noise =
      buffer_describe("noise", DTYPE_F32, pixels * inference->config.model.noise_channels);
  plan->output = buffer_describe("output frame", DTYPE_F32, pixels * 3);
  return plan;
}

static Status plan_new(Inference *inference, const InferenceShape *s, Plan **out, Error *error) {
  Status status = OK;
  Plan *plan = plan_describe(inference, s);
  Graph *graph = graph_new();
  ProgramOptions options = {.name = "translate", .arena = inference->arena};
  build(&inference->config, inference->parameters, inference->source, plan, graph);
  status = graph_status(graph, error);
  if (status != OK) {
    error_context(error, "the generator does not fit frames of %lldx%lld pixels",
                  (long long)s->width, (long long)s->height);
    goto done;
  }
  TRY(program_plan(graph, inference->backend, &options, &plan->program, error));
  TRY(buffer_allocate(&plan->source, inference->backend, error));
  if (plan->noise.count > 0) TRY(buffer_allocate(&plan->noise, inference->backend, error));
  TRY(buffer_allocate(&plan->output, inference->backend, error));
  TRY(stream_state_allocate(&plan->state, inference->backend, error));
  *out = plan;
  plan = NULL;
done:
  graph_free(graph);
  plan_free(plan);
  return status;
}

/* --- Opening ---------------------------------------------------------------------------------- */

static Inference *inference_new(Backend *backend) {
  Inference *inference = mem_new(1, sizeof *inference);
  inference->backend = backend;
  inference->arena = arena_new();
  inference->scale = 1;
  inference->precision = DTYPE_F32;
  return inference;
}

Inference *inference_from_parameters(const Config *config, Parameters *parameters,
                                     ParameterSource source, Backend *backend) {
  Inference *inference = inference_new(backend);
  inference->config = *config;
  inference->parameters = parameters;
  inference->source = source;
  return inference;
}

/* Reads the source channels of the checkpoint's generator: the input channels of its stem without
 * the channels that the generator adds (noise, the smooth base). */
static Status source_channels(const Checkpoint *checkpoint, const Config *config, int64_t *out,
                              Error *error) {
  const Safetensors *file = checkpoint_file(checkpoint, GENERATOR_FILE);
  const NamedTensor *stem = file ? safetensors_find(file, "stem.weight") : NULL;
  if (!stem || stem->rank != RANK)
    return error_set(error, ERROR_DATA,
                     "%s/generator.safetensors: has no tensor \"stem.weight\" of %d dimensions",
                     checkpoint->path, RANK);
  *out = stem->shape[AXIS_C] - generator_extra_channels(&config->model);
  if (*out >= 3 && *out % 3 == 0) return OK;
  return error_set(error, ERROR_DATA,
                   "%s: the generator reads %lld source channels, expected a multiple of 3",
                   checkpoint->path, (long long)*out);
}

/* Declares the parameters, which do not depend on the size, on a small frame. */
static Status declare(Inference *inference, int64_t channels, Error *error) {
  int64_t side = GENERATOR_MIN_MULTIPLES * generator_multiple(&inference->config.model);
  InferenceShape shape = {side, side, channels, side, side};
  parameters_init(&inference->own, "generator", inference->precision);
  Plan *plan = plan_describe(inference, &shape);
  Graph *graph = graph_new();
  build(&inference->config, &inference->own, READ_COMPUTE, plan, graph);
  Status status = graph_status(graph, error);
  parameters_freeze(&inference->own);
  graph_free(graph);
  plan_free(plan);
  return status;
}

/* An inference with parameters of its own, to be declared and loaded. */
static Status inference_new_own(const char *path, DType precision, Backend *backend,
                                Inference **out, Error *error) {
  Inference *inference = inference_new(backend);
  *out = inference;
  inference->parameters = &inference->own;
  inference->source = READ_COMPUTE;
  inference->precision = precision;
  inference->path = mem_string(path);
  if (precision == DTYPE_BF16 && !backend->supports_bf16(backend))
    return error_set(error, ERROR_USAGE, "bf16 does not run on this device (%s); allowed: f32",
                     backend->describe(backend));
  return OK;
}

Status inference_from_checkpoint(const Checkpoint *checkpoint, bool ema, DType precision,
                                 Backend *backend, Inference **out, Error *error) {
  Status status = OK;
  int64_t channels = 0;
  Inference *inference;
  TRY(inference_new_own(checkpoint->path, precision, backend, &inference, error));
  inference->step = checkpoint->step;
  inference->ema = ema;
  TRY(checkpoint_config(checkpoint, &inference->config, error));
  TRY(checkpoint_scale(checkpoint, &inference->scale, error));
  TRY(source_channels(checkpoint, &inference->config, &channels, error));
  TRY(declare(inference, channels, error));
  TRY(parameters_allocate(&inference->own, backend, false, false, error));
  TRY(checkpoint_load_generator(checkpoint, ema, &inference->own, error));
  TRY(parameters_refresh(&inference->own, error));
  *out = inference;
  inference = NULL;
done:
  inference_free(inference);
  return status;
}

Status inference_from_model_file(const ModelFile *file, DType precision, Backend *backend,
                                 Inference **out, Error *error) {
  Status status = OK;
  Inference *inference;
  TRY(inference_new_own(file->path, precision, backend, &inference, error));
  inference->step = file->step;
  inference->ema = file->ema;
  inference->config = file->config;
  inference->scale = file->scale;
  TRY(declare(inference, file->source_channels, error));
  TRY(model_file_check_tensors(file, &inference->own, error)); /* before memory is allocated */
  TRY(parameters_allocate(&inference->own, backend, false, false, error));
  TRY(model_file_load(file, &inference->own, error));
  TRY(parameters_refresh(&inference->own, error));
  *out = inference;
  inference = NULL;
done:
  inference_free(inference);
  return status;
}

void inference_free(Inference *inference) {
  if (!inference) return;
  plan_free(inference->plan);
  parameters_free(&inference->own);
  arena_free(inference->arena);
  free(inference->path);
  free(inference);
}

const char *inference_path(const Inference *inference) {
  return inference->path;
}

int64_t inference_step(const Inference *inference) {
  return inference->step;
}

bool inference_is_ema(const Inference *inference) {
  return inference->ema;
}

int64_t inference_scale(const Inference *inference) {
  return inference->scale;
}

int64_t inference_source_channels(const Inference *inference) {
  const Parameter *stem = parameters_find(inference->parameters, "stem.weight");
  return stem->shape.dim[AXIS_C] - generator_extra_channels(&inference->config.model);
}

const Config *inference_config(const Inference *inference) {
  return &inference->config;
}

Parameters *inference_parameters(Inference *inference) {
  return inference->parameters;
}

/* --- Running ---------------------------------------------------------------------------------- */

/* Standard normal noise, seeded by (run.seed, frame index). */
static Status upload_noise(const Inference *inference, int64_t frame_index, Error *error) {
  Status status = OK;
  float *values = NULL;
  Buffer *noise = &inference->plan->noise;
  if (noise->count == 0) return OK;
  TRY(mem_bulk((size_t)noise->count * sizeof *values, "noise", (void **)&values, error));
  Random random =
      random_stream((uint64_t)inference->config.run.seed, RANDOM_NOISE, (uint64_t)frame_index, 1);
  random_fill_normal(&random, values, (size_t)noise->count, 1);
  TRY(buffer_upload(noise, 0, values, noise->count, error));
done:
  free(values);
  return status;
}

Status inference_stream_begin(Inference *inference, const InferenceShape *shape, Error *error) {
  Status status = OK;
  if (!inference->plan || memcmp(&inference->plan->shape, shape, sizeof *shape) != 0) {
    plan_free(inference->plan);
    inference->plan = NULL;
    TRY(plan_new(inference, shape, &inference->plan, error));
  }
  inference->frame_index = 0;
  TRY(stream_state_reset(&inference->plan->state, error));
done:
  return status;
}

Status inference_stream_frame(Inference *inference, const uint8_t *source, float *output,
                              Error *error) {
  Status status = OK;
  Plan *plan = inference->plan;
  if (!plan) FAIL(error, ERROR_INTERNAL, "inference_stream_begin has not been called");
  TRY(buffer_upload(&plan->source, 0, source, plan->source.count, error));
  TRY(upload_noise(inference, inference->frame_index++, error));
  TRY(program_run(plan->program, error));
  TRY(buffer_download(&plan->output, 0, output, plan->output.count, error));
done:
  return status;
}

ProgramCost inference_stream_cost(const Inference *inference) {
  return program_cost(inference->plan->program);
}

void frames_to_u8(const float *frames, size_t count, uint8_t *out) {
  for (size_t i = 0; i < count; i++) {
    float value = (frames[i] + 1) * 127.5f;
    value = value > 0 ? value : 0; /* NaN becomes 0; vectorises, unlike fmaxf */
    value = value < 255 ? value : 255;
    out[i] = (uint8_t)(int)rintf(value);
  }
}
