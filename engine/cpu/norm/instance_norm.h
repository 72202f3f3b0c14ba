/* Instance and group norm: statistics of each frame and group of channels over the pixels. */
#ifndef CELFORGE_ENGINE_CPU_NORM_INSTANCE_NORM_H
#define CELFORGE_ENGINE_CPU_NORM_INSTANCE_NORM_H

#include "engine/cpu/norm/norm.h"

/* Bytes of workspace for either pass. */
size_t instance_norm_workspace(const Norm *norm);
void instance_norm_forward(const Norm *norm, void *workspace);
void instance_norm_backward(const Norm *norm, void *workspace);

#endif
