#include "trainer/eval/matrix.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/memory.h"

/* --- Product ---------------------------------------------------------------------------------- */

/* Rows and columns of c that are computed at once, so that their sums stay in registers. */
enum { TILE_ROWS = 4, TILE_COLUMNS = 16 };

/* Copies at most `width` rows of x [count,depth] from row `first` on to [depth,width], the rest
 * zeros. */
static void pack(const double *x, int64_t count, int64_t first, int width, int64_t depth,
                 double *out) {
  for (int i = 0; i < width; i++)
    for (int64_t k = 0; k < depth; k++)
      out[k * width + i] = first + i < count ? x[(first + i) * depth + k] : 0;
}

static void tile_sums(const double *a, const double *b, int64_t depth,
                      double sums[TILE_ROWS][TILE_COLUMNS]) {
  memset(sums, 0, sizeof(double[TILE_ROWS][TILE_COLUMNS]));
  for (int64_t k = 0; k < depth; k++, a += TILE_ROWS, b += TILE_COLUMNS)
    for (int i = 0; i < TILE_ROWS; i++)
      for (int j = 0; j < TILE_COLUMNS; j++) sums[i][j] += a[i] * b[j];
}

/* One band of TILE_ROWS rows of c, with b packed in bands of TILE_COLUMNS. */
static void product_band(const double *a, int64_t rows, const double *b, int64_t columns,
                         int64_t depth, int64_t first, double *packed, double *c) {
  double sums[TILE_ROWS][TILE_COLUMNS];
  pack(a, rows, first, TILE_ROWS, depth, packed);
  for (int64_t j = 0; j < columns; j += TILE_COLUMNS) {
    int64_t width = columns - j < TILE_COLUMNS ? columns - j : TILE_COLUMNS;
    int64_t height = rows - first < TILE_ROWS ? rows - first : TILE_ROWS;
    tile_sums(packed, b + j * depth, depth, sums);
    for (int64_t y = 0; y < height; y++)
      for (int64_t x = 0; x < width; x++) c[(first + y) * columns + j + x] += sums[y][x];
  }
}

Status matrix_product(const double *a, int64_t rows, const double *b, int64_t columns,
                      int64_t depth, double *c, int threads, Error *error) {
  Status status = OK;
  double *bands = NULL, *row_bands = NULL;
  int64_t band_count = (columns + TILE_COLUMNS - 1) / TILE_COLUMNS;
  int64_t row_count = (rows + TILE_ROWS - 1) / TILE_ROWS;
  TRY(mem_bulk((size_t)(band_count * TILE_COLUMNS * depth) * sizeof *bands, "a matrix product",
               (void **)&bands, error));
  TRY(mem_bulk((size_t)(row_count * TILE_ROWS * depth) * sizeof *bands, "a matrix product",
               (void **)&row_bands, error));
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t band = 0; band < band_count; band++)
    pack(b, columns, band * TILE_COLUMNS, TILE_COLUMNS, depth, bands + band * TILE_COLUMNS * depth);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t band = 0; band < row_count; band++)
    product_band(a, rows, bands, columns, depth, band * TILE_ROWS,
                 row_bands + band * TILE_ROWS * depth, c);
done:
  free(bands);
  free(row_bands);
  (void)threads; /* unused without OpenMP */
  return status;
}

/* --- Pivoted Cholesky decomposition ----------------------------------------------------------- */

static void swap_rows_and_columns(double *a, int64_t n, int64_t i, int64_t j) {
  for (int64_t k = 0; k < n; k++) {
    double row = a[i * n + k];
    a[i * n + k] = a[j * n + k];
    a[j * n + k] = row;
  }
  for (int64_t k = 0; k < n; k++) {
    double column = a[k * n + i];
    a[k * n + i] = a[k * n + j];
    a[k * n + j] = column;
  }
}

static int64_t largest_pivot(const double *a, int64_t n, int64_t from) {
  int64_t best = from;
  for (int64_t i = from + 1; i < n; i++)
    if (a[i * n + i] > a[best * n + best]) best = i;
  return best;
}

/* Subtracts the outer product of `row`, zero before `from`, from the rows behind it. */
static void eliminate(double *a, int64_t n, int64_t from, const double *row, int threads) {
  (void)threads;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = from + 1; i < n; i++)
    for (int64_t j = from + 1; j < n; j++) a[i * n + j] -= row[i] * row[j];
}

