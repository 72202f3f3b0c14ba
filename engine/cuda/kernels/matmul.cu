/* Matrix products: see matmul.h. */
#include "engine/cuda/kernels/matmul.h"

#include "engine/cuda/kernels/launch.h"
#include "engine/cuda/kernels/vector.h"

/* Each thread computes PATCH x PATCH elements of the tile, from DEPTH terms at a time. */
enum { TILE = MATMUL_TILE, DEPTH = 16, PATCH = 4, SIDE = TILE / PATCH, THREADS = SIDE * SIDE };
enum { LOADS = TILE * DEPTH / THREADS }; /* elements of an operand that a thread loads at a time */
/* With the padding at most two threads of a warp that store terms of one line share a bank, and
 * rows stay aligned for 16-byte loads. */
enum { STRIDE = TILE + 4 };
enum { BLOCKS = 3 }; /* that are to be resident on a multiprocessor */
static const int64_t MAX_GRID_Z = 65535;

/* The grid: tiles of a result, parts of its sums, results. */
struct MatmulParameters {
  MatmulLaunch matmul;
  unsigned column_tiles; /* tiles along the columns */
};

/* Part of a matrix with TILE lines (rows of op(a), columns of op(b)) and all its terms, of which a
 * thread loads LOADS elements at a time. LINES: neighbouring elements in memory are of neighbouring
 * lines, else of neighbouring terms; neighbouring threads load neighbouring elements. */
template <typename T, bool LINES> struct Panel {
  const T *data;      /* the thread's first element of the next terms */
  const T *first;     /* the operand's first element */
  int64_t step, next; /* from one of its elements to the following one, and to those after */
  int lines_left;     /* lines of the matrix in the tile, from the thread's first one on */
  int64_t terms_left; /* terms to add from its first one on */
  int line, term;     /* of its first element in the tile */
  enum { LINE_STEP = LINES ? 0 : THREADS / DEPTH, TERM_STEP = LINES ? THREADS / TILE : 0 };
};

/* Terms `begin` to `end` - 1 of the lines from `line` on of matrix `index`; in all the matrix has
 * `lines` lines and `terms` terms. */
template <typename T, bool LINES>
__device__ inline Panel<T, LINES> panel_of(const void *data, int64_t index, int64_t line,
                                           int64_t lines, int64_t terms, int64_t begin,
                                           int64_t end) {
  typedef Panel<T, LINES> P;
  P panel;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t line_step = LINES ? 1 : terms, term_step = LINES ? lines : 1;
  panel.line = LINES ? thread % TILE : thread / DEPTH;
  panel.term = LINES ? thread / TILE : thread % DEPTH;
  panel.first = static_cast<const T *>(data);
  panel.data = panel.first + index * lines * terms + (line + panel.line) * line_step +
               (begin + panel.term) * term_step;
  panel.step = P::LINE_STEP * line_step + P::TERM_STEP * term_step;
  panel.next = DEPTH * term_step;
  panel.lines_left =
      (lines - line < TILE ? static_cast<int>(lines - line) : int{TILE}) - panel.line;
  panel.terms_left = end - begin - panel.term;
  return panel;
}

/* The thread's elements of the next DEPTH terms; zeros outside of the matrix. Those read `first`
 * instead: a load without a branch does not wait for others. */
template <typename T, bool LINES>
__device__ inline void load_panel(Panel<T, LINES> &panel, float (&x)[LOADS]) {
  typedef Panel<T, LINES> P;
#pragma unroll
  for (int i = 0; i < LOADS; i++) {
    const bool inside = i * P::LINE_STEP < panel.lines_left && i * P::TERM_STEP < panel.terms_left;
    floats_load<T, 1>(inside ? panel.data + i * panel.step : panel.first, &x[i]);
    x[i] = inside ? x[i] : 0.0f;
  }
  panel.data += panel.next;
  panel.terms_left -= DEPTH;
}

template <typename T, bool LINES>
__device__ inline void store_panel(const Panel<T, LINES> &panel, const float (&x)[LOADS],
                                   float (*tile)[STRIDE]) {
  typedef Panel<T, LINES> P;
#pragma unroll
  for (int i = 0; i < LOADS; i++)
    tile[panel.term + i * P::TERM_STEP][panel.line + i * P::LINE_STEP] = x[i];
}

/* Adds the products of DEPTH terms to the thread's patch at row `r` and column `c` of the tile. */
__device__ inline void add_products(const float (*a)[STRIDE], const float (*b)[STRIDE], int r,
                                    int c, float (*sum)[PATCH]) {
#pragma unroll 4 /* more would load the whole tile into registers */
  for (int k = 0; k < DEPTH; k++) {
    float x[PATCH], y[PATCH];
    floats_load<float, PATCH>(&a[k][r], x);
    floats_load<float, PATCH>(&b[k][c], y);
#pragma unroll
    for (int i = 0; i < PATCH; i++) {
#pragma unroll
      for (int j = 0; j < PATCH; j++) sum[i][j] = fmaf(x[i], y[j], sum[i][j]);
    }
  }
}

