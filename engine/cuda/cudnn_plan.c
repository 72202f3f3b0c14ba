#include "engine/cuda/cudnn_plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static void destroy(cudnnBackendDescriptor_t descriptor) {
  if (descriptor) cudnnBackendDestroyDescriptor(descriptor);
}

/* --- Engines ---------------------------------------------------------------------------------- */
typedef struct Notes {
  bool note[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
} Notes;

static bool allowed(const Notes *notes, DType operands, const CudnnRules *rules) {
  const bool *note = notes->note;
  if (note[CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION] || note[CUDNN_NUMERICAL_NOTE_FFT] ||
      note[CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6] ||
      note[CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13])
    return false;
  if (rules->deterministic && note[CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC]) return false;
  if (operands != DTYPE_F32) return true;
  if (note[CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS]) return false;
  return rules->tf32 || !note[CUDNN_NUMERICAL_NOTE_TENSOR_CORE];
}

/* What a configuration says of its engine. */
static Status read_engine(cudnnBackendDescriptor_t config, int64_t *number, Notes *notes,
                          Error *error) {
  Status status = OK;
  cudnnBackendDescriptor_t engine = NULL;
  cudnnBackendNumericalNote_t list[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
  int64_t count = 0;
  *notes = (Notes){0};
  CUDNN_TRY(cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine));
  CUDNN_TRY(cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE,
                                     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &engine));
  CUDNN_TRY(cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1,
                                     &count, number));
  CUDNN_TRY(cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                     CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT,
                                     &count, list));
  for (int64_t i = 0; i < count && i < CUDNN_NUMERICAL_NOTE_TYPE_COUNT; i++)
    if (list[i] < CUDNN_NUMERICAL_NOTE_TYPE_COUNT) notes->note[list[i]] = true;
done:
  destroy(engine);
  return status;
}

/* Takes over the configurations of one answer: keeps those that are allowed, destroys the others.
 */
static Status take(cudnnBackendDescriptor_t *configs, int64_t offered, int64_t usable,
                   DType operands, const CudnnRules *rules, CudnnEngines *out, Error *error) {
  Status status = OK;
  for (int64_t i = 0; i < usable; i++) {
    CudnnEngine engine = {.config = configs[i]};
    Notes notes;
    TRY(read_engine(engine.config, &engine.number, &notes, error));
    if (!allowed(&notes, operands, rules)) continue;
    engine.tensor_cores = notes.note[CUDNN_NUMERICAL_NOTE_TENSOR_CORE];
    out->engines = mem_resize(out->engines, (size_t)out->count + 1, sizeof *out->engines);
    out->engines[out->count++] = engine;
    configs[i] = NULL;
  }
done:
  for (int64_t i = 0; i < offered; i++) destroy(configs[i]);
  return status;
}

static Status ask(const CudnnTarget *target, const CudnnGraph *graph, cudnnBackendHeurMode_t mode,
                  DType operands, const CudnnRules *rules, CudnnEngines *out, Error *error) {
  Status status = OK;
  cudnnBackendDescriptor_t heuristics = NULL, *configs = NULL;
  cudnnBackendDescriptor_t descriptor = cudnn_graph_descriptor(graph);
  int64_t offered = 0, usable = 0;
  CUDNN_TRY(cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, &heuristics));
  CUDNN_TRY(cudnnBackendSetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH,
                                     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &descriptor));
  CUDNN_TRY(cudnnBackendSetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE,
                                     1, &mode));
  if (target->properties)
    CUDNN_TRY(cudnnBackendSetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP,
                                       CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &target->properties));
  /* A graph that a mode knows nothing for is an answer. */
  if (cudnnBackendFinalize(heuristics) != CUDNN_STATUS_SUCCESS) goto done;
  CUDNN_TRY(cudnnBackendGetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                     CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, &offered, NULL));
  if (offered <= 0) goto done;
  configs = mem_new((size_t)offered, sizeof *configs);
  for (int64_t i = 0; i < offered; i++)
    CUDNN_TRY(cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &configs[i]));
  /* `usable` of them are filled, the first ones; the others need something that is not there. */
  CUDNN_TRY(cudnnBackendGetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                     CUDNN_TYPE_BACKEND_DESCRIPTOR, offered, &usable, configs));
  if (usable > offered) usable = offered;
done:
  if (status == OK && configs)
    status = take(configs, offered, usable, operands, rules, out, error);
  else
    for (int64_t i = 0; configs && i < offered; i++) destroy(configs[i]);
  free(configs);
  destroy(heuristics);
  return status;
}

