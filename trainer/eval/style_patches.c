#include "trainer/eval/style_patches.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/memory.h"

enum { SIDE_MULTIPLE = 8, MIN_SIDE = 16, MAX_TRIES = 8, BLUR_RADIUS = 4 };
static const uint64_t PATCH_SEED = 3;
static const double MIN_DEVIATION = 4;

static double luma(const uint8_t *rgb) {
  return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2];
}

int style_patch_side(int height, int width) {
  int side = height < width ? height : width;
  if (side < MIN_SIDE) return 0;
  side -= side % SIDE_MULTIPLE;
  return side < STYLE_PATCH_SIDE ? side : STYLE_PATCH_SIDE;
}

static size_t patch_bytes(int side) {
  return (size_t)side * (size_t)side * 3;
}

Status style_patches_new(int side, int64_t capacity, StylePatches *out, Error *error) {
  *out = (StylePatches){.side = side, .capacity = capacity};
  return mem_bulk((size_t)capacity * patch_bytes(side), "patches for the classifier",
                  (void **)&out->pixels, error);
}

void style_patches_free(StylePatches *patches) {
  free(patches->pixels);
  *patches = (StylePatches){0};
}

/* --- Cutting ---------------------------------------------------------------------------------- */

static double luma_deviation(const uint8_t *patch, int side) {
  double sum = 0, squares = 0, pixels = (double)side * side;
  for (int i = 0; i < side * side; i++) {
    double value = luma(patch + 3 * i);
    sum += value;
    squares += value * value;
  }
  return sqrt(fmax(squares / pixels - sum * sum / (pixels * pixels), 0));
}

static void cut(const uint8_t *rgb, int height, int width, int side, Random *random, uint8_t *out) {
  size_t top = random_below(random, (uint64_t)(height - side + 1));
  size_t left = random_below(random, (uint64_t)(width - side + 1));
  for (int y = 0; y < side; y++)
    memcpy(out + 3 * y * side, rgb + 3 * ((top + (size_t)y) * (size_t)width + left),
           3 * (size_t)side);
}

void style_patches_add(StylePatches *patches, const uint8_t *rgb, int height, int width, int count,
                       int64_t number) {
  Random random = random_stream(PATCH_SEED, RANDOM_SCORES, (uint64_t)number, 0);
  for (int i = 0; i < count && patches->count < patches->capacity; i++, patches->count++) {
    uint8_t *patch = patches->pixels + (size_t)patches->count * patch_bytes(patches->side);
    for (int tries = 0; tries < MAX_TRIES; tries++) {
      cut(rgb, height, width, patches->side, &random, patch);
      if (luma_deviation(patch, patches->side) >= MIN_DEVIATION) break;
    }
  }
}

/* --- Random changes --------------------------------------------------------------------------- */

static double between(Random *random, double low, double high) {
  return low + (high - low) * random_uniform(random);
}

/* One of the eight symmetries of a square. */
static void turn(const uint8_t *patch, int side, uint32_t symmetry, float *out) {
  for (int y = 0; y < side; y++)
    for (int x = 0; x < side; x++) {
      int row = symmetry & 1 ? side - 1 - y : y, column = symmetry & 2 ? side - 1 - x : x;
      const uint8_t *from = patch + 3 * (symmetry & 4 ? column * side + row : row * side + column);
      for (int c = 0; c < 3; c++) *out++ = from[c];
    }
}

static int clamp(int position, int size) {
  return position < 0 ? 0 : position < size ? position : size - 1;
}

/* Filters along one axis, whose neighbours are `step` pixels apart. */
static void blur_axis(const float *in, int side, bool rows, const float *weights, float *out) {
  for (int y = 0; y < side; y++)
    for (int x = 0; x < side; x++, out += 3) {
      out[0] = out[1] = out[2] = 0;
      for (int k = -BLUR_RADIUS; k <= BLUR_RADIUS; k++) {
        const float *from =
            in + 3 * (rows ? clamp(y + k, side) * side + x : y * side + clamp(x + k, side));
        for (int c = 0; c < 3; c++) out[c] += weights[k + BLUR_RADIUS] * from[c];
      }
    }
}

/* Sharpens (amount above 0) or blurs (-1: a Gaussian) by a multiple of the detail finer than a
 * Gaussian. */
static void sharpen(float *pixels, int side, double deviation, double amount, float *work) {
  float weights[2 * BLUR_RADIUS + 1], sum = 0, *smooth = work + patch_bytes(side);
  for (int k = -BLUR_RADIUS; k <= BLUR_RADIUS; k++)
    sum += weights[k + BLUR_RADIUS] = (float)exp(-k * k / (2 * deviation * deviation));
  for (int k = 0; k <= 2 * BLUR_RADIUS; k++) weights[k] /= sum;
  blur_axis(pixels, side, false, weights, work);
  blur_axis(work, side, true, weights, smooth);
  for (size_t i = 0; i < patch_bytes(side); i++)
    pixels[i] += (float)amount * (pixels[i] - smooth[i]);
}

/* Saturation, contrast around the mean, brightness and gains: a matrix for all pixels. */
static void recolor(float *pixels, int side, double most_contrast, Random *random) {
  double mean = 0, saturation = between(random, 0.3, 1.7);
  double contrast = exp(between(random, -0.6, most_contrast)),
         brightness = between(random, -40, 40), gains[3];
  for (int c = 0; c < 3; c++) gains[c] = contrast * between(random, 0.85, 1.15);
  for (int i = 0; i < 3 * side * side; i++) mean += pixels[i];
  mean /= 3.0 * side * side;
  for (int i = 0; i < side * side; i++) {
    float *pixel = pixels + 3 * i;
    double grey = 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2];
    for (int c = 0; c < 3; c++)
      pixel[c] =
          (float)((grey + saturation * (pixel[c] - grey) - mean) * gains[c] + mean + brightness);
  }
}

static void add_noise(float *pixels, int side, double deviation, Random *random) {
  for (int i = 0; i < side * side; i += 2) {
    float noise[2];
    random_fill_normal(random, noise, 2, (float)deviation);
    for (int c = 0; c < 6; c++) pixels[3 * i + c] += noise[c / 3];
  }
}

void style_patch_jitter(const uint8_t *patch, int side, double most_contrast, Random *random,
                        uint8_t *out) {
  size_t count = patch_bytes(side);
  float *pixels = mem_new(3 * count, sizeof *pixels);
  turn(patch, side, random_u32(random) & 7, pixels);
  if (random_uniform(random) < 0.5)
    sharpen(pixels, side, between(random, 0.5, 1.5), between(random, -1, 1.5), pixels + count);
  recolor(pixels, side, most_contrast, random);
  if (random_uniform(random) < 0.3) add_noise(pixels, side, between(random, 0, 2), random);
  for (size_t i = 0; i < count; i++) {
    float value = pixels[i] > 0 ? pixels[i] : 0;
    out[i] = (uint8_t)(int)rintf(value < 255 ? value : 255);
  }
  free(pixels);
}
