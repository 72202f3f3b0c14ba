/* The kernels around convolutions: pad-and-crop copies with bias and activation, column sums,
 * im2col and col2im, and the reference convolution that the self-test relies on. Each is compared
 * with loops on the host. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/memory.h"
#include "base/random.h"
#include "engine/cuda/convolution/epilogue.h"
#include "engine/cuda/convolution/im2col.h"
#include "engine/cuda/convolution/reference.h"
#include "engine/cuda/runtime/cuda.h"
#include "tests/gpu/support_gpu.h"

static Backend *backend;
static Error error;

static void must(Status status) {
  if (status != OK) fail_msg("%s", error.message);
}

static cudaStream_t stream(void) {
  return cuda_backend(backend)->stream;
}

/* --- Tensors on host and device --------------------------------------------------------------- */
/* A tensor's values on the host, and its memory on the device. */
typedef struct Pair {
  Shape shape;
  DType dtype;
  size_t count;
  double *values;
  void *device;
} Pair;

static void *packed(const Pair *pair) {
  void *bytes = mem_new(pair->count, sizeof(float));
  for (size_t i = 0; i < pair->count; i++) {
    if (pair->dtype == DTYPE_BF16)
      ((uint16_t *)bytes)[i] = bf16_from_f32((float)pair->values[i]);
    else
      ((float *)bytes)[i] = (float)pair->values[i];
  }
  return bytes;
}

static void unpack(Pair *pair, const void *bytes) {
  for (size_t i = 0; i < pair->count; i++)
    pair->values[i] = pair->dtype == DTYPE_BF16 ? (double)bf16_to_f32(((const uint16_t *)bytes)[i])
                                                : (double)((const float *)bytes)[i];
}

/* Random values; NaN where `random` is NULL. */
static Pair pair_new(Shape shape, DType dtype, Random *random) {
  Pair pair = {.shape = shape, .dtype = dtype, .count = (size_t)shape_count(shape)};
  pair.values = mem_new(pair.count, sizeof *pair.values);
  for (size_t i = 0; i < pair.count; i++)
    pair.values[i] = random ? (double)random_normal(random) : NAN;
  void *bytes = packed(&pair);
  unpack(&pair, bytes); /* rounded to the dtype */
  must(backend->allocate(backend, pair.count * dtype_size(dtype), "a test", &pair.device, &error));
  must(backend->upload(backend, pair.device, bytes, pair.count * dtype_size(dtype), &error));
  free(bytes);
  return pair;
}

static void pair_download(Pair *pair) {
  void *bytes = mem_new(pair->count, sizeof(float));
  must(backend->download(backend, bytes, pair->device, pair->count * dtype_size(pair->dtype),
                         &error));
  unpack(pair, bytes);
  free(bytes);
}

static void pair_free(Pair *pair) {
  backend->release(backend, pair->device);
  free(pair->values);
}

static void assert_near(const char *what, uint64_t seed, const double *found,
                        const double *expected, size_t count, double tolerance) {
  for (size_t i = 0; i < count; i++)
    if (!(fabs(found[i] - expected[i]) <= tolerance * (1 + fabs(expected[i]))))
      fail_msg("%s, seed %d: element %zu is %.9g, %.9g expected", what, (int)seed, i, found[i],
               expected[i]);
}

static int64_t index_of(Shape shape, int64_t n, int64_t t, int64_t h, int64_t w, int64_t c) {
  return (((n * shape.dim[1] + t) * shape.dim[2] + h) * shape.dim[3] + w) * shape.dim[4] + c;
}

static int64_t between(Random *random, int low, int high) {
  return low + (int64_t)random_below(random, (uint64_t)(high - low + 1));
}

/* --- Pad and crop ----------------------------------------------------------------------------- */
static double element_or_zero(const Pair *source, const int64_t at[RANK]) {
  int64_t index = 0;
  for (int axis = 0; axis < RANK; axis++) {
    if (at[axis] < 0 || at[axis] >= source->shape.dim[axis]) return 0;
    index = index * source->shape.dim[axis] + at[axis];
  }
  return source->values[index];
}

