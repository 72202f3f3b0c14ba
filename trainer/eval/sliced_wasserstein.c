#include "trainer/eval/sliced_wasserstein.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "base/bulk_memory.h"
#include "base/memory.h"
#include "base/random.h"
#include "trainer/eval/laplacian_pyramid.h"

enum {
  SWD_PIXELS = SWD_PATCH * SWD_PATCH,
  SWD_LENGTH = SWD_PIXELS * PYRAMID_CHANNELS, /* of a descriptor */
  SWD_BLOCK = 16,                             /* directions that are projected at once */
};
static const uint64_t POSITION_SEED = 1, DIRECTION_SEED = 2;

struct PatchSet {
  int levels;
  int64_t frames, capacity;
  bool normalized;
  LaplacianPyramid pyramid;
  float *descriptors[PYRAMID_MAX_LEVELS]; /* [capacity * SWD_PATCHES, SWD_LENGTH] */
};

int swd_levels(int height, int width) {
  int levels = 0;
  for (int side = height < width ? height : width; side >= SWD_MIN_SIDE && levels < SWD_MAX_LEVELS;
       side = (side + 1) / 2)
    levels++;
  return levels;
}

Status patch_set_new(int height, int width, int64_t frames, PatchSet **out, Error *error) {
  Status status = OK;
  PatchSet *set = mem_new(1, sizeof *set);
  set->levels = swd_levels(height, width);
  set->capacity = frames;
  if (set->levels == 0)
    FAIL(error, ERROR_INTERNAL, "patches of frames of %dx%d pixels; expected at least %dx%d", width,
         height, SWD_MIN_SIDE, SWD_MIN_SIDE);
  TRY(laplacian_pyramid_new(height, width, set->levels, &set->pyramid, error));
  for (int i = 0; i < set->levels; i++)
    TRY(mem_bulk((size_t)frames * SWD_PATCHES * SWD_LENGTH * sizeof(float),
                 "the patches of the sliced Wasserstein distance", (void **)&set->descriptors[i],
                 error));
  *out = set;
  set = NULL;
done:
  patch_set_free(set);
  return status;
}

void patch_set_free(PatchSet *set) {
  if (!set) return;
  for (int i = 0; i < set->levels; i++) free(set->descriptors[i]);
  laplacian_pyramid_free(&set->pyramid);
  free(set);
}

/* --- Descriptors ------------------------------------------------------------------------------ */

/* Copies the patches of one level, channel after channel. */
static void cut_patches(const PyramidLevel *level, Random *random, float *out) {
  for (int i = 0; i < SWD_PATCHES; i++) {
    size_t top = random_below(random, (uint64_t)(level->height - SWD_PATCH + 1));
    size_t left = random_below(random, (uint64_t)(level->width - SWD_PATCH + 1));
    for (size_t c = 0; c < PYRAMID_CHANNELS; c++)
      for (size_t y = 0; y < SWD_PATCH; y++)
        for (size_t x = 0; x < SWD_PATCH; x++)
          *out++ =
              level->pixels[((top + y) * (size_t)level->width + left + x) * PYRAMID_CHANNELS + c];
  }
}

Status patch_set_add(PatchSet *set, const uint8_t *rgb, int64_t number, Error *error) {
  if (set->frames == set->capacity || set->normalized)
    return error_set(error, ERROR_INTERNAL, "a set of patches of %lld frames is full",
                     (long long)set->capacity);
  laplacian_pyramid_build(&set->pyramid, rgb);
  for (int i = 0; i < set->levels; i++) {
    Random random = random_stream(POSITION_SEED, RANDOM_SCORES, (uint64_t)number, (uint32_t)i);
    cut_patches(&set->pyramid.levels[i], &random,
                set->descriptors[i] + (size_t)set->frames * SWD_PATCHES * SWD_LENGTH);
  }
  set->frames++;
  return OK;
}

/* Mean 0 and deviation 1 of one channel over all patches; a constant channel becomes 0. */
static void normalize_channel(float *descriptors, int64_t count) {
  double sum = 0, squares = 0, pixels = (double)count * SWD_PIXELS;
  for (int64_t i = 0; i < count; i++)
    for (int k = 0; k < SWD_PIXELS; k++) sum += descriptors[i * SWD_LENGTH + k];
  double mean = sum / pixels;
  for (int64_t i = 0; i < count; i++)
    for (int k = 0; k < SWD_PIXELS; k++) {
      double difference = descriptors[i * SWD_LENGTH + k] - mean;
      squares += difference * difference;
    }
  double scale = squares > 0 ? 1 / sqrt(squares / pixels) : 0;
  for (int64_t i = 0; i < count; i++)
    for (int k = 0; k < SWD_PIXELS; k++) {
      float *value = &descriptors[i * SWD_LENGTH + k];
      *value = (float)((*value - mean) * scale);
    }
}

static void normalize(PatchSet *set) {
  if (set->normalized) return;
  for (int i = 0; i < set->levels; i++)
    for (int c = 0; c < PYRAMID_CHANNELS; c++)
      normalize_channel(set->descriptors[i] + c * SWD_PIXELS, set->frames * SWD_PATCHES);
  set->normalized = true;
}

/* --- Sorting ---------------------------------------------------------------------------------- */

