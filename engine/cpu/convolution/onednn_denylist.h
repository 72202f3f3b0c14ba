/* The denylist of oneDNN kernels that give wrong results for some convolutions. */
#ifndef CELFORGE_ENGINE_CPU_CONVOLUTION_ONEDNN_DENYLIST_H
#define CELFORGE_ENGINE_CPU_CONVOLUTION_ONEDNN_DENYLIST_H

#include "engine/cpu/convolution/onednn.h"

/* True if the kernel size in time is 1, without stride or padding: it runs as a 2-D convolution,
 * whose kernels are faster (in bf16 with 3 input channels by a factor of 3). */
bool conv_is_planar(const ConvGeometry *geometry);

/* `kernel` is oneDNN's name of an implementation. Each convolution has at least one allowed kernel.
 */
bool conv_kernel_is_allowed(const ConvSetup *setup, const char *kernel);

#endif
