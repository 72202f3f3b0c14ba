/* The three convolution kernels against plain loops in double, for random shapes: odd sizes,
 * strides, uneven padding, few and many channels, f32 and bf16. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bulk_memory.h"
#include "base/memory.h"
#include "support_cpu_kernel.h"

typedef struct Case {
  Shape x, w, y;
  ConvAttributes conv;
  bool bias;
} Case;

enum { MOST_MULTIPLICATIONS = 300000 };

static bool draw(Dice *dice, Case *out) {
  static const int64_t channels[] = {1, 2, 3, 4, 6, 7, 16, 17, 32, 48};
  static const int64_t taps[] = {1, 2, 3, 4, 5, 7};
  int64_t in[3], count[3], result[3];
  *out = (Case){.bias = dice_range(dice, 0, 1) == 1};
  for (int i = 0; i < 3; i++) {
    in[i] = dice_range(dice, 1, i == 0 ? 4 : 13);
    count[i] = i == 0 ? dice_range(dice, 1, 3) : dice_pick(dice, taps, 6);
    out->conv.stride[i] = (int)dice_range(dice, 1, i == 0 ? 2 : 3);
    out->conv.before[i] = (int)dice_range(dice, 0, count[i] - 1);
    out->conv.after[i] = (int)dice_range(dice, 0, count[i] - 1);
    if (i == 0 && dice_range(dice, 0, 1)) {
      count[i] = out->conv.stride[i] = 1;
      out->conv.before[i] = out->conv.after[i] = 0;
    }
    int64_t room = in[i] + out->conv.before[i] + out->conv.after[i] - count[i];
    if (room < 0) return false;
    result[i] = room / out->conv.stride[i] + 1;
  }
  int64_t n = dice_range(dice, 1, 2);
  int64_t c = dice_pick(dice, channels, 10), o = dice_pick(dice, channels, 10);
  out->x = shape_make(n, in[0], in[1], in[2], c);
  out->w = shape_make(o, count[0], count[1], count[2], c);
  out->y = shape_make(n, result[0], result[1], result[2], o);
  out->conv.activation = (Activation)dice_range(dice, 0, 2);
  out->conv.slope = dice_range(dice, 0, 1) ? 0.2f : 0.0f;
  return shape_count(out->y) * shape_count(out->w) / o < MOST_MULTIPLICATIONS;
}

typedef struct Sums {
  double *x, *w, *y;                /* the outputs of the pass */
  double *x_size, *w_size, *y_size; /* the same with absolute values, for tolerances */
} Sums;

/* Visits each product once and adds it to the output of the pass. */
static void convolve(const Case *k, const Tensor *x, const Tensor *w, const Tensor *y,
                     const Sums *s) {
  const ConvAttributes *conv = &k->conv;
  const int64_t *out = k->y.dim, *taps = k->w.dim, *in = k->x.dim;
  for (int64_t at_y = 0; at_y < shape_count(k->y); at_y++) {
    int64_t o = at_y % out[4], v = at_y / out[4] % out[3], u = at_y / (out[4] * out[3]) % out[2];
    int64_t t = at_y / (out[4] * out[3] * out[2]) % out[1];
    int64_t n = at_y / (out[4] * out[3] * out[2] * out[1]);
    for (int64_t tap = 0; tap < taps[1] * taps[2] * taps[3]; tap++) {
      int64_t i = tap / (taps[2] * taps[3]), j = tap / taps[3] % taps[2], l = tap % taps[3];
      int64_t from_t = t * conv->stride[0] + i - conv->before[0];
      int64_t from_h = u * conv->stride[1] + j - conv->before[1];
      int64_t from_w = v * conv->stride[2] + l - conv->before[2];
      if (from_t < 0 || from_t >= in[1] || from_h < 0 || from_h >= in[2] || from_w < 0 ||
          from_w >= in[3])
        continue;
      for (int64_t c = 0; c < in[4]; c++) {
        int64_t at_x = place(k->x, n, from_t, from_h, from_w, c);
        int64_t at_w = place(k->w, o, i, j, l, c);
        double product = (x ? tensor_at(x, at_x) : 1) * (w ? tensor_at(w, at_w) : 1) *
                         (y ? tensor_at(y, at_y) : 1);
        if (!x) s->x[at_x] += product, s->x_size[at_x] += fabs(product);
        if (!w) s->w[at_w] += product, s->w_size[at_w] += fabs(product);
        if (!y) s->y[at_y] += product, s->y_size[at_y] += fabs(product);
      }
    }
  }
}

