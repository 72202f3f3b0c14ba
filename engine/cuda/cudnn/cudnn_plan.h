/* Execution plans of engines: making, keeping as text, and running them. */
#ifndef CELFORGE_ENGINE_CUDA_CUDNN_CUDNN_PLAN_H
#define CELFORGE_ENGINE_CUDA_CUDNN_CUDNN_PLAN_H

#include "engine/cuda/cudnn/cudnn_engine.h"

typedef struct CudnnPlan {
  cudnnBackendDescriptor_t descriptor;
  size_t workspace;  /* bytes */
  int64_t engine;    /* its number */
  bool tensor_cores; /* whether the engine says that it uses them */
  char *details;     /* cudnn_engine_details; NULL from cudnn_plan_load */
} CudnnPlan;

/* Compiles where the engine is one that does: seconds at worst. Fails with the engine and cuDNN's
 * words where it cannot, and where the plan wants more workspace than the rules allow. */
Status cudnn_plan_new(const CudnnTarget *target, const CudnnEngine *engine, const CudnnRules *rules,
                      CudnnPlan **out, Error *error);
/* From cudnn_plan_json's text: of the same cuDNN and kind of device, or it fails. */
Status cudnn_plan_load(const CudnnTarget *target, const char *json, const CudnnRules *rules,
                       CudnnPlan **out, Error *error);
/* `*out` is freed by the caller. */
Status cudnn_plan_json(const CudnnPlan *plan, char **out, Error *error);
void cudnn_plan_free(CudnnPlan *plan);

/* Enqueues it on the handle's stream. `pointers[i]` is the tensor that the graph calls uids[i]. */
Status cudnn_plan_run(const CudnnPlan *plan, cudnnHandle_t handle, int count, const int64_t *uids,
                      void *const *pointers, void *workspace, Error *error);

#endif
