/* The plan cache on disk: one JSON file for each chosen variant and plan. */
#ifndef CELFORGE_ENGINE_CUDA_AUTOTUNE_PLAN_CACHE_H
#define CELFORGE_ENGINE_CUDA_AUTOTUNE_PLAN_CACHE_H

#include "engine/cuda/convolution/conv_variant.h"
#include "engine/cuda/cudnn/cudnn_plan.h"

/* Replaces "FOLDER/plan-1a2b3c4d.json", named by a checksum of the key, atomically. */
Status plan_cache_write(const char *folder, const char *key, const ConvVariant *variant,
                        const CudnnPlan *plan, Error *error);

/* OK with `*out` NULL where there is no file. ERROR_DATA where the file is damaged, or holds
 * another key or a variant that `convolution` does not have; ERROR_INTERNAL where cuDNN rejects the
 * plan. */
Status plan_cache_read(const char *folder, const char *key, const Convolution *convolution,
                       const CudnnTarget *target, const CudnnConstraints *constraints,
                       ConvVariant *variant, CudnnPlan **out, Error *error);

#endif