static double *zeros(Shape shape) {
  return mem_new((size_t)shape_count(shape), sizeof(double));
}

static double activate(const ConvAttributes *conv, double v) {
  if (conv->activation == ACTIVATION_TANH) return tanh(v);
  if (conv->activation == ACTIVATION_LEAKY_RELU) return v > 0 ? v : (double)conv->slope * v;
  return v;
}

/* Turns sums of absolute values into tolerances. */
static void make_tolerance(const double *expected, double *sizes, int64_t count, DType dtype) {
  for (int64_t i = 0; i < count; i++) sizes[i] = 3e-6 * sizes[i] + rounding(dtype, expected[i]);
}

static void label_of(char *label, size_t size, const char *pass, const Case *k, DType dtype) {
  char x[SHAPE_TEXT_SIZE], w[SHAPE_TEXT_SIZE], y[SHAPE_TEXT_SIZE];
  const ConvAttributes *c = &k->conv;
  snprintf(label, size,
           "%s %s x %s w %s y %s stride %d,%d,%d before %d,%d,%d activation %d bias %d", pass,
           dtype_name(dtype), shape_text(k->x, x), shape_text(k->w, w), shape_text(k->y, y),
           c->stride[0], c->stride[1], c->stride[2], c->before[0], c->before[1], c->before[2],
           (int)c->activation, k->bias);
}

static void check_forward(Dice *dice, const Case *k, DType dtype, const char *label) {
  Tensor inputs[] = {tensor_random(dice, k->x, dtype), tensor_random(dice, k->w, dtype),
                     tensor_random(dice, shape_vector(k->y.dim[AXIS_C]), DTYPE_F32)};
  Tensor output = tensor_poisoned(k->y, dtype);
  Op op = {.kind = OP_CONV3D,
           .name = (char[]){"test"},
           .input_count = k->bias ? 3 : 2,
           .output_count = 1,
           .attributes.conv = k->conv};
  Sums sums = {.y = zeros(k->y), .y_size = zeros(k->y)};
  convolve(k, &inputs[0], &inputs[1], NULL, &sums);
  for (int64_t i = 0; i < shape_count(k->y); i++) {
    if (k->bias) sums.y[i] += tensor_at(&inputs[2], i % k->y.dim[AXIS_C]);
    sums.y[i] = activate(&k->conv, sums.y[i]);
  }
  make_tolerance(sums.y, sums.y_size, shape_count(k->y), dtype);
  run_kernel(&op, inputs, &output);
  check_tensor(label, &output, sums.y, sums.y_size);
  for (int i = 0; i < 3; i++) tensor_free(&inputs[i]);
  tensor_free(&output);
  free(sums.y), free(sums.y_size);
}

static void check_backward_data(Dice *dice, const Case *k, DType dtype, const char *label) {
  Tensor inputs[] = {tensor_random(dice, k->y, dtype), tensor_random(dice, k->w, dtype)};
  Tensor output = tensor_poisoned(k->x, dtype);
  Op op = {.kind = OP_CONV3D_BACKWARD_DATA,
           .name = (char[]){"test"},
           .input_count = 2,
           .output_count = 1,
           .attributes.conv = k->conv};
  Sums sums = {.x = zeros(k->x), .x_size = zeros(k->x)};
  convolve(k, NULL, &inputs[1], &inputs[0], &sums);
  make_tolerance(sums.x, sums.x_size, shape_count(k->x), dtype);
  run_kernel(&op, inputs, &output);
  check_tensor(label, &output, sums.x, sums.x_size);
  tensor_free(&inputs[0]), tensor_free(&inputs[1]), tensor_free(&output);
  free(sums.x), free(sums.x_size);
}

static void check_bias_gradient(const Tensor *dy, const Tensor *dbias, const char *label) {
  int64_t channels = dy->shape.dim[AXIS_C];
  double *expected = zeros(dbias->shape), *tolerance = zeros(dbias->shape);
  for (int64_t i = 0; i < shape_count(dy->shape); i++) {
    expected[i % channels] += tensor_at(dy, i);
    tolerance[i % channels] += fabs(tensor_at(dy, i));
  }
  make_tolerance(expected, tolerance, channels, DTYPE_F32);
  check_tensor(label, dbias, expected, tolerance);
  free(expected), free(tolerance);
}