static double *pad_crop_expected(const PadCropLaunch *p, const Pair *source, const Pair *bias) {
  const size_t count = (size_t)shape_count(p->to);
  double *expected = mem_new(count, sizeof *expected);
  for (size_t i = 0; i < count; i++) {
    int64_t at[RANK], rest = (int64_t)i;
    for (int axis = RANK - 1; axis >= 0; axis--) {
      at[axis] = rest % p->to.dim[axis] + p->offset[axis];
      rest /= p->to.dim[axis];
    }
    double value = element_or_zero(source, at);
    if (bias) value += bias->values[i % (size_t)p->to.dim[AXIS_C]];
    if (p->activation == ACTIVATION_LEAKY_RELU && value < 0) value *= (double)p->slope;
    if (p->activation == ACTIVATION_TANH) value = tanh(value);
    expected[i] = value;
  }
  return expected;
}

static void check_pad_crop(uint64_t seed) {
  Random random = random_stream(seed, RANDOM_TEST, 0, 0);
  const bool wide = between(&random, 0, 1), in_place = between(&random, 0, 3) == 0;
  const int step = wide ? 8 : 1;
  PadCropLaunch p = {.source_dtype = between(&random, 0, 1) ? DTYPE_BF16 : DTYPE_F32,
                     .destination_dtype = between(&random, 0, 1) ? DTYPE_BF16 : DTYPE_F32,
                     .activation = (Activation)between(&random, 0, 2),
                     .slope = 0.2f};
  for (int axis = 0; axis < RANK; axis++) {
    const int unit = axis == AXIS_C ? step : 1;
    p.from.dim[axis] = between(&random, 1, 5) * unit;
    p.to.dim[axis] = in_place ? p.from.dim[axis] : between(&random, 1, 7) * unit;
    p.offset[axis] = in_place ? 0 : between(&random, -3, 3) * unit;
  }
  if (in_place) p.destination_dtype = p.source_dtype;
  Pair source = pair_new(p.from, p.source_dtype, &random);
  Pair bias = pair_new(shape_vector(p.to.dim[AXIS_C]), DTYPE_F32, &random);
  Pair destination = pair_new(p.to, p.destination_dtype, NULL);
  const bool biased = between(&random, 0, 1);
  p.source = source.device;
  p.destination = in_place ? source.device : destination.device;
  p.bias = biased ? bias.device : NULL;
  double *expected = pad_crop_expected(&p, &source, biased ? &bias : NULL);
  must(launch_pad_crop(&p, stream(), &error));
  Pair *written = in_place ? &source : &destination;
  pair_download(written);
  assert_near("pad and crop", seed, written->values, expected, written->count,
              p.destination_dtype == DTYPE_BF16 ? 5e-3 : 1e-6);
  free(expected);
  pair_free(&source);
  pair_free(&bias);
  pair_free(&destination);
}

static void pad_crop_matches_loops(void **state) {
  (void)state;
  for (uint64_t seed = 0; seed < 80; seed++) check_pad_crop(seed);
}

/* --- Column sums ------------------------------------------------------------------------------ */
static void check_sums(uint64_t seed, int64_t rows, int64_t columns, DType dtype) {
  Random random = random_stream(seed, RANDOM_TEST, 1, 0);
  Pair x = pair_new(shape_make(1, 1, 1, rows, columns), dtype, &random);
  const int64_t parts = column_sums_parts(rows, columns);
  Pair partials = pair_new(shape_make(1, 1, 1, parts, columns), DTYPE_F32, NULL);
  Pair sums = pair_new(shape_vector(columns), DTYPE_F32, NULL);
  double *expected = mem_new((size_t)columns, sizeof *expected),
         *first = mem_new((size_t)columns, sizeof *first);
  for (size_t i = 0; i < x.count; i++) expected[i % (size_t)columns] += x.values[i];
  const ColumnSumsLaunch p = {.x = x.device,
                              .dtype = dtype,
                              .rows = rows,
                              .columns = columns,
                              .parts = parts,
                              .partials = partials.device,
                              .sums = sums.device};
  for (int run = 0; run < 2; run++) {
    must(launch_column_sums(&p, stream(), &error));
    pair_download(&sums);
    assert_near("sums", seed, sums.values, expected, (size_t)columns, 1e-5 * sqrt((double)rows));
    if (run == 0) memcpy(first, sums.values, (size_t)columns * sizeof *first);
  }
  assert_memory_equal(first, sums.values, (size_t)columns * sizeof *first);
  free(expected);
  free(first);
  pair_free(&x);
  pair_free(&partials);
  pair_free(&sums);
}

static void column_sums_match_loops(void **state) {
  static const int64_t shapes[][2] = {{1, 1},   {5, 3},     {700, 1},  {513, 64},
                                      {90, 17}, {37, 2056}, {64, 260}, {1100, 8}};
  (void)state;
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
    for (int bf16 = 0; bf16 <= 1; bf16++)
      check_sums(i, shapes[i][0], shapes[i][1], bf16 ? DTYPE_BF16 : DTYPE_F32);
}

