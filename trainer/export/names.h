/* The generator's parameters by PyTorch's names and in PyTorch's layout.
 *
 * Names are those of a module tree with a list of blocks: "blocks.3.conv1.weight"; gain and bias of
 * a norm are its "weight" and "bias". Convolution weights are [O,I,T,H,W], those of transposed
 * convolutions [I,O,T,H,W], vectors [C], all f32. docs/export.md holds the modules that load them.
 */
#ifndef CELFORGE_TRAINER_EXPORT_NAMES_H
#define CELFORGE_TRAINER_EXPORT_NAMES_H

#include "checkpoints/safetensors.h"
#include "engine/parameters/parameters.h"

/* Returns the PyTorch name of a parameter or layer: "blocks.3.conv1.norm.weight" for
 * "block3.conv1.norm.gain". The caller frees it. */
char *export_name(const char *name);

/* Copies a parameter from our layout to PyTorch's, `to` [parameter->count]. */
void export_values(const Parameter *parameter, const float *from, float *to);

/* Describes a parameter whose `values` are in PyTorch's layout; the caller frees the name. */
NamedTensor export_tensor(const Parameter *parameter, const float *values);

#endif
