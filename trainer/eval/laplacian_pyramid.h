/* The Laplacian pyramid of an image (Burt, Adelson: "The Laplacian Pyramid as a Compact Image
 * Code", IEEE Transactions on Communications 1983) with the binomial filter 1 4 6 4 1. Borders are
 * mirrored without repeating the edge; a level has half the sides of the one before, rounded up. */
#ifndef CELFORGE_TRAINER_EVAL_LAPLACIAN_PYRAMID_H
#define CELFORGE_TRAINER_EVAL_LAPLACIAN_PYRAMID_H

#include <stdint.h>

#include "base/error.h"

enum { PYRAMID_MAX_LEVELS = 12, PYRAMID_CHANNELS = 3 };

typedef struct PyramidLevel {
  int height, width;
  float *pixels; /* [height,width,3] */
} PyramidLevel;

/* `count` levels, finest first: each the difference of its image to the upsampled next one; the
 * last is that image itself. */
typedef struct LaplacianPyramid {
  int count;
  PyramidLevel levels[PYRAMID_MAX_LEVELS];
  float *work; /* [height,width,3] of the finest level */
} LaplacianPyramid;

/* Allocates for images [height,width,3]: 1 <= count <= PYRAMID_MAX_LEVELS, every level with sides
 * of at least 3. */
Status laplacian_pyramid_new(int height, int width, int count, LaplacianPyramid *out, Error *error);
void laplacian_pyramid_free(LaplacianPyramid *pyramid);
/* Computes all levels of a u8 RGB image, values 0 to 255. */
void laplacian_pyramid_build(LaplacianPyramid *pyramid, const uint8_t *rgb);

#endif
