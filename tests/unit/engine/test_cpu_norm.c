/* The norm kernels and their gradients against plain loops in double: all kinds, any number of
 * channels, with and without parameters, activation and residual, f32 and bf16. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/bf16.h"
#include "base/memory.h"
#include "support_cpu_kernel.h"

typedef struct Case {
  Shape shape;
  NormAttributes norm;
  bool parameters, residual;
  double shift; /* added to x: a mean that is large compared to the deviation */
} Case;

static Case draw(Dice *dice, NormKind kind) {
  static const int64_t channels[] = {1, 2, 3, 8, 12, 16, 17, 32, 40, 64, 70};
  Case k = {.parameters = dice_range(dice, 0, 3) > 0, .residual = dice_range(dice, 0, 1) == 1};
  int64_t c = dice_pick(dice, channels, 11);
  k.shape = shape_make(dice_range(dice, 1, 2), dice_range(dice, 1, 2), dice_range(dice, 1, 8),
                       dice_range(dice, 1, 8), c);
  k.norm = (NormAttributes){
      .kind = kind,
      .groups = 1,
      .epsilon = 1e-5f,
      .activation = dice_range(dice, 0, 1) ? ACTIVATION_LEAKY_RELU : ACTIVATION_NONE,
      .slope = dice_range(dice, 0, 1) ? 0.2f : 0.0f,
  };
  if (kind == NORM_GROUP) do
      k.norm.groups = (int)dice_range(dice, 1, c);
    while (c % k.norm.groups != 0);
  if (kind != NORM_RMS && dice_range(dice, 0, 1)) k.shift = 3;
  return k;
}

/* Elements with equal sets are normalised together. */
static int64_t set_of(const Case *k, int64_t element) {
  const int64_t *dim = k->shape.dim;
  int64_t c = element % dim[4], pixel = element / dim[4], frame = pixel / (dim[2] * dim[3]);
  if (k->norm.kind == NORM_RMS) return pixel;
  if (k->norm.kind == NORM_INSTANCE) return frame * dim[4] + c;
  return frame * k->norm.groups + c / (dim[4] / k->norm.groups);
}

typedef struct Reference {
  double *n, *r; /* per element: the normalised value, and 1 / deviation of its set */
  double *count; /* per element: the size of its set */
} Reference;

static double *zeros(int64_t count) {
  return mem_new((size_t)count, sizeof(double));
}

/* Sums over each set, distributed to each of its elements. */
static void spread_sum(const Case *k, const double *values, double *sums) {
  int64_t count = shape_count(k->shape);
  double *by_set = zeros(count);
  for (int64_t i = 0; i < count; i++) by_set[set_of(k, i)] += values[i];
  for (int64_t i = 0; i < count; i++) sums[i] = by_set[set_of(k, i)];
  free(by_set);
}

static Reference normalise(const Case *k, const Tensor *x) {
  int64_t count = shape_count(k->shape);
  Reference ref = {zeros(count), zeros(count), zeros(count)};
  double *values = zeros(count), *sums = zeros(count);
  for (int64_t i = 0; i < count; i++) values[i] = 1;
  spread_sum(k, values, ref.count);
  for (int64_t i = 0; i < count; i++) values[i] = tensor_at(x, i);
  spread_sum(k, values, sums);
  for (int64_t i = 0; i < count; i++)
    ref.n[i] = values[i] - (k->norm.kind == NORM_RMS ? 0 : sums[i] / ref.count[i]);
  for (int64_t i = 0; i < count; i++) values[i] = ref.n[i] * ref.n[i];
  spread_sum(k, values, sums);
  for (int64_t i = 0; i < count; i++) {
    ref.r[i] = 1 / sqrt(sums[i] / ref.count[i] + (double)k->norm.epsilon);
    ref.n[i] *= ref.r[i];
  }
  free(values), free(sums);
  return ref;
}

static void reference_free(Reference *ref) {
  free(ref->n), free(ref->r), free(ref->count);
}

static double slope_of(const Case *k, double v) {
  return k->norm.activation == ACTIVATION_NONE || v > 0 ? 1 : (double)k->norm.slope;
}

static Tensor draw_x(Dice *dice, const Case *k, DType dtype) {
  Tensor x = tensor_random(dice, k->shape, dtype);
  for (int64_t i = 0; i < shape_count(k->shape); i++) {
    float value = (float)(tensor_at(&x, i) + k->shift);
    if (dtype == DTYPE_F32)
      ((float *)x.data)[i] = value;
    else
      ((uint16_t *)x.data)[i] = bf16_from_f32(value);
  }
  return x;
}

