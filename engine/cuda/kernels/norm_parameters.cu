/* dgain and dbias of all norms: sums over the rows of partials. */
#include "engine/cuda/kernels/launch.h"
#include "engine/cuda/kernels/norm.h"

enum { COLUMNS = 32, ROWS = 32 };

struct DgainDbiasParameters {
  const float *partials; /* [rows][2, C] */
  int64_t rows, channels;
  float *dgain, *dbias;
};

/* A block sums 32 columns, each by 32 threads whose sums are added in order. */
__global__ void __launch_bounds__(COLUMNS *ROWS)
    norm_parameter_gradients_kernel(const DgainDbiasParameters p) {
  __shared__ float sums[ROWS][COLUMNS + 1];
  const int lane = static_cast<int>(threadIdx.x) % COLUMNS;
  const int first = static_cast<int>(threadIdx.x) / COLUMNS;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * COLUMNS + lane;
  float sum = 0.0f;
  if (column < 2 * p.channels) {
#pragma unroll 8
    for (int64_t row = first; row < p.rows; row += ROWS)
      sum += p.partials[row * 2 * p.channels + column];
  }
  sums[first][lane] = sum;
  __syncthreads();
  if (first > 0 || column >= 2 * p.channels) return;
  for (int row = 1; row < ROWS; row++) sum += sums[row][lane];
  float *target = column < p.channels ? p.dgain : p.dbias;
  if (target) target[column < p.channels ? column : column - p.channels] = sum;
}

Status launch_norm_parameter_gradients(const NormLaunch *p, int64_t rows, cudaStream_t stream,
                                       Error *error) {
  const DgainDbiasParameters parameters = {p->partials, rows, p->channels, p->dgain, p->dbias};
  const int64_t blocks = (2 * p->channels + COLUMNS - 1) / COLUMNS;
  return cuda_launch(norm_parameter_gradients_kernel, dim3(static_cast<unsigned>(blocks)),
                     COLUMNS * ROWS, 0, parameters, stream, error);
}
