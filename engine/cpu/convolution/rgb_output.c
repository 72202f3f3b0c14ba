#include "engine/cpu/convolution/rgb_output.h"

#include "engine/cpu/convolution/fold_width.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/simd.h"

enum { OUT = 3, TAPS = 7, PIXELS = 8 };

bool image_head_fits(ConvPass pass, DType dtype, const ConvGeometry *g) {
  if (!LANES_ARE_NATIVE || pass == PASS_BACKWARD_DATA || dtype != DTYPE_F32) return false;
  for (int i = 0; i < 3; i++)
    if (g->stride[i] != 1 || g->before[i] != 0 || g->after[i] != 0) return false;
  return g->out_channels == OUT && g->in_channels % LANES == 0 && g->taps[2] == TAPS &&
         g->out[2] >= PIXELS;
}

static int64_t weight_count(const ConvGeometry *g) {
  return OUT * g->taps[0] * g->taps[1] * TAPS * g->in_channels;
}

static size_t part_bytes(const ConvGeometry *g) {
  return memory_align((size_t)weight_count(g) * sizeof(float));
}

size_t image_head_workspace(ConvPass pass, const ConvGeometry *g, int threads) {
  return pass == PASS_BACKWARD_WEIGHTS ? part_bytes(g) * (size_t)threads : 0;
}

/* The input's row that tap (plane / kH, plane % kH) of output row (n, t, h) reads. */
static const float *row_under(const ConvGeometry *g, const float *x, int64_t row, int64_t plane) {
  int64_t h = row % g->out[1], frame = row / g->out[1];
  int64_t t = frame % g->out[0], n = frame / g->out[0];
  int64_t from_t = t + plane / g->taps[1], from_h = h + plane % g->taps[1];
  return x + ((n * g->in[0] + from_t) * g->in[1] + from_h) * g->in[2] * g->in_channels;
}

/* Adds one plane's taps, `run` elements in all, to the sums of 8 pixels. */
LANES_INLINE void add_taps(Lanes sums[OUT * PIXELS], const float *x, const float *w,
                           int64_t channels, int64_t run, int64_t output) {
  for (int64_t i = 0; i < run; i += LANES) {
    Lanes w0 = lanes_load(w + i), w1 = lanes_load(w + output + i);
    Lanes w2 = lanes_load(w + 2 * output + i);
#pragma GCC unroll 8
    for (int p = 0; p < PIXELS; p++) {
      Lanes v = lanes_load(x + p * channels + i);
      sums[p] = lanes_fma(v, w0, sums[p]);
      sums[PIXELS + p] = lanes_fma(v, w1, sums[PIXELS + p]);
      sums[2 * PIXELS + p] = lanes_fma(v, w2, sums[2 * PIXELS + p]);
    }
  }
}

static void forward_pixels(const ConvGeometry *g, const float *x, const float *w, float *y,
                           int64_t row, int64_t first) {
  const int64_t run = TAPS * g->in_channels, planes = g->taps[0] * g->taps[1];
  Lanes sums[2 * LANES] = {{0}}; /* 3 x 8, and idle ones */
  float totals[2 * LANES];
  for (int64_t plane = 0; plane < planes; plane++)
    add_taps(sums, row_under(g, x, row, plane) + first * g->in_channels, w + plane * run,
             g->in_channels, run, planes * run);
  lanes_store(totals, lanes_sums(sums));
  lanes_store(totals + LANES, lanes_sums(sums + LANES));
  for (int p = 0; p < PIXELS; p++)
    for (int o = 0; o < OUT; o++) y[(first + p) * OUT + o] = totals[o * PIXELS + p];
}

void image_head_forward(const ConvGeometry *g, const float *x, const float *w, const float *bias,
                        Activation activation, float slope, float *y, int threads) {
  (void)threads; /* where OpenMP is off */
  const int64_t width = g->out[2], rows = g->batch * g->out[0] * g->out[1];
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t row = 0; row < rows; row++) {
    float *to = y + row * width * OUT;
    for (int64_t v = 0; v < width; v += PIXELS)
      forward_pixels(g, x, w, to, row, v < width - PIXELS ? v : width - PIXELS);
    fold_finish_row(width, OUT, bias, activation, slope, to);
  }
}

/* Adds a row's pixels to the gradients of one plane's taps, for 16 input channels. */
static void add_row(const float *x, const float *dy, float *dw, int64_t channels, int64_t width,
                    int64_t output) {
  Lanes sums[TAPS][OUT] = {{{0}}};
  for (int64_t v = 0; v < width; v++) {
    Lanes d0 = lanes_all(dy[v * OUT]), d1 = lanes_all(dy[v * OUT + 1]);
    Lanes d2 = lanes_all(dy[v * OUT + 2]);
#pragma GCC unroll 7
    for (int tap = 0; tap < TAPS; tap++) {
      Lanes at = lanes_load(x + (v + tap) * channels);
      sums[tap][0] = lanes_fma(at, d0, sums[tap][0]);
      sums[tap][1] = lanes_fma(at, d1, sums[tap][1]);
      sums[tap][2] = lanes_fma(at, d2, sums[tap][2]);
    }
  }
  for (int tap = 0; tap < TAPS; tap++)
    for (int o = 0; o < OUT; o++) {
      float *to = dw + o * output + tap * channels;
      lanes_store(to, lanes_load(to) + sums[tap][o]);
    }
}

static void backward_part(const ConvGeometry *g, const float *x, const float *dy, float *part,
                          int64_t first, int64_t last) {
  const int64_t run = TAPS * g->in_channels, planes = g->taps[0] * g->taps[1];
  memset(part, 0, part_bytes(g));
  for (int64_t row = first; row < last; row++)
    for (int64_t plane = 0; plane < planes; plane++)
      for (int64_t c = 0; c < g->in_channels; c += LANES)
        add_row(row_under(g, x, row, plane) + c, dy + row * g->out[2] * OUT, part + plane * run + c,
                g->in_channels, g->out[2], planes * run);
}

void image_head_backward_weights(const ConvGeometry *g, const float *x, const float *dy, float *dw,
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
