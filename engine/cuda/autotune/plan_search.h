/* The search for a convolution's variant and engine (see autotune.h for the order of preference),
 * without any cache.
 *
 * A search has two parts, since one waits for compilers and the other for the device: prepare
 * builds the plans that are likely to be needed, finish validates (and times) candidates and
 * chooses one. Searches may be prepared in parallel, each in a thread with its own handle; they are
 * finished one at a time. */
#ifndef CELFORGE_ENGINE_CUDA_AUTOTUNE_PLAN_SEARCH_H
#define CELFORGE_ENGINE_CUDA_AUTOTUNE_PLAN_SEARCH_H

#include <cuda_runtime.h>

#include "engine/cuda/convolution/conv_variant.h"
#include "engine/cuda/cudnn/cudnn_plan.h"

typedef struct PlanSearch PlanSearch;

typedef struct PlanSearchSettings {
  CudnnConstraints constraints;
  bool measure; /* choose the fastest candidate instead of the heuristics' first; needs a handle */
} PlanSearchSettings;

/* The caller frees plan, config and graph, in this order. */
typedef struct FoundPlan {
  ConvVariant variant;
  CudnnPlan *plan;
  cudnnBackendDescriptor_t config;
  CudnnGraph *graph;
  bool is_measured;    /* false: the heuristics' choice */
  bool is_unvalidated; /* the device had no memory to validate any candidate */
} FoundPlan;

/* `only`: the one variant to consider; NULL: all. Errors are reported by plan_search_finish. */
PlanSearch *plan_search_prepare(const PlanSearchSettings *settings, const CudnnTarget *target,
                                const Convolution *convolution, const ConvVariant *only);
/* Runs candidates on `stream`, which must be the one of `target`'s handle. Without a handle (a
 * described device) nothing is validated. ERROR_INTERNAL with the convolution and the last refusal
 * where no variant has a plan that can be built and does not fail validation. Where candidates
 * cannot be validated for lack of device memory, one of the same tier that can be is preferred;
 * where there is none, the first is chosen, with a warning that names the convolution. */
Status plan_search_finish(PlanSearch *search, const CudnnTarget *target, cudaStream_t stream,
                          FoundPlan *out, Error *error);
void plan_search_free(PlanSearch *search); /* NULL is allowed */

#endif