Status cudnn_engines_offered(const CudnnTarget *target, const CudnnGraph *graph, DType operands,
                             const CudnnRules *rules, CudnnEngines *out, Error *error) {
  Status status = OK;
  *out = (CudnnEngines){0};
  TRY(ask(target, graph, CUDNN_HEUR_MODE_A, operands, rules, out, error));
  TRY(ask(target, graph, CUDNN_HEUR_MODE_FALLBACK, operands, rules, out, error));
done:
  if (status != OK) cudnn_engines_free(out);
  return status;
}

void cudnn_engines_free(CudnnEngines *engines) {
  for (int i = 0; i < engines->count; i++) destroy(engines->engines[i].config);
  free(engines->engines);
  *engines = (CudnnEngines){0};
}

/* --- Plans ------------------------------------------------------------------------------------ */
static Status finish(CudnnPlan *plan, const CudnnRules *rules, Error *error) {
  Status status = OK;
  int64_t workspace = 0, count = 0;
  CUDNN_TRY(cudnnBackendFinalize(plan->descriptor));
  CUDNN_TRY(cudnnBackendGetAttribute(plan->descriptor, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                     CUDNN_TYPE_INT64, 1, &count, &workspace));
  plan->workspace = workspace > 0 ? (size_t)workspace : 0;
  if (rules->workspace > 0 && plan->workspace > rules->workspace)
    FAIL(error, ERROR_INTERNAL, "engine %lld wants %zu bytes of workspace; allowed are %zu",
         (long long)plan->engine, plan->workspace, rules->workspace);
done:
  return status;
}

static Status set_handle(const CudnnTarget *target, CudnnPlan *plan, Error *error) {
  Status status = OK;
  if (target->handle)
    CUDNN_TRY(cudnnBackendSetAttribute(plan->descriptor, CUDNN_ATTR_EXECUTION_PLAN_HANDLE,
                                       CUDNN_TYPE_HANDLE, 1, &target->handle));
done:
  return status;
}

Status cudnn_plan_new(const CudnnTarget *target, const CudnnEngine *engine, const CudnnRules *rules,
                      CudnnPlan **out, Error *error) {
  Status status = OK;
  CudnnPlan *plan = mem_new(1, sizeof *plan);
  plan->engine = engine->number;
  plan->tensor_cores = engine->tensor_cores;
  CUDNN_TRY(
      cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan->descriptor));
  TRY(set_handle(target, plan, error));
  CUDNN_TRY(cudnnBackendSetAttribute(plan->descriptor, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                                     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &engine->config));
  TRY(finish(plan, rules, error));
done:
  *out = status == OK ? plan : NULL;
  if (status != OK) cudnn_plan_free(plan);
  return status;
}

Status cudnn_plan_load(const CudnnTarget *target, const char *json, const CudnnRules *rules,
                       CudnnPlan **out, Error *error) {
  Status status = OK;
  CudnnPlan *plan = mem_new(1, sizeof *plan);
  CUDNN_TRY(
      cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan->descriptor));
  CUDNN_TRY(cudnnBackendSetAttribute(plan->descriptor,
                                     CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                                     (int64_t)strlen(json), json));
  TRY(set_handle(target, plan, error));
  if (!target->handle && target->properties)
    CUDNN_TRY(cudnnBackendSetAttribute(plan->descriptor, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP,
                                       CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &target->properties));
  TRY(finish(plan, rules, error));
done:
  *out = status == OK ? plan : NULL;
  if (status != OK) cudnn_plan_free(plan);
  return status;
}

Status cudnn_plan_json(const CudnnPlan *plan, char **out, Error *error) {
  Status status = OK;
  int64_t size = 0, written = 0;
  char *text = NULL;
  *out = NULL;
  CUDNN_TRY(cudnnBackendGetAttribute(plan->descriptor,
                                     CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                                     0, &size, NULL));
  text = mem_new((size_t)size + 1, 1);
  CUDNN_TRY(cudnnBackendGetAttribute(plan->descriptor,
                                     CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                                     size, &written, text));
  *out = text;
  text = NULL;
done:
  free(text);
  return status;
}

void cudnn_plan_free(CudnnPlan *plan) {
  if (!plan) return;
  destroy(plan->descriptor);
  free(plan);
}

Status cudnn_plan_run(const CudnnPlan *plan, cudnnHandle_t handle, int count, const int64_t *uids,
                      void *const *pointers, void *workspace, Error *error) {
  Status status = OK;
  cudnnBackendDescriptor_t pack = NULL;
  CUDNN_TRY(cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack));
  CUDNN_TRY(cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64,
                                     count, uids));
  CUDNN_TRY(cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS,
                                     CUDNN_TYPE_VOID_PTR, count, pointers));
  CUDNN_TRY(cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR,
                                     1, &workspace));
  CUDNN_TRY(cudnnBackendFinalize(pack));
  CUDNN_TRY(cudnnBackendExecute(handle, plan->descriptor, pack));
done:
  destroy(pack);
  return status;
}
