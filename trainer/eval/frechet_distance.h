/* The Frechet distance between normal distributions fitted to two sets of features (FID: Heusel,
 * Ramsauer, Unterthiner, Nessler, Hochreiter: "GANs Trained by a Two Time-Scale Update Rule
 * Converge to a Local Nash Equilibrium", NIPS 2017; Dowson, Landau 1982):
 *
 *   |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2))
 *
 * with means m and unbiased covariances S. With S1 = A^T A and S2 = B^T B, the eigenvalues of S1 S2
 * are the squared singular values of A B^T, so the last trace is the sum of these singular values:
 * no matrix root is computed, and no covariance where there are fewer samples than features. All
 * arithmetic is f64. */
#ifndef CELFORGE_TRAINER_EVAL_FRECHET_DISTANCE_H
#define CELFORGE_TRAINER_EVAL_FRECHET_DISTANCE_H

#include <stdint.h>

#include "base/error.h"

/* A set of features, f32 [count,length]. */
typedef struct FeatureSet {
  int64_t count, length;
  float *values;
} FeatureSet;

/* `*out` is NaN if a set has fewer than two samples. Both sets have the same length. Uses `threads`
 * threads, at least one; the result does not depend on their number. */
Status frechet_distance(const FeatureSet *a, const FeatureSet *b, int threads, double *out,
                        Error *error);

#endif
