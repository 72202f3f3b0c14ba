#include "engine/cpu/convolution/rgb_output.h"

#include "engine/cpu/convolution/fold_width.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/simd.h"

enum { OUT = 3, KERNEL_WIDTH = 7, PIXELS = 8 };

bool rgb_output_supports(ConvPass pass, DType dtype, const ConvGeometry *g) {
  if (!SIMD_IS_NATIVE || pass == PASS_BACKWARD_DATA || dtype != DTYPE_F32) return false;
  for (int i = 0; i < 3; i++)
    if (g->stride[i] != 1 || g->before[i] != 0 || g->after[i] != 0) return false;
  return g->out_channels == OUT && g->in_channels % SIMD_WIDTH == 0 &&
         g->kernel[2] == KERNEL_WIDTH && g->out[2] >= PIXELS;
}

static int64_t weight_count(const ConvGeometry *g) {
  return OUT * g->kernel[0] * g->kernel[1] * KERNEL_WIDTH * g->in_channels;
}

static size_t part_bytes(const ConvGeometry *g) {
  return memory_align((size_t)weight_count(g) * sizeof(float));
}

size_t rgb_output_workspace(ConvPass pass, const ConvGeometry *g, int threads) {
  return pass == PASS_BACKWARD_WEIGHTS ? part_bytes(g) * (size_t)threads : 0;
}

/* The input row that kernel row (plane / kH, plane % kH) reads for output row (n, t, h). */
static const float *row_under(const ConvGeometry *g, const float *x, int64_t row, int64_t plane) {
  int64_t h = row % g->out[1], frame = row / g->out[1];
  int64_t t = frame % g->out[0], n = frame / g->out[0];
  int64_t from_t = t + plane / g->kernel[1], from_h = h + plane % g->kernel[1];
  return x + ((n * g->in[0] + from_t) * g->in[1] + from_h) * g->in[2] * g->in_channels;
}

/* Adds one kernel row, `run` elements in all, to the sums of 8 pixels. */
SIMD_INLINE void add_kernel_row(SimdFloat sums[OUT * PIXELS], const float *x, const float *w,
                                int64_t channels, int64_t run, int64_t output) {
  for (int64_t i = 0; i < run; i += SIMD_WIDTH) {
    SimdFloat w0 = simd_load(w + i), w1 = simd_load(w + output + i);
    SimdFloat w2 = simd_load(w + 2 * output + i);
#pragma GCC unroll 8
    for (int p = 0; p < PIXELS; p++) {
      SimdFloat v = simd_load(x + p * channels + i);
      sums[p] = simd_fma(v, w0, sums[p]);
      sums[PIXELS + p] = simd_fma(v, w1, sums[PIXELS + p]);
      sums[2 * PIXELS + p] = simd_fma(v, w2, sums[2 * PIXELS + p]);
    }
  }
}

static void forward_pixels(const ConvGeometry *g, const float *x, const float *w, float *y,
                           int64_t row, int64_t first) {
  const int64_t run = KERNEL_WIDTH * g->in_channels, planes = g->kernel[0] * g->kernel[1];
  SimdFloat sums[2 * SIMD_WIDTH] = {{0}}; /* 3 x 8, the rest unused */
  float totals[2 * SIMD_WIDTH];
  for (int64_t plane = 0; plane < planes; plane++)
    add_kernel_row(sums, row_under(g, x, row, plane) + first * g->in_channels, w + plane * run,
                   g->in_channels, run, planes * run);
  simd_store(totals, simd_horizontal_sums(sums));
  simd_store(totals + SIMD_WIDTH, simd_horizontal_sums(sums + SIMD_WIDTH));
  for (int p = 0; p < PIXELS; p++)
    for (int o = 0; o < OUT; o++) y[(first + p) * OUT + o] = totals[o * PIXELS + p];
}

void rgb_output_forward(const ConvGeometry *g, const float *x, const float *w, const float *bias,
                        Activation activation, float slope, float *y, int threads) {
  (void)threads; /* unused without OpenMP */
  const int64_t width = g->out[2], rows = g->batch * g->out[0] * g->out[1];
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t row = 0; row < rows; row++) {
    float *to = y + row * width * OUT;
    for (int64_t v = 0; v < width; v += PIXELS)
      forward_pixels(g, x, w, to, row, v < width - PIXELS ? v : width - PIXELS);
    finish_output_row(width, OUT, bias, activation, slope, to);
  }
}

/* Adds the pixels of a row to the gradients of one kernel row, for 16 input channels. */
static void add_row(const float *x, const float *dy, float *dw, int64_t channels, int64_t width,
                    int64_t output) {
  SimdFloat sums[KERNEL_WIDTH][OUT] = {{{0}}};
  for (int64_t v = 0; v < width; v++) {
    SimdFloat d0 = simd_broadcast(dy[v * OUT]), d1 = simd_broadcast(dy[v * OUT + 1]);
    SimdFloat d2 = simd_broadcast(dy[v * OUT + 2]);
#pragma GCC unroll 7
    for (int j = 0; j < KERNEL_WIDTH; j++) {
      SimdFloat at = simd_load(x + (v + j) * channels);
      sums[j][0] = simd_fma(at, d0, sums[j][0]);
      sums[j][1] = simd_fma(at, d1, sums[j][1]);
      sums[j][2] = simd_fma(at, d2, sums[j][2]);
    }
  }
  for (int j = 0; j < KERNEL_WIDTH; j++)
    for (int o = 0; o < OUT; o++) {
      float *to = dw + o * output + j * channels;
      simd_store(to, simd_load(to) + sums[j][o]);
    }
}

static void backward_part(const ConvGeometry *g, const float *x, const float *dy, float *part,
                          int64_t first, int64_t last) {
  const int64_t run = KERNEL_WIDTH * g->in_channels, planes = g->kernel[0] * g->kernel[1];
  memset(part, 0, part_bytes(g));
  for (int64_t row = first; row < last; row++)
    for (int64_t plane = 0; plane < planes; plane++)
      for (int64_t c = 0; c < g->in_channels; c += SIMD_WIDTH)
        add_row(row_under(g, x, row, plane) + c, dy + row * g->out[2] * OUT, part + plane * run + c,
                g->in_channels, g->out[2], planes * run);
}

void rgb_output_backward_weights(const ConvGeometry *g, const float *x, const float *dy, float *dw,
                                 void *workspace, int threads) {
  const int64_t rows = g->batch * g->out[0] * g->out[1],
                stride = (int64_t)(part_bytes(g) / sizeof *dw);
  float *parts = workspace;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int part = 0; part < threads; part++)
    backward_part(g, x, dy, parts + part * stride, rows * part / threads,
                  rows * (part + 1) / threads);
  for (int64_t i = 0; i < weight_count(g); i++) {
    float sum = parts[i];
    for (int part = 1; part < threads; part++) sum += parts[part * stride + i];
    dw[i] = sum;
  }
}
