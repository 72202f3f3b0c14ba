/* The engines that cuDNN's heuristics propose for a graph, filtered by numerical constraints.
 *
 * Engines come from heuristic mode A, then from mode FALLBACK. An engine is excluded when its
 * numerical notes violate a constraint. Always: reductions in less than f32, and FFT and Winograd
 * with large tiles, whose errors are far above those of plain sums. In deterministic runs: engines
 * that may return different bits for the same input. For f32 operands: engines that convert them to
 * 16 bits, and without TF32 every engine on tensor cores. */
#ifndef CELFORGE_ENGINE_CUDA_CUDNN_CUDNN_ENGINE_H
#define CELFORGE_ENGINE_CUDA_CUDNN_CUDNN_ENGINE_H

#include "engine/cuda/cudnn/cudnn_graph.h"

/* The device that plans are built for: the one of a handle, or, without a handle, one described by
 * properties (CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR), whose plans can be built but not run. */
typedef struct CudnnTarget {
  cudnnHandle_t handle;
  cudnnBackendDescriptor_t properties; /* NULL with a handle */
} CudnnTarget;

typedef struct CudnnConstraints {
  bool deterministic, tf32;
  size_t workspace; /* the most a plan may use, bytes; 0: no limit */
} CudnnConstraints;

typedef struct CudnnEngine {
  cudnnBackendDescriptor_t config; /* an engine and its knobs */
  int64_t number;                  /* cuDNN's global index of the engine */
  bool tensor_cores;
  bool is_reference; /* propagates NaN strictly: cuDNN's slow reference kernels, which take seconds
                        on large tensors */
} CudnnEngine;

typedef struct CudnnEngines {
  int count;
  CudnnEngine *engines; /* in the order of the heuristics, without excluded ones */
} CudnnEngines;

/* A graph without any engine gives an empty list and OK; `error` then holds cuDNN's message, if
 * there was one. ERROR_INTERNAL only where both heuristic modes fail. The descriptors refer to
 * `graph`, which must outlive the list and the plans built from it. */
Status cudnn_engines_query(const CudnnTarget *target, const CudnnGraph *graph, DType operands,
                           const CudnnConstraints *constraints, CudnnEngines *out, Error *error);
void cudnn_engines_free(CudnnEngines *engines);

/* "engine 62, knobs 2=6 13=1, tensor_core, runtime_compilation": the engine's number, its knobs by
 * cuDNN's numbers, its numerical and behaviour notes. The caller frees. */
char *cudnn_engine_details(const CudnnEngine *engine);

#endif