static void label_of(char *label, size_t size, const char *pass, const Case *k, DType dtype) {
  char shape[SHAPE_TEXT_SIZE];
  snprintf(label, size, "%s %s %s kind %d groups %d activation %d parameters %d residual %d", pass,
           dtype_name(dtype), shape_text(k->shape, shape), (int)k->norm.kind, k->norm.groups,
           (int)k->norm.activation, k->parameters, k->residual);
}

/* r is unbounded if a set has one element or equal elements, and so is the error. */
static double slack(const Reference *ref, int64_t i) {
  return 2e-5 + 1e-6 * ref->r[i];
}

static void check_forward(Dice *dice, const Case *k, DType dtype) {
  char label[256];
  label_of(label, sizeof label, "norm", k, dtype);
  int64_t count = shape_count(k->shape), channels = k->shape.dim[AXIS_C];
  Shape vector = k->parameters ? shape_vector(channels) : (Shape){{0}};
  Tensor inputs[] = {draw_x(dice, k, dtype), tensor_random(dice, vector, DTYPE_F32),
                     tensor_random(dice, vector, DTYPE_F32),
                     tensor_random(dice, k->residual ? k->shape : (Shape){{0}}, dtype)};
  Tensor output = tensor_poisoned(k->shape, dtype);
  Op op = {.kind = OP_NORM,
           .name = (char[]){"test"},
           .input_count = k->residual ? 4 : (k->parameters ? 3 : 1),
           .output_count = 1,
           .attributes.norm = k->norm};
  Reference ref = normalise(k, &inputs[0]);
  double *expected = zeros(count), *tolerance = zeros(count);
  for (int64_t i = 0; i < count; i++) {
    double v = ref.n[i];
    if (k->parameters)
      v = tensor_at(&inputs[1], i % channels) * v + tensor_at(&inputs[2], i % channels);
    v *= slope_of(k, v);
    expected[i] = v + (k->residual ? tensor_at(&inputs[3], i) : 0);
    tolerance[i] = slack(&ref, i) + rounding(dtype, expected[i]);
  }
  run_kernel(&op, inputs, &output);
  check_tensor(label, &output, expected, tolerance);
  for (int i = 0; i < 4; i++) tensor_free(&inputs[i]);
  tensor_free(&output);
  reference_free(&ref);
  free(expected), free(tolerance);
}

typedef struct Gradients {
  double *dx, *dx_slack;                /* per element */
  double *dgain, *dbias, *vector_slack; /* per channel */
} Gradients;

/* False if a value is so near the kink of the activation that its side is uncertain. */
static bool differentiate(const Case *k, const Tensor *inputs, const Reference *ref,
                          Gradients *out) {
  int64_t count = shape_count(k->shape), channels = k->shape.dim[AXIS_C];
  double *h = zeros(count), *hn = zeros(count), *sum = zeros(count), *along = zeros(count);
  bool certain = true;
  for (int64_t i = 0; i < count; i++) {
    int64_t c = i % channels;
    double gain = k->parameters ? tensor_at(&inputs[2], c) : 1;
    double v = gain * ref->n[i] + (k->parameters ? tensor_at(&inputs[3], c) : 0);
    double g = tensor_at(&inputs[0], i) * slope_of(k, v);
    if (k->norm.activation != ACTIVATION_NONE && fabs(v) < slack(ref, i)) certain = false;
    out->dgain[c] += g * ref->n[i];
    out->dbias[c] += g;
    out->vector_slack[c] += slack(ref, i) * (1 + fabs(g));
    h[i] = g * gain;
    hn[i] = h[i] * ref->n[i];
  }
  spread_sum(k, h, sum);
  spread_sum(k, hn, along);
  for (int64_t i = 0; i < count; i++) {
    double mean = k->norm.kind == NORM_RMS ? 0 : sum[i] / ref->count[i];
    out->dx[i] = ref->r[i] * (h[i] - mean - ref->n[i] * along[i] / ref->count[i]);
    out->dx_slack[i] = slack(ref, i) * ref->r[i] * 4;
  }
  free(h), free(hn), free(sum), free(along);
  return certain;
}