static void check_backward_weights(Dice *dice, const Case *k, DType dtype, const char *label) {
  Tensor inputs[] = {tensor_random(dice, k->x, dtype), tensor_random(dice, k->y, dtype)};
  Tensor outputs[] = {tensor_poisoned(k->w, DTYPE_F32),
                      tensor_poisoned(shape_vector(k->y.dim[AXIS_C]), DTYPE_F32)};
  Op op = {.kind = OP_CONV3D_BACKWARD_WEIGHTS,
           .name = (char[]){"test"},
           .input_count = 2,
           .output_count = k->bias ? 2 : 1,
           .attributes.conv = k->conv};
  Sums sums = {.w = zeros(k->w), .w_size = zeros(k->w)};
  convolve(k, &inputs[0], NULL, &inputs[1], &sums);
  make_tolerance(sums.w, sums.w_size, shape_count(k->w), DTYPE_F32);
  run_kernel(&op, inputs, outputs);
  check_tensor(label, &outputs[0], sums.w, sums.w_size);
  if (k->bias) check_bias_gradient(&inputs[1], &outputs[1], label);
  for (int i = 0; i < 2; i++) tensor_free(&inputs[i]), tensor_free(&outputs[i]);
  free(sums.w), free(sums.w_size);
}

static void check_random(DType dtype, uint64_t seed) {
  enum { CASES = 100 };
  Dice dice = {seed};
  char label[512];
  for (int done = 0; done < CASES;) {
    Case k;
    if (!draw(&dice, &k)) continue;
    label_of(label, sizeof label, "forward", &k, dtype);
    check_forward(&dice, &k, dtype, label);
    label_of(label, sizeof label, "backward data", &k, dtype);
    check_backward_data(&dice, &k, dtype, label);
    label_of(label, sizeof label, "backward weights", &k, dtype);
    check_backward_weights(&dice, &k, dtype, label);
    done++;
  }
}

/* The layer from features to RGB, which has loops of its own. */
static void test_rgb_outputs(void **state) {
  (void)state;
  Dice dice = {4};
  char label[512];
  for (int i = 0; i < 24; i++) {
    int64_t n = dice_range(&dice, 1, 2), c = dice_range(&dice, 1, 3) * 16;
    int64_t t = dice_range(&dice, 1, 2), kt = dice_range(&dice, 1, 2);
    int64_t h = dice_range(&dice, 1, 4), kh = dice_range(&dice, 1, 3);
    int64_t w = dice_range(&dice, 6, 19);
    Case k = {.x = shape_make(n, t + kt - 1, h + kh - 1, w + 6, c),
              .w = shape_make(3, kt, kh, 7, c),
              .y = shape_make(n, t, h, w, 3),
              .conv = {.stride = {1, 1, 1}, .activation = (Activation)(i % 3), .slope = 0.2f},
              .bias = i % 2 == 1};
    label_of(label, sizeof label, "image head", &k, DTYPE_F32);
    check_forward(&dice, &k, DTYPE_F32, label);
    check_backward_weights(&dice, &k, DTYPE_F32, label);
  }
}

static void test_f32(void **state) {
  (void)state;
  check_random(DTYPE_F32, 1);
}

static void test_bf16(void **state) {
  (void)state;
  if (!cpu_backend()->supports_bf16(cpu_backend())) skip();
  check_random(DTYPE_BF16, 2);
}

