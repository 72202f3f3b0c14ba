/* The parts of generated kernels that do not depend on the program. */
#include "engine/cuda/codegen/templates.h"

#include "engine/cuda/codegen/generate.h"

/* The code as text, on one line. clang-format cannot format functions in macro arguments. */
#define CODE(...) #__VA_ARGS__
/* clang-format off */

const char template_macros[] =
    "#if defined(__CUDACC__)\n"
    "#define UNROLL _Pragma(\"unroll\")\n"
    "#define UNROLL_4 _Pragma(\"unroll 4\")\n"
    "#else\n"
    "#define UNROLL\n"
    "#define UNROLL_4\n"
    "#endif\n"
    "#define DEVICE static __device__ __forceinline__\n"
    /* Converts two floats to bf16, rounded to nearest even; NaN stays NaN. */
    "DEVICE unsigned pack(float low, float high) {\n"
    "#if defined(__CUDA_ARCH__)\n"
    "  unsigned both;\n"
    "  asm(\"cvt.rn.bf16x2.f32 %0, %1, %2;\" : \"=r\"(both) : \"f\"(high), \"f\"(low));\n"
    "  return both;\n"
    "#else\n"
    "  unsigned result = 0;\n"
    "  for (int k = 0; k < 2; k++) {\n"
    "    const unsigned bits = __float_as_uint(k ? high : low), top = bits >> 16;\n"
    "    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;\n"
    "    result |= (nan ? top | 0x40u : (bits + 0x7fffu + (top & 1u)) >> 16) << 16 * k;\n"
    "  }\n"
    "  return result;\n"
    "#endif\n"
    "}\n";