/* --- im2col and col2im ------------------------------------------------------------------------ */
/* Writes to `columns` the image elements that they refer to, and adds each element of `shown`, a
 * column tensor, to the image element in `collected`. */
static void reference_im2col(const Im2colMap *p, const double *image, double *columns,
                             double *collected, const double *shown) {
  const int64_t *to = p->columns.dim;
  const int64_t channels = p->image.dim[AXIS_C], taps = p->taps[0] * p->taps[1];
  for (int64_t i = 0; i < shape_count(p->columns) / to[AXIS_C]; i++) {
    int64_t rest = i;
    const int64_t w = rest % to[AXIS_W], h = (rest /= to[AXIS_W]) % to[AXIS_H];
    const int64_t t = (rest /= to[AXIS_H]) % to[AXIS_T], n = rest / to[AXIS_T];
    for (int64_t k = 0; k < taps * channels; k++) {
      const int64_t a = k / channels / p->taps[1], b = k / channels % p->taps[1];
      const int64_t from_t = t * p->stride[0] + p->sign * a + p->offset[0];
      const int64_t from_w = w * p->stride[1] + p->sign * b + p->offset[1];
      if (from_t < 0 || from_t >= p->image.dim[AXIS_T]) continue;
      if (from_w < 0 || from_w >= p->image.dim[AXIS_W]) continue;
      const int64_t at = index_of(p->image, n, from_t, h, from_w, k % channels);
      columns[i * to[AXIS_C] + k] = image[at];
      collected[at] += shown[i * to[AXIS_C] + k];
    }
  }
}

/* Wide rows take several blocks; 8 and 16 channels are copied in one access. */
static Im2colMap random_map(Random *random, bool wide) {
  static const int channels[] = {1, 3, 6, 8, 5, 16, 20};
  const int64_t image_channels = channels[between(random, 0, 6)];
  Im2colMap p = {.dtype = between(random, 0, 1) ? DTYPE_BF16 : DTYPE_F32,
                 .sign = between(random, 0, 1) ? 1 : -1,
                 .taps = {(int)between(random, 1, 3), (int)between(random, 1, 7)}};
  const int64_t batch = between(random, 1, 2), height = between(random, 1, 3);
  const int64_t width = wide ? between(random, 700, 900) : between(random, 1, 40);
  for (int i = 0; i < 2; i++) {
    p.stride[i] = (int)between(random, 1, 2);
    p.offset[i] = (int)between(random, -p.taps[i], p.taps[i]);
  }
  const int64_t taps = p.taps[0] * p.taps[1], unit = p.dtype == DTYPE_BF16 ? 8 : 4;
  p.image = shape_make(batch, between(random, 1, 4), height, width, image_channels);
  p.columns =
      shape_make(batch, between(random, 1, 4), height, between(random, 1, (int)width + 3),
                 (image_channels * taps + unit - 1) / unit * unit + between(random, 0, 1) * unit);
  return p;
}

static void check_im2col(uint64_t seed, Im2colMap p, Random *random) {
  Pair image = pair_new(p.image, p.dtype, random), columns = pair_new(p.columns, p.dtype, NULL);
  Pair shown = pair_new(p.columns, p.dtype, random), sums = pair_new(p.image, p.dtype, NULL);
  double *expected = mem_new(columns.count, sizeof *expected);
  double *collected = mem_new(image.count, sizeof *collected);
  reference_im2col(&p, image.values, expected, collected, shown.values);
  must(launch_im2col(&p, image.device, columns.device, stream(), &error));
  pair_download(&columns);
  assert_near("im2col", seed, columns.values, expected, columns.count, 0);
  const Col2imLaunch col2im = {.map = p, .columns = shown.device, .image = sums.device};
  must(launch_col2im(&col2im, stream(), &error));
  pair_download(&sums);
  assert_near("col2im", seed, sums.values, collected, sums.count,
              p.dtype == DTYPE_BF16 ? 8e-3 : 1e-5);
  free(expected);
  free(collected);
  pair_free(&image);
  pair_free(&columns);
  pair_free(&shown);
  pair_free(&sums);
}

static void im2col_and_col2im_match_loops(void **state) {
  (void)state;
  for (uint64_t seed = 0; seed < 80; seed++) {
    Random random = random_stream(seed, RANDOM_TEST, 3, 0);
    check_im2col(seed, random_map(&random, seed % 8 == 0), &random);
  }
}

