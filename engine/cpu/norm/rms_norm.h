/* RMS norm: statistics of each pixel over its channels. */
#ifndef CELFORGE_ENGINE_CPU_NORM_RMS_NORM_H
#define CELFORGE_ENGINE_CPU_NORM_RMS_NORM_H

#include "engine/cpu/norm/norm.h"

/* Bytes of workspace for either pass. */
size_t rms_norm_workspace(const Norm *norm);
void rms_norm_forward(const Norm *norm, void *workspace);
void rms_norm_backward(const Norm *norm, void *workspace);

#endif