const char template_functions[] = CODE(
    struct Bf16 { unsigned short bits; };

    DEVICE float to_float(float x) {
      return x;
    }
    DEVICE float to_float(unsigned char x) {
      return (float)x;
    }
    DEVICE float to_float(Bf16 x) {
      return __uint_as_float((unsigned)x.bits << 16);
    }
    DEVICE void from_float(float x, float &to) {
      to = x;
    }
    DEVICE void from_float(float x, Bf16 &to) {
      to.bits = (unsigned short)pack(x, 0.0f);
    }

    /* Loads and stores of VECTOR elements in accesses of 16 bytes (8 for u8). */
    DEVICE void load_wide(const float *from, float *to) {
      UNROLL for (int k = 0; k < VECTOR / 4; k++) {
        const float4 x = ((const float4 *)from)[k];
        to[4 * k] = x.x;
        to[4 * k + 1] = x.y;
        to[4 * k + 2] = x.z;
        to[4 * k + 3] = x.w;
      }
    }
    DEVICE void unpack_bf16(unsigned both, float *to) {
      to[0] = __uint_as_float(both << 16);
      to[1] = __uint_as_float(both & 0xffff0000u);
    }
    DEVICE void load_wide(const Bf16 *from, float *to) {
      UNROLL for (int k = 0; k < VECTOR / 8; k++) {
        const uint4 x = ((const uint4 *)from)[k];
        unpack_bf16(x.x, to + 8 * k);
        unpack_bf16(x.y, to + 8 * k + 2);
        unpack_bf16(x.z, to + 8 * k + 4);
        unpack_bf16(x.w, to + 8 * k + 6);
      }
    }
    DEVICE void load_wide(const unsigned char *from, float *to) {
      UNROLL for (int k = 0; k < VECTOR / 8; k++) {
        const uint2 x = ((const uint2 *)from)[k];
        UNROLL for (int j = 0; j < 4; j++) {
          to[8 * k + j] = (float)(x.x >> 8 * j & 0xffu);
          to[8 * k + 4 + j] = (float)(x.y >> 8 * j & 0xffu);
        }
      }
    }
    DEVICE void store_wide(float *to, const float *from) {
      UNROLL for (int k = 0; k < VECTOR / 4; k++) {
        ((float4 *)to)[k] =
            make_float4(from[4 * k], from[4 * k + 1], from[4 * k + 2], from[4 * k + 3]);
      }
    }
    DEVICE void store_wide(Bf16 *to, const float *from) {
      UNROLL for (int k = 0; k < VECTOR / 8; k++) {
        ((uint4 *)to)[k] = make_uint4(
            pack(from[8 * k], from[8 * k + 1]), pack(from[8 * k + 2], from[8 * k + 3]),
            pack(from[8 * k + 4], from[8 * k + 5]), pack(from[8 * k + 6], from[8 * k + 7]));
      }
    }

    template <typename T>
    DEVICE void load(const T *from, int n, bool vectorized, float (&to)[VECTOR]) {
      if (vectorized) {
        load_wide(from, to);
      } else {
        UNROLL for (int j = 0; j < VECTOR; j++) to[j] = j < n ? to_float(from[j]) : 0.0f;
      }
    }
    template <typename T>
    DEVICE void store(T *to, int n, bool vectorized, const float (&from)[VECTOR]) {
      if (vectorized) {
        store_wide(to, from);
      } else {
        UNROLL for (int j = 0; j < VECTOR; j++) if (j < n) from_float(from[j], to[j]);
      }
    }

    /* --- Pointwise instructions: registers a and b, constants p and q --- */
    DEVICE float pw_constant(float, float, float p, float) {
      return p;
    }
    DEVICE float pw_copy(float a, float, float, float) {
      return a;
    }
    DEVICE float pw_add(float a, float b, float, float) {
      return a + b;
    }
    DEVICE float pw_sub(float a, float b, float, float) {
      return a - b;
    }
    DEVICE float pw_mul(float a, float b, float, float) {
      return a * b;
    }
    DEVICE float pw_div(float a, float b, float, float) {
      return a / b;
    }
    DEVICE float pw_affine(float a, float, float p, float q) {
      return fmaf(p, a, q);
    }
    DEVICE float pw_leaky_step(float a, float, float p, float) {
      return a > 0.0f ? 1.0f : p;
    }
    DEVICE float pw_leaky_relu(float a, float, float p, float) {
      return a > 0.0f ? a : p * a;
    }
    DEVICE float pw_tanh(float a, float, float, float) {
      return tanhf(a);
    }
    /* Computed from e^-|a|, which cannot overflow. */
    DEVICE float pw_sigmoid(float a, float, float, float) {
      const float z = expf(-fabsf(a));
      return (a < 0.0f ? z : 1.0f) / (1.0f + z);
    }
    DEVICE float pw_softplus(float a, float, float, float) {
      return (a < 0.0f ? 0.0f : a) + log1pf(expf(-fabsf(a)));
    }
    DEVICE float pw_abs(float a, float, float, float) {
      return fabsf(a);
    }
    DEVICE float pw_sign(float a, float, float, float) {
      return a > 0.0f ? 1.0f : a < 0.0f ? -1.0f : 0.0f;
    }
    DEVICE float pw_sqrt(float a, float, float, float) {
      return sqrtf(a);
    }
    DEVICE float pw_safe_reciprocal(float a, float, float, float) {
      return a == 0.0f ? 0.0f : 1.0f / a;
    }
    DEVICE float pw_clamp(float a, float, float p, float q) {
      const float raised = a < p ? p : a;
      return raised > q ? q : raised;
    }
    DEVICE float pw_clamp_step(float a, float, float p, float q) {
      return p < a && a < q ? 1.0f : 0.0f;
    }
    DEVICE float pw_exp(float a, float, float, float) {
      return expf(a);
    }
    DEVICE float pw_log(float a, float, float, float) {
      return logf(a);
    }
    DEVICE float pw_round_bf16(float a, float, float, float) {
      return __uint_as_float(pack(a, 0.0f) << 16);
    });

const char template_divide_32[] = CODE(
    DEVICE Index divide(Index n, const FastDivisor &d) {
      return (Index)((unsigned long long)n * d.multiplier >> d.shift);
    });

const char template_divide_64[] = CODE(
    DEVICE Index divide(Index n, const FastDivisor &d) {
      return n / (Index)d.value;
    });

/* A string: CODE cannot hold an unclosed brace. */
const char template_pointwise_begin[] =
    "DEVICE void compute(const ProgramLaunch &p, const Index first, const int n, const bool vectorized) {";

/* Two calls of compute, so that vectorized loads of several inputs have no branch between them, at
 * which each load would wait for the one before. */
