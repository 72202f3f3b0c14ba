/* Engines: which cuDNN offers for a graph, and which of them we take.
 *
 * They are asked for by heuristic mode A, then by mode FALLBACK. Left out are those whose numerical
 * notes break a promise. Always: engines that add parts of a sum in less than f32, and FFT and
 * Winograd with large tiles, whose errors are far above those of plain sums. In deterministic runs:
 * engines that may give other bits for the same input. For f32 operands: engines that cut them down
 * to 16 bits, and without TF32 all that use tensor cores. */
#ifndef CELFORGE_ENGINE_CUDA_CUDNN_CUDNN_ENGINE_H
#define CELFORGE_ENGINE_CUDA_CUDNN_CUDNN_ENGINE_H

#include "engine/cuda/cudnn/cudnn_graph.h"

/* What plans are made for: the device behind a handle, or, without one, a device that is described
 * by properties (CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR), whose plans can be made but not run. */
typedef struct CudnnTarget {
  cudnnHandle_t handle;
  cudnnBackendDescriptor_t properties; /* NULL with a handle */
} CudnnTarget;

typedef struct CudnnRules {
  bool deterministic, tf32;
  size_t workspace; /* bytes that a plan may want; 0: no limit */
} CudnnRules;

typedef struct CudnnEngine {
  cudnnBackendDescriptor_t config; /* an engine and its knobs */
  int64_t number;                  /* cuDNN's index of the engine */
  bool tensor_cores;
  bool plain; /* strict about NaN: cuDNN's reference kernels, seconds a run on large tensors */
} CudnnEngine;

typedef struct CudnnEngines {
  int count;
  CudnnEngine *engines; /* in the order of the heuristics, those that break no rule */
} CudnnEngines;

/* A graph without any engine is no error but an empty list, and `error` then holds what cuDNN said,
 * if anything. ERROR_INTERNAL only where neither mode can be asked. Descriptors read `graph`, which
 * must outlive the list and the plans made from it. */
Status cudnn_engines_offered(const CudnnTarget *target, const CudnnGraph *graph, DType operands,
                             const CudnnRules *rules, CudnnEngines *out, Error *error);
void cudnn_engines_free(CudnnEngines *engines);

/* "engine 62, knobs 2=6 13=1, tensor_core, runtime_compilation": its number, the knobs by cuDNN's
 * numbers of them, its numerical and behaviour notes. The caller frees. */
char *cudnn_engine_details(const CudnnEngine *engine);

#endif
