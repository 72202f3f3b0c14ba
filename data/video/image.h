/* Images in memory and PNG files (libpng): RGB, 8 bits, rows top to bottom, no padding. */
#ifndef CELFORGE_DATA_VIDEO_IMAGE_H
#define CELFORGE_DATA_VIDEO_IMAGE_H

#include <stdint.h>

#include "base/error.h"

typedef struct Image {
  int width, height;
  uint8_t *pixels; /* [height,width,3]; owned */
} Image;

/* Allocates an image. ERROR_USAGE if the size is out of range. */
Status image_new(int width, int height, Image *out, Error *error);
void image_free(Image *image);
/* Reads a PNG file of any kind: palette, grey and 16 bits are converted, alpha is dropped. ERROR_IO
 * if the file cannot be opened or read, or is no regular file; ERROR_DATA if it is damaged, no PNG,
 * or has more than 2^28 pixels. The caller frees with image_free. */
Status image_read_png(const char *path, Image *out, Error *error);
/* Writes a PNG file atomically. */
Status image_write_png(const char *path, const Image *image, Error *error);
/* Resizes `from` to the size of `to`: bilinear with half-pixel centres, antialiased when shrinking
 * (the triangle is widened to the coarser grid). */
void image_resize(const Image *from, Image *to);

#endif
