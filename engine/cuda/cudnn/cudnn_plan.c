#include "engine/cuda/cudnn/cudnn_plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static void destroy(cudnnBackendDescriptor_t descriptor) {
  if (descriptor) cudnnBackendDestroyDescriptor(descriptor);
}

static Status finalize(CudnnPlan *plan, const CudnnConstraints *constraints, Error *error) {
  Status status = OK;
  int64_t workspace = 0, count = 0;
  CUDNN_TRY(cudnnBackendFinalize(plan->descriptor));
  CUDNN_TRY(cudnnBackendGetAttribute(plan->descriptor, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                     CUDNN_TYPE_INT64, 1, &count, &workspace));
  plan->workspace = workspace > 0 ? (size_t)workspace : 0;
  if (constraints->workspace > 0 && plan->workspace > constraints->workspace)
    FAIL(error, ERROR_INTERNAL, "workspace of %zu bytes needed, at most %zu allowed",
         plan->workspace, constraints->workspace);
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

/* Rejects an engine before it is compiled, where this cuDNN knows its workspace by then. */
static Status check_workspace(const CudnnEngine *engine, const CudnnConstraints *constraints,
                              Error *error) {
  int64_t workspace = 0, count = 0;
  if (constraints->workspace == 0 ||
      cudnnBackendGetAttribute(engine->config, CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE,
                               CUDNN_TYPE_INT64, 1, &count, &workspace) != CUDNN_STATUS_SUCCESS ||
      workspace <= 0 || (size_t)workspace <= constraints->workspace)
    return OK;
  return error_set(error, ERROR_INTERNAL, "workspace of %lld bytes needed, at most %zu allowed",
                   (long long)workspace, constraints->workspace);
}

Status cudnn_plan_new(const CudnnTarget *target, const CudnnEngine *engine,
                      const CudnnConstraints *constraints, CudnnPlan **out, Error *error) {
  Status status = OK;
  CudnnPlan *plan = mem_new(1, sizeof *plan);
  plan->engine = engine->number;
  plan->tensor_cores = engine->tensor_cores;
  plan->details = cudnn_engine_details(engine);
  TRY(check_workspace(engine, constraints, error));
  CUDNN_TRY(
      cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan->descriptor));
  TRY(set_handle(target, plan, error));
  CUDNN_TRY(cudnnBackendSetAttribute(plan->descriptor, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                                     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &engine->config));
  TRY(finalize(plan, constraints, error));
done:
  *out = status == OK ? plan : NULL;
  if (status == OK) return OK;
  error_context(error, "%s", plan->details);
  cudnn_plan_free(plan);
  return status;
}

Status cudnn_plan_load(const CudnnTarget *target, const char *json,
                       const CudnnConstraints *constraints, CudnnPlan **out, Error *error) {
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
  TRY(finalize(plan, constraints, error));
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
  free(plan->details);
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
