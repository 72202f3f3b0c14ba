/* Small versions of frames, from which pack decides about scene cuts and frames to drop. All
 * numbers are integers, so that the decisions are the same on every machine. */
#ifndef CELFORGE_DATA_BUILD_THUMBNAIL_H
#define CELFORGE_DATA_BUILD_THUMBNAIL_H

#include <stdint.h>

enum {
  THUMBNAIL_WIDTH = 64,
  THUMBNAIL_HEIGHT = 36,
  THUMBNAIL_CELLS = THUMBNAIL_WIDTH * THUMBNAIL_HEIGHT,
  THUMBNAIL_UNIT = 16, /* a grey level (of 255) in the units of cells and differences */
  LUMA_LEVELS = 256
};

typedef struct Thumbnail {
  int cells; /* used of each channel; fewer than the maximum only if the
                frame has fewer pixels than cells along a side */
  int16_t channel[3]
                 [THUMBNAIL_CELLS]; /* mean luma, blue and red difference (BT.601) of each cell */
  int64_t pixels;
  uint32_t histogram[LUMA_LEVELS]; /* pixels of each luma */
} Thumbnail;

/* Makes the thumbnail of a frame, u8 [height,width,3]. */
void thumbnail_make(const uint8_t *rgb, int width, int height, Thumbnail *out);
/* Returns the luma (BT.601, 0 to 255) of a pixel. */
static inline int pixel_luma(const uint8_t *rgb) {
  return (77 * rgb[0] + 150 * rgb[1] + 29 * rgb[2] + 128) >> 8;
}

/* How far two thumbnails of equally large frames differ, in units of 1/16 grey level. */
typedef struct ThumbnailDifference {
  int mean;    /* of the absolute differences of cells, the three channels added */
  int largest; /* of all cells and channels */
} ThumbnailDifference;

ThumbnailDifference thumbnail_difference(const Thumbnail *a, const Thumbnail *b);

#endif
