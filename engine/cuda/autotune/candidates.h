/* The search for a convolution's form and engine: what cudnn.h says of choosing, without memory of
 * earlier choices.
 *
 * In two parts, since one waits for compilers and the other for the device: preparing makes the
 * plans that are likely to be looked at, finishing tries them in order and takes one. Searches may
 * be prepared side by side, each in a thread with a handle of its own; they are finished one after
 * the other. */
#ifndef CELFORGE_ENGINE_CUDA_AUTOTUNE_CANDIDATES_H
#define CELFORGE_ENGINE_CUDA_AUTOTUNE_CANDIDATES_H

#include "engine/cuda/cudnn/cudnn_plan.h"

typedef struct CudnnSearch CudnnSearch;

typedef struct CudnnSearchSettings {
  CudnnRules rules;
  bool tune; /* needs a handle */
} CudnnSearchSettings;

/* The caller frees plan, config and graph, in this order. */
typedef struct CudnnFound {
  ConvolutionForm form;
  CudnnPlan *plan;
  cudnnBackendDescriptor_t config;
  CudnnGraph *graph;
  bool is_measured; /* false: the heuristics' choice */
} CudnnFound;

/* `only`: one form; NULL: all. What cannot be made is found out when the search is finished. */
CudnnSearch *cudnn_search_prepare(const CudnnSearchSettings *settings, const CudnnTarget *target,
                                  const Convolution *convolution, const ConvolutionForm *only);
/* `target`'s handle runs plans on `stream`. ERROR_INTERNAL where no form has a plan. */
Status cudnn_search_finish(CudnnSearch *search, const CudnnTarget *target, cudaStream_t stream,
                           CudnnFound *out, Error *error);
void cudnn_search_free(CudnnSearch *search); /* NULL is allowed */

#endif
