/* Execution plans of cuDNN engines: build, serialise as JSON, run. */
#ifndef CELFORGE_ENGINE_CUDA_CUDNN_CUDNN_PLAN_H
#define CELFORGE_ENGINE_CUDA_CUDNN_CUDNN_PLAN_H

#include "engine/cuda/cudnn/cudnn_engine.h"

typedef struct CudnnPlan {
  cudnnBackendDescriptor_t descriptor;
  size_t workspace;  /* bytes */
  int64_t engine;    /* cuDNN's global index of the engine */
  bool tensor_cores; /* by the engine's numerical notes */
  char *details;     /* cudnn_engine_details; NULL after cudnn_plan_load, for the caller to set */
} CudnnPlan;

/* Builds a plan; an engine that is compiled at run time takes up to seconds. ERROR_INTERNAL with
 * the engine and cuDNN's message where cuDNN cannot build it or where it needs more workspace than
 * the constraints allow. */
Status cudnn_plan_new(const CudnnTarget *target, const CudnnEngine *engine,
                      const CudnnConstraints *constraints, CudnnPlan **out, Error *error);
/* Restores a plan from the text of cudnn_plan_json. ERROR_INTERNAL where it comes from another
 * version of cuDNN or another kind of device. */
Status cudnn_plan_load(const CudnnTarget *target, const char *json,
                       const CudnnConstraints *constraints, CudnnPlan **out, Error *error);
/* The caller frees `*out`. */
Status cudnn_plan_json(const CudnnPlan *plan, char **out, Error *error);
void cudnn_plan_free(CudnnPlan *plan);

/* Enqueues the plan on the handle's stream. `pointers[i]` is the tensor with the graph's id
 * uids[i].
 */
Status cudnn_plan_run(const CudnnPlan *plan, cudnnHandle_t handle, int count, const int64_t *uids,
                      void *const *pointers, void *workspace, Error *error);

#endif
