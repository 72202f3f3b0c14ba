#include "trainer/eval/laplacian_pyramid.h"

#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"

enum { RADIUS = 2, C = PYRAMID_CHANNELS };
static const float BINOMIAL[2 * RADIUS + 1] = {1 / 16.f, 4 / 16.f, 6 / 16.f, 4 / 16.f, 1 / 16.f};

static size_t level_floats(const PyramidLevel *level) {
  return (size_t)level->height * (size_t)level->width * C;
}

Status laplacian_pyramid_new(int height, int width, int count, LaplacianPyramid *out,
                             Error *error) {
  Status status = OK;
  *out = (LaplacianPyramid){.count = count};
  for (int i = 0; i < count; i++, height = (height + 1) / 2, width = (width + 1) / 2) {
    PyramidLevel *level = &out->levels[i];
    *level = (PyramidLevel){.height = height, .width = width};
    TRY(mem_bulk(level_floats(level) * sizeof(float), "a pyramid", (void **)&level->pixels, error));
  }
  TRY(mem_bulk(level_floats(&out->levels[0]) * sizeof(float), "a pyramid", (void **)&out->work,
               error));
done:
  if (status != OK) laplacian_pyramid_free(out);
  return status;
}

void laplacian_pyramid_free(LaplacianPyramid *pyramid) {
  for (int i = 0; i < pyramid->count; i++) free(pyramid->levels[i].pixels);
  free(pyramid->work);
  *pyramid = (LaplacianPyramid){0};
}

/* The index that a position outside of 0 .. size-1 is mirrored to; size is at least 3. */
static int mirror(int position, int size) {
  if (position < 0) return -position;
  return position < size ? position : 2 * (size - 1) - position;
}

/* Rows of `image` filtered and every second column kept, [height,columns,C]. */
static void halve_columns(const PyramidLevel *image, int columns, float *out) {
  for (int y = 0; y < image->height; y++)
    for (int x = 0; x < columns; x++) {
      float *to = out + ((size_t)y * (size_t)columns + (size_t)x) * C;
      memset(to, 0, C * sizeof *to);
      for (int k = -RADIUS; k <= RADIUS; k++) {
        size_t column = (size_t)mirror(2 * x + k, image->width);
        const float *from = image->pixels + ((size_t)y * (size_t)image->width + column) * C;
        for (int c = 0; c < C; c++) to[c] += BINOMIAL[k + RADIUS] * from[c];
      }
    }
}

static void reduce(const PyramidLevel *image, PyramidLevel *half, float *work) {
  size_t row = (size_t)half->width * C;
  halve_columns(image, half->width, work);
  memset(half->pixels, 0, level_floats(half) * sizeof(float));
  for (int y = 0; y < half->height; y++)
    for (int k = -RADIUS; k <= RADIUS; k++) {
      const float *from = work + (size_t)mirror(2 * y + k, image->height) * row;
      float *to = half->pixels + (size_t)y * row;
      for (size_t i = 0; i < row; i++) to[i] += BINOMIAL[k + RADIUS] * from[i];
    }
}

/* Columns of `half` spread over `width` columns with zeros between them and filtered times 2. */
static void double_columns(const PyramidLevel *half, int width, float *out) {
  for (int y = 0; y < half->height; y++)
    for (int x = 0; x < width; x++) {
      float *to = out + ((size_t)y * (size_t)width + (size_t)x) * C;
      memset(to, 0, C * sizeof *to);
      for (int k = -RADIUS; k <= RADIUS; k++) {
        int column = mirror(x + k, width);
        if (column % 2 != 0) continue;
        const float *from =
            half->pixels + ((size_t)y * (size_t)half->width + (size_t)(column / 2)) * C;
        for (int c = 0; c < C; c++) to[c] += 2 * BINOMIAL[k + RADIUS] * from[c];
      }
    }
}

static void subtract_expanded(PyramidLevel *image, const PyramidLevel *half, float *work) {
  size_t row = (size_t)image->width * C;
  double_columns(half, image->width, work);
  for (int y = 0; y < image->height; y++)
    for (int k = -RADIUS; k <= RADIUS; k++) {
      int at = mirror(y + k, image->height);
      if (at % 2 != 0) continue;
      const float *from = work + (size_t)(at / 2) * row;
      float *to = image->pixels + (size_t)y * row;
      for (size_t i = 0; i < row; i++) to[i] -= 2 * BINOMIAL[k + RADIUS] * from[i];
    }
}

void laplacian_pyramid_build(LaplacianPyramid *pyramid, const uint8_t *rgb) {
  size_t count = level_floats(&pyramid->levels[0]);
  for (size_t i = 0; i < count; i++) pyramid->levels[0].pixels[i] = rgb[i];
  for (int i = 0; i + 1 < pyramid->count; i++) {
    reduce(&pyramid->levels[i], &pyramid->levels[i + 1], pyramid->work);
    subtract_expanded(&pyramid->levels[i], &pyramid->levels[i + 1], pyramid->work);
  }
}
