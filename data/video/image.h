/* Pictures in memory and PNG files (libpng): RGB, 8 bits, rows top to bottom, no padding. */
#ifndef CELFORGE_DATA_VIDEO_IMAGE_H
#define CELFORGE_DATA_VIDEO_IMAGE_H

#include <stdint.h>

#include "base/error.h"

typedef struct Image {
  int width, height;
  uint8_t *pixels; /* [height,width,3]; owned */
} Image;

Status image_new(int width, int height, Image *out, Error *error);
void image_free(Image *image);
/* Any PNG becomes RGB (palette, grey and 16 bits are converted, alpha dropped). */
Status image_read_png(const char *path, Image *out, Error *error);
Status image_write_png(const char *path, const Image *image, Error *error); /* whole or absent */
/* Bilinear (half-pixel centres); shrinking widens the triangle to the coarser grid, so that nothing
 * aliases. */
void image_resize(const Image *from, Image *to);

#endif