static bool check_backward(Dice *dice, const Case *k, DType dtype) {
  char label[256];
  label_of(label, sizeof label, "norm backward", k, dtype);
  int64_t count = shape_count(k->shape), channels = k->shape.dim[AXIS_C];
  Shape vector = k->parameters ? shape_vector(channels) : (Shape){{0}};
  Tensor inputs[] = {tensor_random(dice, k->shape, dtype), draw_x(dice, k, dtype),
                     tensor_random(dice, vector, DTYPE_F32),
                     tensor_random(dice, vector, DTYPE_F32)};
  Tensor outputs[] = {tensor_poisoned(k->shape, dtype), tensor_poisoned(vector, DTYPE_F32),
                      tensor_poisoned(vector, DTYPE_F32)};
  Op op = {.kind = OP_NORM_BACKWARD,
           .name = (char[]){"test"},
           .input_count = k->parameters ? 4 : 2,
           .output_count = k->parameters ? 3 : 1,
           .attributes.norm = k->norm};
  Reference ref = normalise(k, &inputs[1]);
  Gradients want = {zeros(count), zeros(count), zeros(channels), zeros(channels), zeros(channels)};
  bool certain = differentiate(k, inputs, &ref, &want);
  if (certain) {
    for (int64_t i = 0; i < count; i++) want.dx_slack[i] += rounding(dtype, want.dx[i]);
    run_kernel(&op, inputs, outputs);
    check_tensor(label, &outputs[0], want.dx, want.dx_slack);
    if (k->parameters) {
      check_tensor(label, &outputs[1], want.dgain, want.vector_slack);
      check_tensor(label, &outputs[2], want.dbias, want.vector_slack);
    }
  }
  for (int i = 0; i < 4; i++) tensor_free(&inputs[i]);
  for (int i = 0; i < 3; i++) tensor_free(&outputs[i]);
  reference_free(&ref);
  free(want.dx), free(want.dx_slack), free(want.dgain), free(want.dbias), free(want.vector_slack);
  return certain;
}

static void check_random(NormKind kind, uint64_t seed) {
  enum { CASES = 30 };
  Dice dice = {seed};
  for (int dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++)
    for (int done = 0; done < CASES;) {
      Case k = draw(&dice, kind);
      check_forward(&dice, &k, (DType)dtype);
      done += check_backward(&dice, &k, (DType)dtype);
    }
}

static void test_rms(void **state) {
  (void)state;
  check_random(NORM_RMS, 11);
}

static void test_instance(void **state) {
  (void)state;
  check_random(NORM_INSTANCE, 12);
}

static void test_group(void **state) {
  (void)state;
  check_random(NORM_GROUP, 13);
}

/* A pixel or a frame of zeros gives finite results: bias and residual only. */
static void test_zeros(void **state) {
  (void)state;
  for (int kind = NORM_RMS; kind <= NORM_GROUP; kind++) {
    Shape shape = shape_make(1, 1, 3, 3, 4);
    Tensor inputs[2] = {tensor_poisoned(shape, DTYPE_F32), tensor_poisoned(shape, DTYPE_F32)};
    Tensor output = tensor_poisoned(shape, DTYPE_F32);
    for (int64_t i = 0; i < shape_count(shape); i++)
      ((float *)inputs[0].data)[i] = ((float *)inputs[1].data)[i] = 0;
    Op op = {.kind = OP_NORM,
             .name = (char[]){"test"},
             .input_count = 1,
             .output_count = 1,
             .attributes.norm = {.kind = (NormKind)kind, .groups = 2, .epsilon = 1e-6f}};
    run_kernel(&op, inputs, &output);
    for (int64_t i = 0; i < shape_count(shape); i++) assert_true(tensor_at(&output, i) == 0);
    op.kind = OP_NORM_BACKWARD;
    op.input_count = 2;
    run_kernel(&op, inputs, &output);
    for (int64_t i = 0; i < shape_count(shape); i++) assert_true(tensor_at(&output, i) == 0);
    tensor_free(&inputs[0]), tensor_free(&inputs[1]), tensor_free(&output);
  }
}

static int teardown(void **state) {
  (void)state;
  cpu_backend_done();
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_rms),
      cmocka_unit_test(test_instance),
      cmocka_unit_test(test_group),
      cmocka_unit_test(test_zeros),
  };
  return cmocka_run_group_tests(tests, NULL, teardown);
}
