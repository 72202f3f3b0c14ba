/* Strided copies of concat and slice: see concat_slice.h. */
#include "engine/cuda/kernels/concat_slice.h"

#include "engine/cuda/kernels/fast_division.h"
#include "engine/cuda/kernels/launch.h"
#include "engine/cuda/kernels/vector.h"

enum { THREADS = 256 };
static const int64_t MAX_BLOCKS = 1 << 16;

/* Divisors of one copy: accesses per row, and the lengths of its levels. */
struct CopyDivisors {
  FastDivisor row, length[CONCAT_SLICE_MAX_LEVELS];
};

struct ConcatSliceParameters {
  ConcatSliceLaunch launch;
  CopyDivisors divisors[CONCAT_SLICE_MAX_COPIES];
};

/* Each row of the grid does one copy. Index: an integer type that counts all accesses of the
 * longest copy. */
template <int BYTES, typename Index>
__global__ void __launch_bounds__(THREADS) concat_slice_kernel(const ConcatSliceParameters p) {
  typedef typename Access<BYTES>::type Unit;
  const ConcatSliceCopy &copy = p.launch.copies[blockIdx.y];
  const CopyDivisors &divisors = p.divisors[blockIdx.y];
  const Index units_per_row = static_cast<Index>(divisors.row.value);
  const Index units = units_per_row * static_cast<Index>(copy.rows);
  const Index step = static_cast<Index>(gridDim.x) * THREADS;
  for (Index unit = static_cast<Index>(blockIdx.x) * THREADS + threadIdx.x; unit < units;
       unit += step) {
    Index row = fast_divide(unit, divisors.row);
    int64_t to = static_cast<int64_t>(unit - row * units_per_row) * BYTES, from = to;
#pragma unroll
    for (int level = 0; level < CONCAT_SLICE_MAX_LEVELS; level++) {
      if (level >= copy.levels) break;
      const Index rest = fast_divide(row, divisors.length[level]);
      const int64_t place =
          static_cast<int64_t>(row - rest * static_cast<Index>(copy.length[level]));
      to += place * copy.to_step[level];
      from += place * copy.from_step[level];
      row = rest;
    }
    *reinterpret_cast<Unit *>(copy.to + to) = *reinterpret_cast<const Unit *>(copy.from + from);
  }
}

/* The widest access in bytes to which the begin and end of every row of every copy are aligned. */
static int widest_access(const ConcatSliceLaunch *p) {
  uint64_t bits = 16;
  for (int i = 0; i < p->count; i++) {
    const ConcatSliceCopy *copy = &p->copies[i];
    bits |= reinterpret_cast<uintptr_t>(copy->to) | reinterpret_cast<uintptr_t>(copy->from) |
            static_cast<uint64_t>(copy->row);
    for (int level = 0; level < copy->levels; level++)
      bits |= static_cast<uint64_t>(copy->to_step[level] | copy->from_step[level]);
  }
  return static_cast<int>(bits & (~bits + 1)); /* the lowest bit */
}

static int64_t longest_copy(const ConcatSliceLaunch *p) {
  int64_t most = 0;
  for (int i = 0; i < p->count; i++) {
    const int64_t bytes = p->copies[i].rows * p->copies[i].row;
    if (bytes > most) most = bytes;
  }
  return most;
}

template <int BYTES>
static Status launch(const ConcatSliceLaunch *p, cudaStream_t stream, Error *error) {
  const int64_t units = longest_copy(p) / BYTES, blocks = (units + THREADS - 1) / THREADS;
  const dim3 grid(static_cast<unsigned>(blocks < MAX_BLOCKS ? blocks : MAX_BLOCKS),
                  static_cast<unsigned>(p->count));
  ConcatSliceParameters copies = {*p, {}};
  for (int i = 0; i < p->count; i++) {
    const ConcatSliceCopy *copy = &p->copies[i];
    copies.divisors[i].row = fast_divisor(copy->row / BYTES);
    for (int level = 0; level < copy->levels; level++)
      copies.divisors[i].length[level] = fast_divisor(copy->length[level]);
  }
  /* An index exceeds the number of accesses by less than a grid. */
  const bool small = units + MAX_BLOCKS * THREADS <= INT32_MAX;
  return cuda_launch(small ? concat_slice_kernel<BYTES, uint32_t>
                           : concat_slice_kernel<BYTES, uint64_t>,
                     grid, THREADS, 0, copies, stream, error);
}

Status launch_concat_slice(const ConcatSliceLaunch *p, cudaStream_t stream, Error *error) {
  switch (widest_access(p)) {
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
