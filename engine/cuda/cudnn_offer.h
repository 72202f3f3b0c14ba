/* The search for a convolution's form and engine: what cudnn.h says of choosing, without memory of
 * earlier choices. */
#ifndef CELFORGE_ENGINE_CUDA_CUDNN_OFFER_H
#define CELFORGE_ENGINE_CUDA_CUDNN_OFFER_H

#include "engine/cuda/cudnn_plan.h"

typedef struct CudnnSearch {
  CudnnTarget target;
  CudnnRules rules;
  bool tune; /* needs a handle */
  cudaStream_t stream;
} CudnnSearch;

/* The caller frees plan, config and graph, in this order. */
typedef struct CudnnFound {
  ConvolutionForm form;
  CudnnPlan *plan;
  cudnnBackendDescriptor_t config;
  CudnnGraph *graph;
} CudnnFound;

/* `only`: one form; NULL: all. ERROR_INTERNAL where none has a plan. */
Status cudnn_search(const CudnnSearch *search, const Convolution *convolution,
                    const ConvolutionForm *only, CudnnFound *out, Error *error);

#endif
