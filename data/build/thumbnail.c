/* Thumbnails: means over a grid of cells, and the luma histogram of all pixels. */
#include "data/build/thumbnail.h"

#include <stdlib.h>
#include <string.h>

/* Sums of red, green and blue over a cell. */
typedef struct CellSum {
  uint32_t rgb[3];
} CellSum;

/* Rounds a weighted sum of colour sums to units of 1/16 grey level. */
static int16_t weigh(const CellSum *sum, int red, int green, int blue, int64_t pixels) {
  int64_t total =
      (int64_t)red * sum->rgb[0] + (int64_t)green * sum->rgb[1] + (int64_t)blue * sum->rgb[2];
  int64_t divisor = 256 / THUMBNAIL_UNIT * pixels, half = total < 0 ? -divisor / 2 : divisor / 2;
  return (int16_t)((total + half) / divisor);
}

/* Adds the pixels of a row to the cells of one row of the grid, and to the histogram. */
static void add_row(const uint8_t *row, const int *ends, int columns, CellSum *sums,
                    uint32_t *histogram) {
  int x = 0;
  for (int c = 0; c < columns; c++) {
    uint32_t red = 0, green = 0, blue = 0;
    for (; x < ends[c]; x++, row += 3) {
      red += row[0];
      green += row[1];
      blue += row[2];
      histogram[pixel_luma(row)]++;
    }
    sums[c].rgb[0] += red;
    sums[c].rgb[1] += green;
    sums[c].rgb[2] += blue;
  }
}

void thumbnail_make(const uint8_t *rgb, int width, int height, Thumbnail *out) {
  int columns = width < THUMBNAIL_WIDTH ? width : THUMBNAIL_WIDTH;
  int rows = height < THUMBNAIL_HEIGHT ? height : THUMBNAIL_HEIGHT;
  int ends[THUMBNAIL_WIDTH], y = 0;
  for (int c = 0; c < columns; c++) ends[c] = (int)((int64_t)(c + 1) * width / columns);
  memset(out->histogram, 0, sizeof out->histogram);
  out->cells = columns * rows;
  out->pixels = (int64_t)width * height;
  for (int r = 0; r < rows; r++) {
    CellSum sums[THUMBNAIL_WIDTH] = {0};
    int first = y, end = (int)((int64_t)(r + 1) * height / rows);
    for (; y < end; y++) add_row(rgb + (int64_t)y * width * 3, ends, columns, sums, out->histogram);
    for (int c = 0; c < columns; c++) {
      int64_t pixels = (int64_t)(end - first) * (ends[c] - (c ? ends[c - 1] : 0));
      int at = r * columns + c;
      out->channel[0][at] = weigh(&sums[c], 77, 150, 29, pixels);
      out->channel[1][at] = weigh(&sums[c], -43, -85, 128, pixels);
      out->channel[2][at] = weigh(&sums[c], 128, -107, -21, pixels);
    }
  }
}

ThumbnailDifference thumbnail_difference(const Thumbnail *a, const Thumbnail *b) {
  ThumbnailDifference difference = {0};
  int64_t sum = 0;
  for (int channel = 0; channel < 3; channel++)
    for (int i = 0; i < a->cells; i++) {
      int d = abs(a->channel[channel][i] - b->channel[channel][i]);
      sum += d;
      if (d > difference.largest) difference.largest = d;
    }
  difference.mean = (int)(sum / a->cells);
  return difference;
}