const char template_pointwise_end[] =
    "}\n"
    "extern \"C\" __global__ void __launch_bounds__(THREADS) pointwise(const ProgramLaunch p) {\n"
    "  const Index first = ((Index)blockIdx.x * THREADS + threadIdx.x) * VECTOR;\n"
    "  const Index count = (Index)p.count;\n"
    "  if (first >= count) return;\n"
    "  if (p.vectorized && count - first >= (Index)VECTOR) {\n"
    "    compute(p, first, VECTOR, true);\n"
    "  } else {\n"
    "    compute(p, first, count - first < (Index)VECTOR ? (int)(count - first) : VECTOR, false);\n"
    "  }\n"
    "}";

/* Sums over up to 16 elements are f32, longer ones double, so that long sums lose no precision. */
const char template_sums[] = CODE(
    DEVICE void finish(const ProgramLaunch &p, long long index, double total) {
      if (p.partials) {
        p.partials[index] = total;
      } else {
        ((float *)p.outputs[0])[index] = (float)(total * (double)p.scale);
      }
    }
    DEVICE int at_most_vector(long long left) {
      return left < VECTOR ? (int)left : VECTOR;
    }
    /* Adds elements [i, i + n) to `sum`, n at most VECTOR. */
    DEVICE void add_vector(const ProgramLaunch &p, long long i, int n, bool vectorized,
                          float (&sum)[VECTOR]) {
      float value[VECTOR];
      evaluate(p, (Index)i, n, vectorized, value);
      UNROLL for (int j = 0; j < VECTOR; j++) sum[j] += j < n ? value[j] : 0.0f;
    }
    /* Adds elements [i, i + most), [i + step, i + step + most), ... below `end` to `total`. */
    DEVICE void add_up(const ProgramLaunch &p, long long i, long long end, long long step, int most,
                       double (&total)[VECTOR]) {
      const bool vectorized = p.vectorized && most == VECTOR;
      while (i < end) {
        float sum[VECTOR];
        UNROLL for (int j = 0; j < VECTOR; j++) sum[j] = 0.0f;
        if (vectorized && i + 15 * step + VECTOR <= end) {
          UNROLL_4 for (int k = 0; k < 16; k++) add_vector(p, i + k * step, VECTOR, true, sum);
          i += 16 * step;
        } else {
          for (int k = 0; k < 16 && i < end; k++, i += step) {
            add_vector(p, i, end - i < most ? (int)(end - i) : most, false, sum);
          }
        }
        UNROLL for (int j = 0; j < VECTOR; j++) total[j] += (double)sum[j];
      }
    }
    /* The sum over each `group` neighbouring threads, in the first thread of the group. */
    DEVICE double group_sum(double total, int group) {
      __shared__ double sums[THREADS];
      const int lane = (int)threadIdx.x & (group - 1);
      sums[threadIdx.x] = total;
      for (int half = group / 2; half > 0; half /= 2) {
        __syncthreads();
        if (lane < half) sums[threadIdx.x] += sums[(int)threadIdx.x + half];
      }
      return sums[threadIdx.x];
    });

static const char rows[] = CODE(
    DEVICE double row_sum(const ProgramLaunch &p, long long i, int n, bool vectorized) {
      float sum[VECTOR];
      UNROLL for (int j = 0; j < VECTOR; j++) sum[j] = 0.0f;
      add_vector(p, i, n, vectorized, sum);
      float total = 0.0f;
      UNROLL for (int j = 0; j < VECTOR; j++) total += sum[j];
      return (double)total;
    }
    extern "C" __global__ void __launch_bounds__(THREADS) reduce_rows(const ProgramLaunch p) {
      const int lane = (int)threadIdx.x & (p.group - 1);
      const long long job =
          (long long)blockIdx.x * (THREADS / p.group) + (int)threadIdx.x / p.group;
      double total = 0.0;
      if (job < p.jobs) {
        const long long row = job / p.chunks;
        const long long left = p.reduced - job % p.chunks * p.chunk_length;
        const long long begin = (row + 1) * p.reduced - left;
        const long long end = begin + (left < p.chunk_length ? left : p.chunk_length);
        const int step = p.group * VECTOR;
        long long i = begin + (long long)lane * VECTOR;
        if (p.vectorized) {
          UNROLL_4 for (; i + VECTOR <= end; i += step) total += row_sum(p, i, VECTOR, true);
        }
        for (; i < end; i += step) total += row_sum(p, i, at_most_vector(end - i), false);
      }
      total = group_sum(total, p.group);
      if (lane == 0 && job < p.jobs) finish(p, job, total);
    });

