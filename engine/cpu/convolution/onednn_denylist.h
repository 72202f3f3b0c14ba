/* Which of oneDNN's kernels may run a convolution. */
#ifndef CELFORGE_ENGINE_CPU_CONVOLUTION_ONEDNN_DENYLIST_H
#define CELFORGE_ENGINE_CPU_CONVOLUTION_ONEDNN_DENYLIST_H

#include "engine/cpu/convolution/onednn.h"

/* A convolution with one tap in time is one of images: those kernels are the faster ones (in bf16
 * with 3 input channels 3 times). */
bool conv_is_planar(const ConvGeometry *geometry);

/* `kernel` is oneDNN's name of an implementation. Every convolution has a trusted one. */
bool conv_is_trusted(const ConvSetup *setup, const char *kernel);

#endif
