/* Weights of networks that others have trained, from safetensors files with PyTorch's names and
 * layouts: convolutions [out,in,height,width], vectors [channels]. Tensors may be F32, F16 or BF16;
 * tensors that the network does not use are ignored. */
#ifndef CELFORGE_TRAINER_GAN_PRETRAINED_H
#define CELFORGE_TRAINER_GAN_PRETRAINED_H

#include "checkpoints/safetensors.h"
#include "engine/parameters/parameters.h"

typedef struct PretrainedFile {
  const char *path;   /* borrowed */
  const char *origin; /* ends messages: "torchvision's VGG19 (docs/perceptual.md)"; borrowed */
  Safetensors *tensors;
} PretrainedFile;

/* ERROR_IO if the file cannot be read, ERROR_DATA if it is no valid safetensors file. */
Status pretrained_open(const char *path, const char *origin, PretrainedFile *out, Error *error);
void pretrained_close(PretrainedFile *file); /* a zeroed one is allowed */
bool pretrained_has(const PretrainedFile *file, const char *name);

/* Reads the tensor `name` of this shape, rank at most 4, into `out` in the file's layout.
 * ERROR_DATA, with the tensor's name, the shape found and the shape expected, if it is missing, has
 * another shape or type, or is not finite. */
Status pretrained_values(const PretrainedFile *file, const char *name, const int64_t *shape,
                         int rank, float *out, Error *error);

/* Reads the tensor `name` into `out` [parameter->count]: the weight of a convolution of one frame,
 * [out,in,height,width] in the file, [out,1,height,width,in] afterwards, or a vector. Errors as
 * above. */
Status pretrained_parameter(const PretrainedFile *file, const char *name,
                            const Parameter *parameter, float *out, Error *error);

#endif