/* Maps f32 to u32 in the same order, and back. */
static uint32_t key_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits >> 31 ? ~bits : bits | 1u << 31;
}

static float value_of(uint32_t key) {
  uint32_t bits = key >> 31 ? key & ~(1u << 31) : ~key;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* Radix sort by a byte at a time; `other` has the same length. The result is in `keys`. */
static void sort_keys(uint32_t *keys, uint32_t *other, int64_t count) {
  for (int shift = 0; shift < 32; shift += 8) {
    int64_t starts[256 + 1] = {0};
    for (int64_t i = 0; i < count; i++) starts[(keys[i] >> shift & 255) + 1]++;
    for (int i = 0; i < 256; i++) starts[i + 1] += starts[i];
    for (int64_t i = 0; i < count; i++) other[starts[keys[i] >> shift & 255]++] = keys[i];
    uint32_t *sorted = other;
    other = keys;
    keys = sorted;
  }
}

/* --- Distance --------------------------------------------------------------------------------- */

static int default_threads(void) {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

static int this_thread(void) {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

/* Random unit vectors, transposed in blocks: [SWD_DIRECTIONS / SWD_BLOCK, SWD_LENGTH, SWD_BLOCK].
 */
static float *random_directions(void) {
  float *directions = mem_new((size_t)SWD_DIRECTIONS * SWD_LENGTH, sizeof *directions);
  for (int d = 0; d < SWD_DIRECTIONS; d++) {
    Random random = random_stream(DIRECTION_SEED, RANDOM_SCORES, (uint64_t)d, 0);
    float values[SWD_LENGTH];
    random_fill_normal(&random, values, SWD_LENGTH, 1);
    double square = 0;
    for (int k = 0; k < SWD_LENGTH; k++) square += (double)values[k] * values[k];
    float *block = directions + (size_t)(d / SWD_BLOCK) * SWD_LENGTH * SWD_BLOCK;
    for (int k = 0; k < SWD_LENGTH; k++)
      block[k * SWD_BLOCK + d % SWD_BLOCK] = (float)(values[k] / sqrt(square));
  }
  return directions;
}

/* Projects all descriptors on one block of directions: keys [SWD_BLOCK,count]. */
static void project(const float *descriptors, int64_t count, const float *block, uint32_t *keys) {
  for (int64_t i = 0; i < count; i++) {
    float sums[SWD_BLOCK] = {0};
    const float *descriptor = descriptors + i * SWD_LENGTH;
    for (int k = 0; k < SWD_LENGTH; k++)
      for (int d = 0; d < SWD_BLOCK; d++) sums[d] += descriptor[k] * block[k * SWD_BLOCK + d];
    for (int d = 0; d < SWD_BLOCK; d++) keys[d * count + i] = key_of(sums[d]);
  }
}

/* The mean distance of sorted projections, for each direction of a block. `work` holds
 * (2 * SWD_BLOCK + 1) * count keys. */
static void block_distance(const float *a, const float *b, int64_t count, const float *block,
                           uint32_t *work, double *out) {
  uint32_t *keys_a = work, *keys_b = keys_a + SWD_BLOCK * count,
           *other = keys_b + SWD_BLOCK * count;
  project(a, count, block, keys_a);
  project(b, count, block, keys_b);
  for (int d = 0; d < SWD_BLOCK; d++) {
    uint32_t *first = keys_a + d * count, *second = keys_b + d * count;
    sort_keys(first, other, count);
    sort_keys(second, other, count);
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
      sum += fabs((double)value_of(first[i]) - (double)value_of(second[i]));
    out[d] = sum / (double)count;
  }
}

static double level_distance(const float *a, const float *b, int64_t count, const float *directions,
                             uint32_t *work, size_t work_each, int threads) {
  double distances[SWD_DIRECTIONS], sum = 0;
  (void)threads; /* unused without OpenMP */
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int block = 0; block < SWD_DIRECTIONS / SWD_BLOCK; block++)
    block_distance(a, b, count, directions + (size_t)block * SWD_LENGTH * SWD_BLOCK,
                   work + work_each * (size_t)this_thread(), distances + block * SWD_BLOCK);
  for (int d = 0; d < SWD_DIRECTIONS; d++) sum += distances[d];
  return 1000 * sum / SWD_DIRECTIONS;
}

Status swd_distance(PatchSet *a, PatchSet *b, int threads, double *out, Error *error) {
  Status status = OK;
  float *directions = NULL;
  uint32_t *work = NULL;
  int64_t count = a->frames * SWD_PATCHES;
  if (threads <= 0) threads = default_threads();
  if (a->frames != b->frames || a->levels != b->levels || a->frames == 0)
    FAIL(error, ERROR_INTERNAL, "sliced Wasserstein distance of %lld and %lld frames",
         (long long)a->frames, (long long)b->frames);
  size_t work_each = (2 * SWD_BLOCK + 1) * (size_t)count;
  TRY(mem_bulk((size_t)threads * work_each * sizeof *work,
               "projections of the sliced Wasserstein distance", (void **)&work, error));
  directions = random_directions();
  normalize(a);
  normalize(b);
  for (int i = 0; i < a->levels; i++)
    out[i] = level_distance(a->descriptors[i], b->descriptors[i], count, directions, work,
                            work_each, threads);
done:
  free(directions);
  free(work);
  return status;
}
