/* One choice as a file. */
#ifndef CELFORGE_ENGINE_CUDA_AUTOTUNE_PLAN_CACHE_H
#define CELFORGE_ENGINE_CUDA_AUTOTUNE_PLAN_CACHE_H

#include "base/error.h"
#include "engine/cuda/cudnn/cudnn_plan.h"

/* "FOLDER/conv-1a2b3c4d.json" for a key; the caller frees. */
char *cudnn_store_path(const char *folder, const char *key);

bool cudnn_store_has(const char *folder, const char *key);

/* Replaces the file whole. */
Status cudnn_store_write(const char *folder, const char *key, const ConvolutionForm *form,
                         const CudnnPlan *plan, Error *error);

/* ERROR_DATA where the file is damaged or holds another key or a form that `convolution` has not;
 * ERROR_INTERNAL where cuDNN refuses the plan. `*out` NULL and OK: there is no file. */
Status cudnn_store_read(const char *folder, const char *key, const Convolution *convolution,
                        const CudnnTarget *target, const CudnnRules *rules, ConvolutionForm *form,
                        CudnnPlan **out, Error *error);

#endif
