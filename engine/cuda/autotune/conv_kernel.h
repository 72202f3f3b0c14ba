/* The backend's kernels of the three convolution ops. Their constructors are in cuda.h. */
#ifndef CELFORGE_ENGINE_CUDA_AUTOTUNE_CONV_KERNEL_H
#define CELFORGE_ENGINE_CUDA_AUTOTUNE_CONV_KERNEL_H

#include "engine/backend/backend.h"
#include "engine/cuda/convolution/conv_variant.h"

/* Like the constructors in cuda.h, restricted to one variant (NULL: all), for tests. */
Status conv_kernel_new(Backend *backend, const Op *op, ConvolutionPass pass,
                       const ConvVariant *only, const Tensor *inputs, const Tensor *outputs,
                       Kernel **out, Error *error);

#endif