static void test_shared_weights_follow_versions(void **state) {
  (void)state;
  enum { CHANNELS = 32, TAPS = 9 * CHANNELS * CHANNELS };
  Error error;
  Dice dice = {3};
  Backend *cpu = cpu_backend();
  Buffer buffer = buffer_describe("weights", DTYPE_F32, 2 * TAPS);
  assert_int_equal(buffer_allocate(&buffer, cpu, &error), OK);
  Case k = {.x = shape_make(1, 1, 6, 5, CHANNELS),
            .w = shape_make(CHANNELS, 1, 3, 3, CHANNELS),
            .y = shape_make(1, 1, 6, 5, CHANNELS),
            .conv = {.stride = {1, 1, 1}, .before = {0, 1, 1}, .after = {0, 1, 1}}};
  Op op = {.kind = OP_CONV3D,
           .name = (char[]){"test"},
           .input_count = 2,
           .output_count = 1,
           .attributes.conv = k.conv};
  Tensor inputs[2][2], outputs[2];
  Kernel *kernels[2];
  for (int i = 0; i < 2; i++) {
    inputs[i][0] = tensor_random(&dice, k.x, DTYPE_F32);
    inputs[i][1] = (Tensor){.data = (float *)buffer.data + i * TAPS,
                            .shape = k.w,
                            .dtype = DTYPE_F32,
                            .buffer = &buffer};
    outputs[i] = tensor_poisoned(k.y, DTYPE_F32);
    assert_int_equal(cpu->kernel_new(cpu, &op, inputs[i], &outputs[i], &kernels[i], &error), OK);
  }
  for (int round = 0; round < 3; round++) {
    Tensor drawn = tensor_random(&dice, shape_vector(2 * TAPS), DTYPE_F32);
    assert_int_equal(buffer_upload(&buffer, 0, drawn.data, 2 * TAPS, &error), OK);
    for (int i = 0; i < 2; i++) {
      void *workspace;
      assert_int_equal(mem_bulk(kernels[i]->workspace, "workspace", &workspace, &error), OK);
      Sums sums = {.y = zeros(k.y), .y_size = zeros(k.y)};
      convolve(&k, &inputs[i][0], &inputs[i][1], NULL, &sums);
      make_tolerance(sums.y, sums.y_size, shape_count(k.y), DTYPE_F32);
      for (int run = 0; run < 2; run++) {
        assert_int_equal(kernels[i]->run(kernels[i], inputs[i], &outputs[i], workspace, &error),
                         OK);
        check_tensor("shared weights", &outputs[i], sums.y, sums.y_size);
      }
      free(workspace), free(sums.y), free(sums.y_size);
    }
    tensor_free(&drawn);
  }
  for (int i = 0; i < 2; i++) {
    kernels[i]->free(kernels[i]);
    tensor_free(&inputs[i][0]), tensor_free(&outputs[i]);
  }
  buffer_free(&buffer);
}

static void test_refusals_name_the_op(void **state) {
  (void)state;
  Error error;
  Kernel *kernel = NULL;
  Backend *cpu = cpu_backend();
  Op op = {.kind = OP_CONV3D,
           .name = (char[]){"generator.head"},
           .input_count = 2,
           .output_count = 1,
           .attributes.conv = {.stride = {1, 1, 1}}};
  Tensor inputs[] = {{.shape = shape_make(1, 1, 4, 4, 3), .dtype = DTYPE_U8},
                     {.shape = shape_make(2, 1, 1, 1, 3), .dtype = DTYPE_F32}};
  Tensor output = {.shape = shape_make(1, 1, 4, 4, 2), .dtype = DTYPE_F32};
  assert_int_equal(cpu->kernel_new(cpu, &op, inputs, &output, &kernel, &error), ERROR_INTERNAL);
  assert_non_null(strstr(error.message, "generator.head"));
  assert_non_null(strstr(error.message, "u8"));
  assert_null(kernel);
  op.kind = OP_VIEW;
  assert_int_equal(cpu->kernel_new(cpu, &op, inputs, &output, &kernel, &error), ERROR_INTERNAL);
  assert_non_null(strstr(error.message, "generator.head"));
}

static void test_backend_describes_itself(void **state) {
  (void)state;
  Error error;
  Backend *cpu = cpu_backend(), *none = NULL;
  assert_non_null(strstr(cpu->describe(cpu), "cpu: 2 threads"));
  assert_non_null(strstr(cpu->describe(cpu), "bf16"));
  assert_int_equal(backend_cpu_new(-1, &none, &error), ERROR_USAGE);
  assert_null(none);
  assert_int_equal(backend_cpu_new(0, &none, &error), OK);
  none->free(none);
}

static int teardown(void **state) {
  (void)state;
  cpu_backend_done();
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_rgb_outputs),
      cmocka_unit_test(test_f32),
      cmocka_unit_test(test_bf16),
      cmocka_unit_test(test_shared_weights_follow_versions),
      cmocka_unit_test(test_refusals_name_the_op),
      cmocka_unit_test(test_backend_describes_itself),
  };
  return cmocka_run_group_tests(tests, NULL, teardown);
}
