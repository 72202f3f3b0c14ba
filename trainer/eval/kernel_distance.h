/* The kernel inception distance (KID: Binkowski, Sutherland, Arbel, Gretton: "Demystifying MMD
 * GANs", ICLR 2018): the squared maximum mean discrepancy between two sets of features of length d
 * with the kernel k(x, y) = (x . y / d + 1)^3, unbiased,
 *
 *   mean of k(x_i, x_j), i != j  +  mean of k(y_i, y_j), i != j  -  2 mean of k(x_i, y_j)
 *
 * averaged over KID_SUBSETS pairs of random subsets of m samples, m the size of the smaller set, at
 * most KID_SUBSET_SIZE. It can be negative. Subsets are drawn without repetition, with Philox
 * numbers of a fixed seed. Instead of the kernel of each subset, that of each pair of samples is
 * computed once and weighted with the number of subsets that hold both. f64. */
#ifndef CELFORGE_TRAINER_EVAL_KERNEL_DISTANCE_H
#define CELFORGE_TRAINER_EVAL_KERNEL_DISTANCE_H

#include "trainer/eval/frechet_distance.h"

enum { KID_SUBSETS = 100, KID_SUBSET_SIZE = 1000 };

/* With subsets of at most `subset_size` samples (eval: KID_SUBSET_SIZE). `*out` is NaN if m is
 * below
 * 2. Uses `threads` threads, at least one; the result does not depend on their number. */
Status kernel_distance(const FeatureSet *x, const FeatureSet *y, int64_t subset_size, int threads,
                       double *out, Error *error);

#endif