int64_t matrix_factor(double *a, int64_t n, double *factor, int threads) {
  int64_t *order = mem_new((size_t)n, sizeof *order), rank = 0; /* original index of each row */
  double *row = mem_new((size_t)n, sizeof *row), limit = 0;
  for (int64_t i = 0; i < n; i++) order[i] = i;
  for (; rank < n; rank++) {
    int64_t best = largest_pivot(a, n, rank), index = order[best];
    double pivot = a[best * n + best];
    if (rank == 0) limit = pivot * (double)n * DBL_EPSILON;
    if (!(pivot > limit)) break;
    if (best != rank) swap_rows_and_columns(a, n, rank, best);
    order[best] = order[rank];
    order[rank] = index;
    for (int64_t j = rank; j < n; j++) row[j] = a[rank * n + j] / sqrt(pivot);
    eliminate(a, n, rank, row, threads);
    memset(factor + rank * n, 0, (size_t)n * sizeof *factor);
    for (int64_t j = rank; j < n; j++) factor[rank * n + order[j]] = row[j];
  }
  free(order);
  free(row);
  return rank;
}

/* --- Bidiagonalisation ------------------------------------------------------------------------ */

/* Turns x [count], in steps of `stride`, into the Householder vector v with v[0] = 1; returns the
 * factor t of I - t v v^T, which maps x to (*image, 0, ...). */
static double householder(double *x, int64_t count, int64_t stride, double *image) {
  double rest = 0;
  for (int64_t i = 1; i < count; i++) rest += x[i * stride] * x[i * stride];
  double first = x[0];
  *image = first;
  x[0] = 1;
  if (rest == 0) return 0;
  *image = -copysign(sqrt(first * first + rest), first);
  double scale = first - *image;
  for (int64_t i = 1; i < count; i++) x[i * stride] /= scale;
  return (*image - first) / *image;
}

enum { STRIP = 64 }; /* columns that one thread sums at a time */

/* out[j] = sum_i v_i a[i,j] over the rows from `row` and columns from `column` on, v being column
 * `v_column` of a. */
static void column_products(const double *a, int64_t rows, int64_t columns, int64_t row,
                            int64_t column, int64_t v_column, double *out, int threads) {
  (void)threads;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t strip = column; strip < columns; strip += STRIP) {
    int64_t end = strip + STRIP < columns ? strip + STRIP : columns;
    for (int64_t j = strip; j < end; j++) out[j] = 0;
    for (int64_t i = row; i < rows; i++) {
      double v = a[i * columns + v_column];
      for (int64_t j = strip; j < end; j++) out[j] += v * a[i * columns + j];
    }
  }
}

/* x -= scale * y. */
static void subtract(double *x, const double *y, double scale, int64_t count) {
  for (int64_t i = 0; i < count; i++) x[i] -= scale * y[i];
}

static double dot(const double *x, const double *y, int64_t count) {
  enum { LANES = 8 }; /* sums side by side, which the compiler can vectorise */
  double sums[LANES] = {0}, sum = 0;
  int64_t whole = count / LANES * LANES;
  for (int64_t i = 0; i < whole; i += LANES)
    for (int l = 0; l < LANES; l++) sums[l] += x[i + l] * y[i + l];
  for (int l = 0; l < LANES; l++) sum += sums[l];
  for (int64_t i = whole; i < count; i++) sum += x[i] * y[i];
  return sum;
}

/* Step k: zeroes column k below the diagonal, then row k behind the superdiagonal. */
static void bidiagonalize_step(double *a, int64_t rows, int64_t columns, int64_t k, double *work,
                               double *diagonal, double *above, int threads) {
  int64_t next = k + 1;
  double *row = a + k * columns;
  double left = householder(row + k, rows - k, columns, diagonal), right = 0;
  column_products(a, rows, columns, k, next, k, work, threads);
  subtract(row + next, work + next, left, columns - next);
  if (next < columns) right = householder(row + next, columns - next, 1, above);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = next; i < rows; i++) {
    double *x = a + i * columns;
    subtract(x + next, work + next, left * x[k], columns - next);
    subtract(x + next, row + next, right * dot(x + next, row + next, columns - next),
             columns - next);
  }
  (void)threads;
}

/* --- Eigenvalues of a tridiagonal matrix ------------------------------------------------------ */

