/* Inception v3 up to its last average pooling, as FID and KID use it (Szegedy et al. 2016; the
 * weights of 2015-12-05 that TensorFlow's FID was published with). Differences to torchvision's
 * network, as in pytorch-fid: average pools do not count the padding, and the pool of the last
 * block takes the maximum.
 *
 * Weights come from a safetensors file with the names of pytorch-fid's state dict:
 * Conv2d_1a_3x3.conv.weight [32,3,3,3], Conv2d_1a_3x3.bn.weight, .bias, .running_mean and
 * .running_var [32], up to Mixed_7c.branch_pool. The batch norms (epsilon 0.001) are folded into
 * the convolutions. */
#ifndef CELFORGE_TRAINER_EVAL_INCEPTION_H
#define CELFORGE_TRAINER_EVAL_INCEPTION_H

#include "engine/backend/backend.h"

enum {
  INCEPTION_SIDE = 299,      /* of its input */
  INCEPTION_FEATURES = 2048, /* for each image */
  INCEPTION_BATCH = 4,
};

typedef struct Inception Inception;
/* Plans the network and reads its weights. ERROR_IO if the file cannot be read; ERROR_DATA, with
 * the tensor's name, if a tensor is missing, has another shape or type, or is not finite. */
Status inception_new(Backend *backend, const char *path, Inception **out, Error *error);
void inception_free(Inception *inception); /* NULL is allowed */
/* Computes out[count,INCEPTION_FEATURES] of at most INCEPTION_BATCH images
 * [count,INCEPTION_SIDE,INCEPTION_SIDE,3] in [-1, 1]. ERROR_DATA if a feature is not finite. */
Status inception_run(Inception *inception, const float *images, int64_t count, float *out,
                     Error *error);

#endif