/* One pixel needs more shared memory than a block has. */
static void im2col_of_more_channels_than_shared_memory(void **state) {
  (void)state;
  for (int bf16 = 0; bf16 <= 1; bf16++) {
    Random random = random_stream((uint64_t)bf16, RANDOM_TEST, 4, 0);
    const Im2colMap p = {.image = shape_make(1, 13, 2, 3, 1002),
                         .columns = shape_make(1, 3, 2, 3, 12032),
                         .taps = {12, 1},
                         .stride = {1, 1},
                         .offset = {-1, 0},
                         .sign = 1,
                         .dtype = bf16 ? DTYPE_BF16 : DTYPE_F32};
    check_im2col((uint64_t)bf16, p, &random);
  }
}

/* --- The reference convolution ---------------------------------------------------------------- */
/* Computes y, dx and dw in one loop over all products. */
static void compute_expected(const ReferenceConvolutionLaunch *p, const Pair *x, const Pair *w,
                             const Pair *y, double *results[3]) {
  const int64_t *ws = p->w_shape.dim;
  for (int64_t i = 0; i < (int64_t)(y->count * w->count / (size_t)ws[0]); i++) {
    int64_t rest = i, c, k[3], at[3], from[3];
    bool inside = true;
    c = rest % ws[4], rest /= ws[4];
    for (int axis = 2; axis >= 0; axis--) k[axis] = rest % ws[1 + axis], rest /= ws[1 + axis];
    const int64_t o = rest % ws[0];
    rest /= ws[0];
    for (int axis = 2; axis >= 0; axis--) {
      at[axis] = rest % p->y_shape.dim[1 + axis], rest /= p->y_shape.dim[1 + axis];
      from[axis] = at[axis] * p->stride[axis] + k[axis] - p->before[axis];
      inside = inside && from[axis] >= 0 && from[axis] < p->x_shape.dim[1 + axis];
    }
    if (!inside) continue;
    const int64_t in_x = index_of(p->x_shape, rest, from[0], from[1], from[2], c);
    const int64_t in_w = index_of(p->w_shape, o, k[0], k[1], k[2], c);
    const int64_t in_y = index_of(p->y_shape, rest, at[0], at[1], at[2], o);
    results[REFERENCE_Y][in_y] += w->values[in_w] * x->values[in_x];
    results[REFERENCE_DX][in_x] += w->values[in_w] * y->values[in_y];
    results[REFERENCE_DW][in_w] += x->values[in_x] * y->values[in_y];
  }
}

/* Checks sampled elements, some or all, in one slice or several. */
static void check_samples(const ReferenceConvolutionLaunch *p, uint64_t seed, size_t count,
                          const double *expected) {
  const int64_t counts[] = {1, 5, (int64_t)count};
  for (int k = 0; k < 3; k++) {
    ReferenceSamplesLaunch launch = {.convolution = *p, .samples = counts[k], .slices = 1 + k};
    if (launch.samples > (int64_t)count) launch.samples = (int64_t)count;
    Pair sums = pair_new(shape_make(1, 1, 1, launch.samples, 2 * launch.slices), DTYPE_F32, NULL);
    const size_t sum_count = (size_t)(launch.samples * launch.slices);
    double *found = mem_new(sum_count, sizeof *found);
    launch.out = sums.device;
    must(launch_reference_samples(&launch, stream(), &error));
    must(backend->download(backend, found, sums.device, sum_count * sizeof *found, &error));
    for (int64_t i = 0; i < launch.samples; i++) {
      const int64_t at = reference_sample_index(i, launch.samples, (int64_t)count);
      double sum = 0;
      for (int64_t slice = 0; slice < launch.slices; slice++)
        sum += found[i * launch.slices + slice];
      if (launch.samples == (int64_t)count) assert_int_equal(at, i);
      if (launch.samples > 1 && i == launch.samples - 1) assert_int_equal(at, (int64_t)count - 1);
      assert_near("sample", seed, &sum, &expected[at], 1, 1e-12);
    }
    free(found);
    pair_free(&sums);
  }
}