/* A step of a block covers whole rows, so that a thread's element j always has the same lane. */
static const char periodic[] = CODE(
    extern "C" __global__ void __launch_bounds__(THREADS) reduce_periodic(const ProgramLaunch p) {
      __shared__ double sums[THREADS * VECTOR];
      const int t = (int)threadIdx.x;
      const int lanes = (int)p.lanes;
      const int step = p.active * VECTOR;
      const long long kept = (long long)blockIdx.x / p.chunks;
      const long long chunk = (long long)blockIdx.x % p.chunks;
      const long long left = p.reduced * p.lanes - chunk * p.chunk_length;
      const long long begin = (kept + 1) * p.reduced * p.lanes - left;
      const long long end = begin + (left < p.chunk_length ? left : p.chunk_length);
      double total[VECTOR];
      UNROLL for (int j = 0; j < VECTOR; j++) total[j] = 0.0;
      if (t < p.active) add_up(p, begin + (long long)t * VECTOR, end, step, VECTOR, total);
      UNROLL for (int j = 0; j < VECTOR; j++) sums[t * VECTOR + j] = total[j];
      __syncthreads();
      /* sums is now a matrix [step / lanes][lanes]; every thread adds some of its rows. */
      const int parts = lanes < THREADS ? THREADS / lanes : 1;
      for (int e = t; e < parts * lanes; e += THREADS) {
        double sum = 0.0;
        for (int k = e; k < step; k += parts * lanes) sum += sums[k];
        sums[e] = sum;
      }
      __syncthreads();
      for (int lane = t; lane < lanes; lane += THREADS) {
        double sum = 0.0;
        for (int k = lane; k < parts * lanes && k < step; k += lanes) sum += sums[k];
        finish(p, chunk * p.sums + kept * lanes + lane, sum);
      }
    });

static const char blocked[] = CODE(
    extern "C" __global__ void __launch_bounds__(THREADS) reduce_blocked(const ProgramLaunch p) {
      const long long block = (long long)blockIdx.x % p.lane_blocks;
      const long long job = (long long)blockIdx.x / p.lane_blocks;
      const long long kept = job / p.chunks;
      const long long chunk = job % p.chunks;
      const long long lane = (block * THREADS + threadIdx.x) * VECTOR;
      if (lane >= p.lanes) return;
      const int n = at_most_vector(p.lanes - lane);
      const long long left = p.reduced - chunk * p.chunk_length;
      const long long row = (kept + 1) * p.reduced - left;
      const long long rows = left < p.chunk_length ? left : p.chunk_length;
      const long long begin = row * p.lanes + lane;
      double total[VECTOR];
      UNROLL for (int j = 0; j < VECTOR; j++) total[j] = 0.0;
      add_up(p, begin, begin + (rows - 1) * p.lanes + n, p.lanes, n, total);
      UNROLL for (int j = 0; j < VECTOR; j++) {
        if (j < n) finish(p, chunk * p.sums + kept * p.lanes + lane + j, total[j]);
      }
    });

static const char scatter[] = CODE(
    DEVICE long long offset_of(const LaunchAxis (&axes)[5], long long index) {
      long long at = 0;
      UNROLL for (int axis = 4; axis >= 0; axis--) {
        at += index % axes[axis].length * axes[axis].stride;
        index /= axes[axis].length;
      }
      return at;
    }
    extern "C" __global__ void __launch_bounds__(THREADS) reduce_scatter(const ProgramLaunch p) {
      const int lane = (int)threadIdx.x & (p.group - 1);
      const long long job =
          (long long)blockIdx.x * (THREADS / p.group) + (int)threadIdx.x / p.group;
      double total = 0.0;
      if (job < p.jobs) {
        const long long base = offset_of(p.kept_axes, job);
        for (long long i = lane; i < p.reduced; i += p.group) {
          float value[VECTOR];
          evaluate(p, (Index)(base + offset_of(p.reduced_axes, i)), 1, false, value);
          total += (double)value[0];
        }
      }
      total = group_sum(total, p.group);
      if (lane == 0 && job < p.jobs) finish(p, job, total);
    });

/* clang-format on */

const char *const template_reductions[] = {
    [TEMPLATE_REDUCE_ROWS] = rows,
    [TEMPLATE_REDUCE_PERIODIC] = periodic,
    [TEMPLATE_REDUCE_BLOCKED] = blocked,
    [TEMPLATE_REDUCE_SCATTER] = scatter,
};
