#include "engine/cuda/kernels/concat_slice.h"

#include "engine/cuda/kernels/fast_division.h"
#include "engine/cuda/kernels/launch.h"
#include "engine/cuda/kernels/vector.h"

enum { THREADS = 256 };
static const int64_t MOST_BLOCKS = 1 << 16;

/* What a copy divides by: the accesses of a row, and the lengths of its levels. */
struct CopyDivisors {
  Divisor row, length[MOVEMENT_MOST_LEVELS];
};

struct CopiesLaunch {
  MovementLaunch movement;
  CopyDivisors divisors[MOVEMENT_MOST_COPIES];
};

/* A copy for each row of the grid; Index holds the number of accesses of the longest. */
template <int BYTES, typename Index>
__global__ void __launch_bounds__(THREADS) movement_kernel(const CopiesLaunch p) {
  typedef typename Access<BYTES>::type Unit;
  const RowsCopy &copy = p.movement.copies[blockIdx.y];
  const CopyDivisors &divisors = p.divisors[blockIdx.y];
  const Index of_row = static_cast<Index>(divisors.row.value);
  const Index units = of_row * static_cast<Index>(copy.rows);
  const Index step = static_cast<Index>(gridDim.x) * THREADS;
  for (Index unit = static_cast<Index>(blockIdx.x) * THREADS + threadIdx.x; unit < units;
       unit += step) {
    Index row = quotient(unit, divisors.row);
    int64_t to = static_cast<int64_t>(unit - row * of_row) * BYTES, from = to;
#pragma unroll
    for (int level = 0; level < MOVEMENT_MOST_LEVELS; level++) {
      if (level >= copy.levels) break;
      const Index rest = quotient(row, divisors.length[level]);
      const int64_t place =
          static_cast<int64_t>(row - rest * static_cast<Index>(copy.length[level]));
      to += place * copy.to_step[level];
      from += place * copy.from_step[level];
      row = rest;
    }
    *reinterpret_cast<Unit *>(copy.to + to) = *reinterpret_cast<const Unit *>(copy.from + from);
  }
}

/* The widest access at which every row of every copy begins and ends. */
static int access_of(const MovementLaunch *p) {
  uint64_t together = 16;
  for (int i = 0; i < p->count; i++) {
    const RowsCopy *copy = &p->copies[i];
    together |= reinterpret_cast<uintptr_t>(copy->to) | reinterpret_cast<uintptr_t>(copy->from) |
                static_cast<uint64_t>(copy->row);
    for (int level = 0; level < copy->levels; level++)
      together |= static_cast<uint64_t>(copy->to_step[level] | copy->from_step[level]);
  }
  return static_cast<int>(together & (~together + 1)); /* the lowest bit */
}

static int64_t most_bytes(const MovementLaunch *p) {
  int64_t most = 0;
  for (int i = 0; i < p->count; i++) {
    const int64_t bytes = p->copies[i].rows * p->copies[i].row;
    if (bytes > most) most = bytes;
  }
  return most;
}

template <int BYTES>
static Status launch(const MovementLaunch *p, cudaStream_t stream, Error *error) {
  const int64_t units = most_bytes(p) / BYTES, blocks = (units + THREADS - 1) / THREADS;
  const dim3 grid(static_cast<unsigned>(blocks < MOST_BLOCKS ? blocks : MOST_BLOCKS),
                  static_cast<unsigned>(p->count));
  CopiesLaunch copies = {*p, {}};
  for (int i = 0; i < p->count; i++) {
    const RowsCopy *copy = &p->copies[i];
    copies.divisors[i].row = divisor_of(copy->row / BYTES);
    for (int level = 0; level < copy->levels; level++)
      copies.divisors[i].length[level] = divisor_of(copy->length[level]);
  }
  /* The index steps over the end by less than a grid. */
  const bool small = units + MOST_BLOCKS * THREADS <= INT32_MAX;
  return cuda_launch(small ? movement_kernel<BYTES, uint32_t> : movement_kernel<BYTES, uint64_t>,
                     grid, THREADS, 0, copies, stream, error);
}

Status launch_movement(const MovementLaunch *p, cudaStream_t stream, Error *error) {
  switch (access_of(p)) {
  case 16:
    return launch<16>(p, stream, error);
  case 8:
    return launch<8>(p, stream, error);
  case 4:
    return launch<4>(p, stream, error);
  case 2:
    return launch<2>(p, stream, error);
  default:
    return launch<1>(p, stream, error);
  }
}
