#include "trainer/eval/frechet_distance.h"

#include <math.h>
#include <stdlib.h>

#include "base/bulk_memory.h"
#include "base/memory.h"
#include "trainer/eval/matrix.h"

enum { CHUNK = 1024 }; /* samples that are added to a covariance at once */

/* A set of features as mean and F [rows,length], with F^T F its covariance. */
typedef struct Gaussian {
  int64_t rows, length;
  double *mean, *factor;
  double trace; /* of the covariance */
} Gaussian;

static void gaussian_free(Gaussian *g) {
  free(g->mean);
  free(g->factor);
}

static void fill_mean(const FeatureSet *set, double *mean) {
  for (int64_t i = 0; i < set->count; i++)
    for (int64_t j = 0; j < set->length; j++) mean[j] += (double)set->values[i * set->length + j];
  for (int64_t j = 0; j < set->length; j++) mean[j] /= (double)set->count;
}

/* Feature j of sample i, minus its mean, scaled for the unbiased covariance. */
static double centered(const FeatureSet *set, const double *mean, int64_t i, int64_t j) {
  return ((double)set->values[i * set->length + j] - mean[j]) / sqrt((double)set->count - 1);
}

/* With at most as many samples as features, the factor is the samples themselves. */
static Status factor_of_samples(const FeatureSet *set, Gaussian *g, Error *error) {
  Status status = mem_bulk((size_t)(set->count * set->length) * sizeof *g->factor,
                           "features of FID", (void **)&g->factor, error);
  g->rows = set->count;
  for (int64_t i = 0; status == OK && i < set->count; i++)
    for (int64_t j = 0; j < set->length; j++)
      g->factor[i * set->length + j] = centered(set, g->mean, i, j);
  return status;
}

static Status covariance(const FeatureSet *set, const double *mean, int threads, double *out,
                         Error *error) {
  Status status = OK;
  int64_t length = set->length;
  double *chunk = NULL; /* [length,samples] */
  TRY(mem_bulk((size_t)(length * CHUNK) * sizeof *chunk, "features of FID", (void **)&chunk,
               error));
  for (int64_t first = 0; first < set->count; first += CHUNK) {
    int64_t count = set->count - first < CHUNK ? set->count - first : CHUNK;
    for (int64_t j = 0; j < length; j++)
      for (int64_t i = 0; i < count; i++) chunk[j * count + i] = centered(set, mean, first + i, j);
    TRY(matrix_product(chunk, length, chunk, length, count, out, threads, error));
  }
done:
  free(chunk);
  return status;
}

static Status factor_of_covariance(const FeatureSet *set, int threads, Gaussian *g, Error *error) {
  Status status = OK;
  double *matrix = NULL;
  size_t bytes = (size_t)(set->length * set->length) * sizeof *matrix;
  TRY(mem_bulk(bytes, "a covariance of FID", (void **)&matrix, error));
  TRY(mem_bulk(bytes, "a covariance of FID", (void **)&g->factor, error));
  TRY(covariance(set, g->mean, threads, matrix, error));
  g->rows = matrix_factor(matrix, set->length, g->factor, threads);
done:
  free(matrix);
  return status;
}

static Status fit(const FeatureSet *set, int threads, Gaussian *g, Error *error) {
  Status status = OK;
  *g = (Gaussian){.length = set->length, .mean = mem_new((size_t)set->length, sizeof *g->mean)};
  fill_mean(set, g->mean);
  for (int64_t i = 0; i < set->count; i++)
    for (int64_t j = 0; j < set->length; j++) {
      double value = centered(set, g->mean, i, j);
      g->trace += value * value;
    }
  TRY(set->count <= set->length ? factor_of_samples(set, g, error)
                                : factor_of_covariance(set, threads, g, error));
done:
  return status;
}

Status frechet_distance(const FeatureSet *a, const FeatureSet *b, int threads, double *out,
                        Error *error) {
  Status status = OK;
  Gaussian first = {0}, second = {0};
  double *product = NULL, root = 0, means = 0;
  *out = (double)NAN;
  if (a->count < 2 || b->count < 2) return OK;
  TRY(fit(a, threads, &first, error));
  TRY(fit(b, threads, &second, error));
  TRY(mem_bulk((size_t)(first.rows * second.rows) * sizeof *product, "a product of FID",
               (void **)&product, error));
  TRY(matrix_product(first.factor, first.rows, second.factor, second.rows, a->length, product,
                     threads, error));
  TRY(matrix_nuclear_norm(product, first.rows, second.rows, threads, &root, error));
  for (int64_t i = 0; i < a->length; i++)
    means += (first.mean[i] - second.mean[i]) * (first.mean[i] - second.mean[i]);
  *out = means + first.trace + second.trace - 2 * root;
done:
  gaussian_free(&first);
  gaussian_free(&second);
  free(product);
  return status;
}
