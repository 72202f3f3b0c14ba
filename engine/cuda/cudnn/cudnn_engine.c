#include "engine/cuda/cudnn/cudnn_engine.h"

#include <stdlib.h>

#include "base/memory.h"
#include "base/text.h"

static void destroy(cudnnBackendDescriptor_t descriptor) {
  if (descriptor) cudnnBackendDestroyDescriptor(descriptor);
}

/* --- Numerical notes -------------------------------------------------------------------------- */
typedef struct Notes {
  bool note[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
} Notes;

static bool satisfies(const Notes *notes, DType operands, const CudnnConstraints *constraints) {
  const bool *note = notes->note;
  if (note[CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION] || note[CUDNN_NUMERICAL_NOTE_FFT] ||
      note[CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6] ||
      note[CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13])
    return false;
  if (constraints->deterministic && note[CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC]) return false;
  if (operands != DTYPE_F32) return true;
  if (note[CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS]) return false;
  return constraints->tf32 || !note[CUDNN_NUMERICAL_NOTE_TENSOR_CORE];
}

/* The engine of a configuration. The caller destroys it, also after an error. */
static Status engine_of(cudnnBackendDescriptor_t config, cudnnBackendDescriptor_t *engine,
                        Error *error) {
  Status status = OK;
  int64_t count = 0;
  *engine = NULL;
  CUDNN_TRY(cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, engine));
  CUDNN_TRY(cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE,
                                     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, engine));
done:
  return status;
}

static Status numerical_notes(cudnnBackendDescriptor_t engine, Notes *notes, Error *error) {
  Status status = OK;
  cudnnBackendNumericalNote_t list[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
  int64_t count = 0;
  *notes = (Notes){0};
  CUDNN_TRY(cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                     CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT,
                                     &count, list));
  for (int64_t i = 0; i < count && i < CUDNN_NUMERICAL_NOTE_TYPE_COUNT; i++)
    if (list[i] < CUDNN_NUMERICAL_NOTE_TYPE_COUNT) notes->note[list[i]] = true;
done:
  return status;
}

static Status read_engine(cudnnBackendDescriptor_t config, int64_t *number, Notes *notes,
                          Error *error) {
  Status status = OK;
  cudnnBackendDescriptor_t engine = NULL;
  int64_t count = 0;
  TRY(engine_of(config, &engine, error));
  CUDNN_TRY(cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1,
                                     &count, number));
  TRY(numerical_notes(engine, notes, error));
done:
  destroy(engine);
  return status;
}

/* --- Description ------------------------------------------------------------------------------ */
static void append_knobs(cudnnBackendDescriptor_t config, Text *text) {
  cudnnBackendDescriptor_t knobs[CUDNN_KNOB_TYPE_COUNTS] = {NULL};
  int64_t count = 0, ignored = 0;
  int made = 0;
  while (made < CUDNN_KNOB_TYPE_COUNTS &&
         cudnnBackendCreateDescriptor(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, &knobs[made]) ==
             CUDNN_STATUS_SUCCESS)
    made++;
  if (cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES,
                               CUDNN_TYPE_BACKEND_DESCRIPTOR, made, &count,
                               knobs) != CUDNN_STATUS_SUCCESS)
    count = 0;
  for (int i = 0; i < count && i < made; i++) {
    cudnnBackendKnobType_t type = CUDNN_KNOB_TYPE_COUNTS;
    int64_t value = 0;
    if (cudnnBackendGetAttribute(knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE,
                                 1, &ignored, &type) == CUDNN_STATUS_SUCCESS &&
        cudnnBackendGetAttribute(knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1,
                                 &ignored, &value) == CUDNN_STATUS_SUCCESS)
      text_append(text, "%s %d=%lld", i == 0 ? ", knobs" : "", (int)type, (long long)value);
  }
  for (int i = 0; i < made; i++) destroy(knobs[i]);
}

static void append_notes(cudnnBackendDescriptor_t engine, Text *text) {
  static const char *const numerical[] = {
      "tensor_core",  "down_convert_inputs", "reduced_precision_reduction",
      "fft",          "nondeterministic",    "winograd",
      "winograd_4x4", "winograd_6x6",        "winograd_13x13",
      "strict_nan"};
  static const char *const behaviours[] = {"runtime_compilation", "filter_reorder", "bias_reorder",
                                           "graph_native", "cublaslt"};
  enum { BEHAVIOURS = sizeof behaviours / sizeof *behaviours };
  _Static_assert(sizeof numerical / sizeof *numerical == CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP + 1,
                 "a name for each note");
  cudnnBackendBehaviorNote_t list[BEHAVIOURS];
  Notes notes;
  int64_t count = 0;
  if (numerical_notes(engine, &notes, NULL) == OK)
    for (int i = 0; i <= CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP; i++)
      if (notes.note[i]) text_append(text, ", %s", numerical[i]);
  if (cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_TYPE_BEHAVIOR_NOTE,
                               BEHAVIOURS, &count, list) != CUDNN_STATUS_SUCCESS)
    return;
  for (int64_t i = 0; i < count && i < BEHAVIOURS; i++)
    if ((int)list[i] < BEHAVIOURS) text_append(text, ", %s", behaviours[list[i]]);
}