/* One QR step with Wilkinson's shift on rows low to high; d the diagonal, e beside it. */
static void qr_step(double *d, double *e, int64_t low, int64_t high) {
  double half = (d[high - 1] - d[high]) / 2, side = e[high - 1];
  double shift = d[high] - side * side / (half + copysign(hypot(half, side), half));
  double x = d[low] - shift, z = e[low];
  for (int64_t k = low; k < high; k++) {
    double r = hypot(x, z), c = r > 0 ? x / r : 1, s = r > 0 ? z / r : 0;
    double first = d[k], second = d[k + 1], beside = e[k];
    if (k > low) e[k - 1] = r;
    d[k] = c * c * first + 2 * c * s * beside + s * s * second;
    d[k + 1] = s * s * first - 2 * c * s * beside + c * c * second;
    e[k] = c * s * (second - first) + (c * c - s * s) * beside;
    if (k + 1 == high) continue;
    x = e[k];
    z = s * e[k + 1];
    e[k + 1] *= c;
  }
}

/* Replaces d by the eigenvalues. Neighbours below `small` count as zero. */
static bool tridiagonal_eigenvalues(double *d, double *e, int64_t n, double small) {
  enum { STEPS_PER_VALUE = 60 };
  int64_t high = n - 1, left = STEPS_PER_VALUE * n;
  while (high > 0) {
    int64_t low = high;
    while (low > 0 && fabs(e[low - 1]) > small) low--;
    if (low == high) {
      high--;
      continue;
    }
    if (left-- == 0) return false;
    qr_step(d, e, low, high);
  }
  return true;
}

/* The singular values of a bidiagonal matrix are the positive eigenvalues of a tridiagonal one of
 * twice the size: zeros on the diagonal, beside it the diagonal and the superdiagonal in turn. */
static Status bidiagonal_norm(const double *diagonal, const double *above, int64_t n, double *out,
                              Error *error) {
  Status status = OK;
  double *d = NULL, *e = NULL, largest = 0;
  bool finite = true;
  *out = 0;
  TRY(mem_bulk(2 * (size_t)n * sizeof *d, "singular values", (void **)&d, error));
  TRY(mem_bulk(2 * (size_t)n * sizeof *e, "singular values", (void **)&e, error));
  for (int64_t i = 0; i < n; i++) {
    e[2 * i] = diagonal[i];
    if (i + 1 < n) e[2 * i + 1] = above[i];
    largest = fmax(largest, fmax(fabs(e[2 * i]), fabs(e[2 * i + 1])));
    finite = finite && isfinite(e[2 * i]) && isfinite(e[2 * i + 1]);
  }
  if (!finite || !tridiagonal_eigenvalues(d, e, 2 * n, largest * DBL_EPSILON / 2))
    FAIL(error, ERROR_INTERNAL, "the singular values of a matrix of %lld rows do not converge",
         (long long)n);
  for (int64_t i = 0; i < 2 * n; i++) *out += fabs(d[i]) / 2;
done:
  free(d);
  free(e);
  return status;
}

/* The transpose of a [rows,columns], newly allocated. */
static Status transpose(const double *a, int64_t rows, int64_t columns, double **out,
                        Error *error) {
  Status status =
      mem_bulk((size_t)(rows * columns) * sizeof *a, "a transposed matrix", (void **)out, error);
  for (int64_t i = 0; status == OK && i < rows; i++)
    for (int64_t j = 0; j < columns; j++) (*out)[j * rows + i] = a[i * columns + j];
  return status;
}

Status matrix_nuclear_norm(double *a, int64_t rows, int64_t columns, int threads, double *out,
                           Error *error) {
  Status status = OK;
  double *turned = NULL, *diagonal = NULL, *above = NULL, *work = NULL;
  if (rows < columns) {
    TRY(transpose(a, rows, columns, &turned, error));
    int64_t longer = columns;
    columns = rows;
    rows = longer;
    a = turned;
  }
  diagonal = mem_new((size_t)columns + 1, sizeof *diagonal);
  above = mem_new((size_t)columns + 1, sizeof *above);
  work = mem_new((size_t)columns + 1, sizeof *work);
  for (int64_t k = 0; k < columns; k++)
    bidiagonalize_step(a, rows, columns, k, work, &diagonal[k], &above[k], threads);
  TRY(bidiagonal_norm(diagonal, above, columns, out, error));
done:
  free(turned);
  free(diagonal);
  free(above);
  free(work);
  return status;
}
