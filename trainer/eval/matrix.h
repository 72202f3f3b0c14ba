/* Products and singular values of matrices in f64, row-major. Results do not depend on the number
 * of threads. */
#ifndef CELFORGE_TRAINER_EVAL_MATRIX_H
#define CELFORGE_TRAINER_EVAL_MATRIX_H

#include <stdint.h>

#include "base/error.h"

/* c += a b^T: a [rows,depth], b [columns,depth], c [rows,columns]. ERROR_INTERNAL if memory is
 * short. */
Status matrix_product(const double *a, int64_t rows, const double *b, int64_t columns,
                      int64_t depth, double *c, int threads, Error *error);

/* The sum of the singular values of a [rows,columns], its nuclear norm. Destroys a. Householder
 * bidiagonalisation (Golub, Kahan 1965), then QR iterations with Wilkinson's shift (Golub, Van
 * Loan, "Matrix Computations", 8.3 and 8.6). Errors are of the order of 2^-53 * columns * norm: the
 * values are not squared. ERROR_INTERNAL if memory is short or the iteration does not converge
 * (numbers that are not finite). */
Status matrix_nuclear_norm(double *a, int64_t rows, int64_t columns, int threads, double *out,
                           Error *error);

/* Cholesky decomposition with diagonal pivoting of a symmetric, positive semidefinite a [n,n]:
 * `factor` [rank,n] with factor^T factor = a, up to rounding. Returns the rank, at which the
 * largest remaining pivot is below 2^-52 * n times the first. Destroys a. */
int64_t matrix_factor(double *a, int64_t n, double *factor, int threads);

#endif