char *cudnn_engine_details(const CudnnEngine *engine) {
  Text text = {0};
  cudnnBackendDescriptor_t descriptor = NULL;
  text_append(&text, "engine %lld", (long long)engine->number);
  append_knobs(engine->config, &text);
  if (engine_of(engine->config, &descriptor, NULL) == OK) append_notes(descriptor, &text);
  destroy(descriptor);
  return text.data;
}

/* --- Heuristics ------------------------------------------------------------------------------- */
/* Moves the configurations that satisfy the constraints into `out` and destroys the others, also
 * those whose notes cannot be read. */
static void take_configs(cudnnBackendDescriptor_t *configs, int64_t proposed, int64_t usable,
                         DType operands, const CudnnConstraints *constraints, CudnnEngines *out,
                         Error *error) {
  for (int64_t i = 0; i < usable; i++) {
    CudnnEngine engine = {.config = configs[i]};
    Notes notes = {0};
    if (read_engine(engine.config, &engine.number, &notes, error) != OK ||
        !satisfies(&notes, operands, constraints))
      continue;
    engine.tensor_cores = notes.note[CUDNN_NUMERICAL_NOTE_TENSOR_CORE];
    engine.is_reference = notes.note[CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP];
    out->engines = mem_resize(out->engines, (size_t)out->count + 1, sizeof *out->engines);
    out->engines[out->count++] = engine;
    configs[i] = NULL;
  }
  for (int64_t i = 0; i < proposed; i++) destroy(configs[i]);
}

static Status heuristics_new(const CudnnTarget *target, const CudnnGraph *graph,
                             cudnnBackendHeurMode_t mode, cudnnBackendDescriptor_t *out,
                             Error *error) {
  Status status = OK;
  cudnnBackendDescriptor_t descriptor = cudnn_graph_descriptor(graph);
  CUDNN_TRY(cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, out));
  CUDNN_TRY(cudnnBackendSetAttribute(*out, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH,
                                     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &descriptor));
  CUDNN_TRY(
      cudnnBackendSetAttribute(*out, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode));
  if (target->properties)
    CUDNN_TRY(cudnnBackendSetAttribute(*out, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP,
                                       CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &target->properties));
done:
  return status;
}

static Status query_mode(const CudnnTarget *target, const CudnnGraph *graph,
                         cudnnBackendHeurMode_t mode, DType operands,
                         const CudnnConstraints *constraints, CudnnEngines *out, Error *error) {
  Status status = OK;
  cudnnBackendDescriptor_t heuristics = NULL, *configs = NULL;
  int64_t proposed = 0, usable = 0;
  TRY(heuristics_new(target, graph, mode, &heuristics, error));
  /* A mode without an engine for the graph is not an error; `error` keeps its message. */
  const cudnnStatus_t answer = cudnnBackendFinalize(heuristics);
  if (answer != CUDNN_STATUS_SUCCESS) {
    cudnn_error(answer, "cudnnBackendFinalize(heuristics)", __FILE__, __LINE__, error);
    goto done;
  }
  CUDNN_TRY(cudnnBackendGetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                     CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, &proposed, NULL));
  if (proposed <= 0) goto done;
  configs = mem_new((size_t)proposed, sizeof *configs);
  for (int64_t i = 0; i < proposed; i++)
    CUDNN_TRY(cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &configs[i]));
  /* cuDNN fills the first `usable` descriptors; the other engines do not support this device. */
  CUDNN_TRY(cudnnBackendGetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                     CUDNN_TYPE_BACKEND_DESCRIPTOR, proposed, &usable, configs));
  if (usable > proposed) usable = proposed;
done:
  if (configs)
    take_configs(configs, proposed, status == OK ? usable : 0, operands, constraints, out, error);
  free(configs);
  destroy(heuristics);
  return status;
}

Status cudnn_engines_query(const CudnnTarget *target, const CudnnGraph *graph, DType operands,
                           const CudnnConstraints *constraints, CudnnEngines *out, Error *error) {
  static const cudnnBackendHeurMode_t modes[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK};
  int answered = 0;
  *out = (CudnnEngines){0};
  for (int i = 0; i < 2; i++)
    if (query_mode(target, graph, modes[i], operands, constraints, out, error) == OK) answered++;
  return answered > 0 ? OK : ERROR_INTERNAL;
}

void cudnn_engines_free(CudnnEngines *engines) {
  for (int i = 0; i < engines->count; i++) destroy(engines->engines[i].config);
  free(engines->engines);
  *engines = (CudnnEngines){0};
}
