#include "trainer/eval/kernel_distance.h"

#include <math.h>
#include <stdlib.h>

#include "base/bulk_memory.h"
#include "base/memory.h"
#include "base/random.h"
#include "trainer/eval/matrix.h"

enum { TILE = 256, WORDS = (KID_SUBSETS + 63) / 64 };
static const uint64_t SUBSET_SEED = 6;

/* Which subsets hold a sample, a bit each. */
typedef struct Membership {
  uint64_t words[WORDS];
} Membership;

static int common_subsets(const Membership *a, const Membership *b) {
  int count = 0;
  for (int i = 0; i < WORDS; i++) count += __builtin_popcountll(a->words[i] & b->words[i]);
  return count;
}

/* Draws `size` of `count` samples for each subset: the first of a shuffled list. */
static Membership *draw_subsets(int64_t count, int64_t size, uint32_t side) {
  Membership *members = mem_new((size_t)count, sizeof *members);
  int64_t *list = mem_new((size_t)count, sizeof *list);
  for (int subset = 0; subset < KID_SUBSETS; subset++) {
    Random random = random_stream(SUBSET_SEED, RANDOM_SCORES, (uint64_t)subset, side);
    for (int64_t i = 0; i < count; i++) list[i] = i;
    for (int64_t i = 0; i < size; i++) {
      int64_t other = i + (int64_t)random_below(&random, (uint64_t)(count - i)),
              chosen = list[other];
      list[other] = list[i];
      list[i] = chosen;
      members[chosen].words[subset / 64] |= (uint64_t)1 << (subset % 64);
    }
  }
  free(list);
  return members;
}

/* One side of a comparison. */
typedef struct Side {
  const FeatureSet *set;
  const Membership *members;
} Side;

static int64_t tile_length(const Side *side, int64_t first) {
  return side->set->count - first < TILE ? side->set->count - first : TILE;
}

static void load_tile(const Side *side, int64_t first, double *out) {
  const float *values = side->set->values + first * side->set->length;
  int64_t count = tile_length(side, first) * side->set->length;
  for (int64_t i = 0; i < count; i++) out[i] = (double)values[i];
}

/* The kernels of a tile's pairs, each times the number of subsets that hold both samples; a sample
 * is not paired with itself. */
static double tile_sum(const Side *a, int64_t first_a, const Side *b, int64_t first_b,
                       const double *products) {
  double sum = 0, length = (double)a->set->length;
  int64_t rows = tile_length(a, first_a), columns = tile_length(b, first_b);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j++) {
      if (a == b && first_a + i == first_b + j) continue;
      double base = products[i * columns + j] / length + 1;
      sum +=
          base * base * base * common_subsets(&a->members[first_a + i], &b->members[first_b + j]);
    }
  return sum;
}

static Status kernel_sum(const Side *a, const Side *b, int threads, double *out, Error *error) {
  Status status = OK;
  int64_t length = a->set->length;
  double *tile_a = NULL, *tile_b = NULL, *products = NULL;
  *out = 0;
  TRY(mem_bulk(sizeof *tile_a * TILE * (size_t)length, "features of KID", (void **)&tile_a, error));
  TRY(mem_bulk(sizeof *tile_b * TILE * (size_t)length, "features of KID", (void **)&tile_b, error));
  for (int64_t i = 0; i < a->set->count; i += TILE) {
    load_tile(a, i, tile_a);
    for (int64_t j = 0; j < b->set->count; j += TILE) {
      free(products);
      TRY(mem_bulk(sizeof *products * TILE * TILE, "kernels of KID", (void **)&products, error));
      load_tile(b, j, tile_b);
      TRY(matrix_product(tile_a, tile_length(a, i), tile_b, tile_length(b, j), length, products,
                         threads, error));
      *out += tile_sum(a, i, b, j, products);
    }
  }
done:
  free(tile_a);
  free(tile_b);
  free(products);
  return status;
}

Status kernel_distance(const FeatureSet *x, const FeatureSet *y, int64_t subset_size, int threads,
                       double *out, Error *error) {
  Status status = OK;
  int64_t size = x->count < y->count ? x->count : y->count;
  double xx, yy, xy;
  if (size > subset_size) size = subset_size;
  *out = (double)NAN;
  if (size < 2) return OK;
  Membership *x_members = draw_subsets(x->count, size, 0);
  Membership *y_members = draw_subsets(y->count, size, 1);
  const Side x_side = {x, x_members}, y_side = {y, y_members};
  TRY(kernel_sum(&x_side, &x_side, threads, &xx, error));
  TRY(kernel_sum(&y_side, &y_side, threads, &yy, error));
  TRY(kernel_sum(&x_side, &y_side, threads, &xy, error));
  double m = (double)size;
  *out = ((xx + yy) / (m * (m - 1)) - 2 * xy / (m * m)) / KID_SUBSETS;
done:
  free(x_members);
  free(y_members);
  return status;
}