static void check_reference(uint64_t seed) {
  Random random = random_stream(seed, RANDOM_TEST, 2, 0);
  ReferenceConvolutionLaunch p = {.operands = seed % 2 ? DTYPE_BF16 : DTYPE_F32};
  const int64_t batch = between(&random, 1, 2);
  p.x_shape = shape_make(batch, 0, 0, 0, between(&random, 1, 4));
  p.w_shape = shape_make(between(&random, 1, 4), 0, 0, 0, p.x_shape.dim[4]);
  p.y_shape = shape_make(batch, 0, 0, 0, p.w_shape.dim[0]);
  for (int i = 0; i < 3; i++) {
    const int taps = (int)between(&random, 1, 3), after = (int)between(&random, 0, 2);
    p.stride[i] = (int)between(&random, 1, 2);
    p.before[i] = (int)between(&random, 0, 2);
    p.w_shape.dim[1 + i] = taps;
    p.x_shape.dim[1 + i] = between(&random, taps, 6);
    p.y_shape.dim[1 + i] = (p.x_shape.dim[1 + i] + p.before[i] + after - taps) / p.stride[i] + 1;
  }
  Pair x = pair_new(p.x_shape, p.operands, &random), w = pair_new(p.w_shape, p.operands, &random);
  Pair y = pair_new(p.y_shape, p.operands, &random);
  p.x = x.device, p.w = w.device, p.y = y.device;
  double *expected[3] = {mem_new(y.count, sizeof(double)), mem_new(x.count, sizeof(double)),
                         mem_new(w.count, sizeof(double))};
  const Shape shapes[3] = {p.y_shape, p.x_shape, p.w_shape};
  compute_expected(&p, &x, &w, &y, expected);
  for (int result = REFERENCE_Y; result <= REFERENCE_DW; result++) {
    Pair out = pair_new(shapes[result], DTYPE_F32, NULL);
    p.result = (ReferenceResult)result;
    p.out = out.device;
    must(launch_reference_convolution(&p, stream(), &error));
    pair_download(&out);
    assert_near("reference convolution", seed, out.values, expected[result], out.count, 1e-5);
    check_samples(&p, seed, out.count, expected[result]);
    pair_free(&out);
    free(expected[result]);
  }
  pair_free(&x);
  pair_free(&w);
  pair_free(&y);
}

static void reference_convolutions_match_loops(void **state) {
  (void)state;
  for (uint64_t seed = 0; seed < 30; seed++) check_reference(seed);
}

/* The numbers that fill operands have the mean and variance of a uniform distribution; neighbours
 * and different seeds are uncorrelated. */
static void random_numbers_are_uniform(void **state) {
  (void)state;
  for (int bf16 = 0; bf16 <= 1; bf16++) {
    double sum = 0, squares = 0, neighbours = 0, seeds = 0;
    Pair pairs[2];
    for (int k = 0; k < 2; k++) {
      pairs[k] = pair_new(shape_vector(20000), bf16 ? DTYPE_BF16 : DTYPE_F32, NULL);
      const ReferenceRandomLaunch p = {.out = pairs[k].device,
                                       .dtype = pairs[k].dtype,
                                       .count = 20000,
                                       .seed = (uint64_t)k + 1,
                                       .scale = 2};
      must(launch_reference_random(&p, stream(), &error));
      pair_download(&pairs[k]);
    }
    for (size_t i = 0; i < 20000; i++) {
      const double value = pairs[0].values[i];
      assert_true(value >= -2 && value <= 2);
      sum += value;
      squares += value * value;
      neighbours += value * pairs[0].values[(i + 1) % 20000];
      seeds += value * pairs[1].values[i];
    }
    /* Uniform: variance 4/3. Five standard deviations of the means. */
    assert_true(fabs(sum / 20000) < 0.041);
    assert_true(fabs(squares / 20000 - 4.0 / 3) < 0.043);
    assert_true(fabs(neighbours / 20000) < 0.047);
    assert_true(fabs(seeds / 20000) < 0.047);
    for (int k = 0; k < 2; k++) pair_free(&pairs[k]);
  }
}

static int open_backend(void **state) {
  const CudaOptions options = {.no_graphs = true, .timeout = 60};
  (void)state;
  if (backend_cuda_new(&options, &backend, &error) == OK) return 0;
  fprintf(stderr, "# %s\n", error.message);
  return -1;
}

static int close_backend(void **state) {
  (void)state;
  backend->free(backend);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(pad_crop_matches_loops),
      cmocka_unit_test(column_sums_match_loops),
      cmocka_unit_test(im2col_and_col2im_match_loops),
      cmocka_unit_test(im2col_of_more_channels_than_shared_memory),
      cmocka_unit_test(reference_convolutions_match_loops),
      cmocka_unit_test(random_numbers_are_uniform),
  };
  return gpu_run_tests(tests, sizeof tests / sizeof *tests, open_backend, close_backend);
}