__device__ inline void store_patch(const float (*sum)[PATCH], float *y, int64_t row, int64_t column,
                                   int64_t rows, int64_t columns) {
  for (int i = 0; i < PATCH && row + i < rows; i++) {
    for (int j = 0; j < PATCH && column + j < columns; j++)
      y[(row + i) * columns + column + j] = sum[i][j];
  }
}

template <typename T, bool TRANSPOSE_A, bool TRANSPOSE_B>
__global__ void __launch_bounds__(THREADS, BLOCKS) matmul_kernel(const MatmulParameters p) {
  __shared__ __align__(16) float tile_a[DEPTH][STRIDE];
  __shared__ __align__(16) float tile_b[DEPTH][STRIDE];
  const MatmulLaunch &m = p.matmul;
  const int r = static_cast<int>(threadIdx.x) / SIDE * PATCH;
  const int c = static_cast<int>(threadIdx.x) % SIDE * PATCH;
  const int64_t row = static_cast<int64_t>(blockIdx.x / p.column_tiles) * TILE;
  const int64_t column = static_cast<int64_t>(blockIdx.x % p.column_tiles) * TILE;
  const int64_t begin = blockIdx.y * m.part_terms;
  const int64_t end = begin + m.part_terms < m.terms ? begin + m.part_terms : m.terms;
#pragma unroll 1
  for (int64_t index = blockIdx.z; index < m.batch; index += gridDim.z) {
    auto a = panel_of<T, TRANSPOSE_A>(m.a, index, row, m.rows, m.terms, begin, end);
    auto b = panel_of<T, !TRANSPOSE_B>(m.b, index, column, m.columns, m.terms, begin, end);
    float sum[PATCH][PATCH] = {}, next_a[LOADS], next_b[LOADS];
    load_panel(a, next_a);
    load_panel(b, next_b);
#pragma unroll 1
    for (int64_t term = begin; term < end; term += DEPTH) {
      store_panel(a, next_a, tile_a);
      store_panel(b, next_b, tile_b);
      __syncthreads();
      load_panel(a, next_a); /* while the products are computed */
      load_panel(b, next_b);
      add_products(tile_a, tile_b, r, c, sum);
      __syncthreads();
    }
    float *y = m.parts > 1 ? m.partials : m.y;
    y += (index * m.parts + blockIdx.y) * m.rows * m.columns;
    store_patch(sum, y, row + r, column + c, m.rows, m.columns);
  }
}

/* y = the sum of its parts, in order. */
static __global__ void __launch_bounds__(THREADS) matmul_sum_kernel(const MatmulParameters p) {
  const int64_t size = p.matmul.rows * p.matmul.columns;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (i >= size) return;
#pragma unroll 1
  for (int64_t index = blockIdx.z; index < p.matmul.batch; index += gridDim.z) {
    const float *partials = p.matmul.partials + index * p.matmul.parts * size + i;
    float sum = 0.0f;
#pragma unroll 8
    for (int64_t part = 0; part < p.matmul.parts; part++) sum += partials[part * size];
    p.matmul.y[index * size + i] = sum;
  }
}

typedef void MatmulFunction(MatmulParameters);

template <typename T> static MatmulFunction *kernel_of(const MatmulLaunch *p) {
  if (p->transpose_a)
    return p->transpose_b ? matmul_kernel<T, true, true> : matmul_kernel<T, true, false>;
  return p->transpose_b ? matmul_kernel<T, false, true> : matmul_kernel<T, false, false>;
}

static Status too_large(const MatmulLaunch *p, Error *error) {
  return error_set(error, ERROR_INTERNAL, "matmul: %lld results of %lld x %lld do not fit a grid",
                   static_cast<long long>(p->batch), static_cast<long long>(p->rows),
                   static_cast<long long>(p->columns));
}

extern "C" Status launch_matmul(const MatmulLaunch *p, cudaStream_t stream, Error *error) {
  const int64_t row_tiles = (p->rows + TILE - 1) / TILE;
  const int64_t column_tiles = (p->columns + TILE - 1) / TILE;
  const int64_t sum_blocks = (p->rows * p->columns + THREADS - 1) / THREADS;
  if (row_tiles > INT32_MAX / column_tiles || sum_blocks > INT32_MAX) return too_large(p, error);
  const MatmulParameters parameters = {*p, static_cast<unsigned>(column_tiles)};
  const unsigned results = static_cast<unsigned>(p->batch < MAX_GRID_Z ? p->batch : MAX_GRID_Z);
  const dim3 grid(static_cast<unsigned>(row_tiles * column_tiles), static_cast<unsigned>(p->parts),
                  results);
  const Status status = cuda_launch(p->bf16 ? kernel_of<uint16_t>(p) : kernel_of<float>(p), grid,
                                    THREADS, 0, parameters, stream, error);
  if (status != OK || p->parts == 1) return status;
  return cuda_launch(matmul_sum_kernel, dim3(static_cast<unsigned>(sum_blocks), 1, results),
                     THREADS, 0, parameters, stream, error);
}
