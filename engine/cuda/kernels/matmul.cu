/* Matrix products: see matmul.h. */
#include "engine/cuda/kernels/matmul.h"

#include "engine/cuda/kernels/launch.h"
#include "engine/cuda/kernels/vector.h"

/* Each thread computes PATCH x PATCH elements of the tile, from DEPTH terms at a time. */
enum { TILE = MATMUL_TILE, DEPTH = 16, PATCH = 4, SIDE = TILE / PATCH, THREADS = SIDE * SIDE };
/* With the padding at most two threads of a warp that store terms of one line share a bank, and
 * rows stay aligned for 16-byte loads. */
enum { STRIDE = TILE + 4 };
static const int64_t MAX_GRID_Z = 65535;

struct MatmulParameters {
  MatmulLaunch matmul;
  int64_t column_tiles, jobs; /* tiles along the columns; products, times their parts */
};

/* Part of a matrix with TILE lines (rows of op(a), columns of op(b)) and all its terms. */
struct Panel {
  const void *data;
  int64_t lines, end;           /* lines from the first one on; the first term not read */
  int64_t line_step, term_step; /* elements; one of them is 1 */
};

/* Stores DEPTH terms of the panel, beginning with `term`, as tile[term][line], zeros outside.
 * Neighbouring threads read neighbouring elements. */
template <typename T>
__device__ inline void load_panel(const Panel &panel, int64_t term, float (*tile)[STRIDE]) {
  const bool along_lines = panel.line_step == 1;
#pragma unroll
  for (int i = 0; i < TILE * DEPTH / THREADS; i++) {
    const int e = static_cast<int>(threadIdx.x) + i * THREADS;
    const int line = along_lines ? e % TILE : e / DEPTH, k = along_lines ? e / TILE : e % DEPTH;
    float x = 0.0f;
    if (line < panel.lines && term + k < panel.end)
      floats_load<T, 1>(static_cast<const T *>(panel.data) + line * panel.line_step +
                            (term + k) * panel.term_step,
                        &x);
    tile[k][line] = x;
  }
}

/* Adds the products of DEPTH terms to the thread's patch at row `r` and column `c` of the tile. */
__device__ inline void add_products(const float (*a)[STRIDE], const float (*b)[STRIDE], int r,
                                    int c, float (*sum)[PATCH]) {
#pragma unroll
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

/* Lines from `first` on of matrix `index` of an operand with `lines` lines in all. */
template <typename T>
__device__ inline Panel panel_of(const void *data, int64_t index, int64_t first, int64_t lines,
                                 int64_t terms, int64_t end, bool terms_adjacent) {
  Panel panel;
  panel.line_step = terms_adjacent ? terms : 1;
  panel.term_step = terms_adjacent ? 1 : lines;
  panel.data = static_cast<const T *>(data) + index * lines * terms + first * panel.line_step;
  panel.lines = lines - first;
  panel.end = end;
  return panel;
}

template <typename T>
__global__ void __launch_bounds__(THREADS) matmul_kernel(const MatmulParameters p) {
  __shared__ __align__(16) float tile_a[DEPTH][STRIDE];
  __shared__ __align__(16) float tile_b[DEPTH][STRIDE];
  const MatmulLaunch &m = p.matmul;
  const int r = static_cast<int>(threadIdx.x) / SIDE * PATCH;
  const int c = static_cast<int>(threadIdx.x) % SIDE * PATCH;
  const int64_t row = blockIdx.x / p.column_tiles * TILE;
  const int64_t column = blockIdx.x % p.column_tiles * TILE;
#pragma unroll 1
  for (int64_t job = blockIdx.z; job < p.jobs; job += gridDim.z) {
    const int64_t index = job / m.parts, first = job % m.parts * m.part_terms;
    const int64_t end = first + m.part_terms < m.terms ? first + m.part_terms : m.terms;
    const Panel a = panel_of<T>(m.a, index, row, m.rows, m.terms, end, !m.transpose_a);
    const Panel b = panel_of<T>(m.b, index, column, m.columns, m.terms, end, m.transpose_b);
    float sum[PATCH][PATCH] = {};
    for (int64_t term = first; term < end; term += DEPTH) {
      load_panel<T>(a, term, tile_a);
      load_panel<T>(b, term, tile_b);
      __syncthreads();
      add_products(tile_a, tile_b, r, c, sum);
      __syncthreads();
    }
    float *y = (m.parts > 1 ? m.partials : m.y) + job * m.rows * m.columns;
    store_patch(sum, y, row + r, column + c, m.rows, m.columns);
  }
}

/* y = the sum of its parts, in order. */
static __global__ void __launch_bounds__(THREADS) matmul_sum_kernel(const MatmulParameters p) {
  const int64_t size = p.matmul.rows * p.matmul.columns;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (i >= p.matmul.batch * size) return;
  const float *partials = p.matmul.partials + i / size * p.matmul.parts * size + i % size;
  float sum = 0.0f;
  for (int64_t part = 0; part < p.matmul.parts; part++) sum += partials[part * size];
  p.matmul.y[i] = sum;
}

static Status too_large(const MatmulLaunch *p, Error *error) {
  return error_set(error, ERROR_INTERNAL, "matmul: %lld results of %lld x %lld do not fit a grid",
                   static_cast<long long>(p->batch), static_cast<long long>(p->rows),
                   static_cast<long long>(p->columns));
}

extern "C" Status launch_matmul(const MatmulLaunch *p, cudaStream_t stream, Error *error) {
  const int64_t row_tiles = (p->rows + TILE - 1) / TILE;
  const int64_t column_tiles = (p->columns + TILE - 1) / TILE, jobs = p->batch * p->parts;
  const int64_t sum_blocks = (p->batch * p->rows * p->columns + THREADS - 1) / THREADS;
  if (row_tiles > INT32_MAX / column_tiles || sum_blocks > INT32_MAX) return too_large(p, error);
  const MatmulParameters parameters = {*p, column_tiles, jobs};
  const dim3 grid(static_cast<unsigned>(row_tiles * column_tiles), 1,
                  static_cast<unsigned>(jobs < MAX_GRID_Z ? jobs : MAX_GRID_Z));
  const Status status = cuda_launch(p->bf16 ? matmul_kernel<uint16_t> : matmul_kernel<float>, grid,
                                    THREADS, 0, parameters, stream, error);
  if (status != OK || p->parts == 1) return status;
  return cuda_launch(matmul_sum_kernel, dim3(static_cast<unsigned>(sum_blocks)), THREADS, 0,
                     parameters, stream, error);
}
