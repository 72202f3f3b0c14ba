/* Execution plans: which engines cuDNN offers for a graph, which of them we take, and running them.
 *
 * Engines are asked for by heuristic mode A, then by mode FALLBACK. Left out are those whose
 * numerical notes break a promise:
 *   always             parts of a sum added in less than f32; f32 inputs cut down to 16 bits; FFT
 * and Winograd with large tiles, whose errors are far above those of plain sums deterministic
 * engines that may give other bits for the same input f32 without TF32   tensor cores and plans
 * that want more workspace than allowed. */
#ifndef CELFORGE_ENGINE_CUDA_CUDNN_PLAN_H
#define CELFORGE_ENGINE_CUDA_CUDNN_PLAN_H

#include "engine/cuda/cudnn_graph.h"

/* What plans are made for: the device behind a handle, or, without one, a device that is described
 * by properties (CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR), whose plans can be made but not run. */
typedef struct CudnnTarget {
  cudnnHandle_t handle;
  cudnnBackendDescriptor_t properties; /* NULL with a handle */
} CudnnTarget;

typedef struct CudnnRules {
  bool deterministic, tf32;
  size_t workspace; /* bytes; 0: no limit */
} CudnnRules;

/* --- Engines ---------------------------------------------------------------------------------- */
typedef struct CudnnEngine {
  cudnnBackendDescriptor_t config; /* an engine and its knobs */
  int64_t number;                  /* cuDNN's index of the engine */
  bool tensor_cores;
} CudnnEngine;

typedef struct CudnnEngines {
  int count;
  CudnnEngine *engines; /* in the order of the heuristics, those that break no rule */
} CudnnEngines;

/* A graph without any engine is no error but an empty list. Descriptors read `graph`, which must
 * outlive the list and the plans made from it. */
Status cudnn_engines_offered(const CudnnTarget *target, const CudnnGraph *graph, DType operands,
                             const CudnnRules *rules, CudnnEngines *out, Error *error);
void cudnn_engines_free(CudnnEngines *engines);

/* --- Plans ------------------------------------------------------------------------------------ */
typedef struct CudnnPlan {
  cudnnBackendDescriptor_t descriptor;
  size_t workspace;  /* bytes */
  int64_t engine;    /* its number */
  bool tensor_cores; /* whether the engine says that it uses them */
} CudnnPlan;

/* Compiles where the engine is one that does. Fails with cuDNN's words where it cannot, and where
 * the plan wants more workspace than the rules allow. */
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
