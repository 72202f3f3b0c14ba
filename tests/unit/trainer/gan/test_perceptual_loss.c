/* The weights of loss.perceptual: accepted layouts and types, rejected files, and that training
 * does not change them. (tests/oracle compares the loss and its gradients with PyTorch.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/memory.h"
#include "base/random.h"
#include "checkpoints/safetensors.h"
#include "tests/unit/base/temporary.h"
#include "trainer/gan/gan.h"
#include "trainer/gan/perceptual_loss.h"

enum { FRAMES = 2, SIDE = 16, CLIP_BYTES = FRAMES * SIDE * SIDE * 3, LAYERS = 13 };

/* The convolutions' indices in torchvision's vgg19, and their output channels. */
static const int INDICES[LAYERS] = {0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28};
static const int64_t WIDTHS[LAYERS] = {64,  64,  128, 128, 256, 256, 256,
                                       256, 512, 512, 512, 512, 512};

static Backend *backend;
static Error error;
static char *folder, *path;

static Status write_file(const NamedTensor *tensors, int count) {
  return safetensors_write(path, tensors, count, NULL, NULL, NULL, &error);
}

/* Fills with normal numbers of that deviation; F16 with numbers of magnitude 2^-5 to 2^-4. */
static void fill(Random *random, NamedTensor *tensor, int64_t count, float deviation) {
  float *values = mem_new((size_t)count, sizeof *values);
  random_fill_normal(random, values, (size_t)count, deviation);
  uint16_t *half = (uint16_t *)(void *)values;
  for (int64_t i = 0; tensor->type == TENSOR_BF16 && i < count; i++)
    half[i] = bf16_from_f32(values[i]);
  for (int64_t i = 0; tensor->type == TENSOR_F16 && i < count; i++)
    half[i] = (uint16_t)((random_u32(random) & 0x83ff) | 10 << 10);
  tensor->data = values;
}

/* The first layer in F32, the second in F16, the others in BF16. */
static int write_weights(void) {
  NamedTensor tensors[2 * LAYERS + 1];
  char names[2 * LAYERS][32];
  Random random = random_stream(1, RANDOM_TEST, 7, 0);
  int64_t inputs = 3;
  for (int i = 0; i < LAYERS; i++) {
    TensorType type = i == 0 ? TENSOR_F32 : i == 1 ? TENSOR_F16 : TENSOR_BF16;
    NamedTensor *weight = &tensors[2 * i], *bias = weight + 1;
    snprintf(names[2 * i], sizeof names[0], "features.%d.weight", INDICES[i]);
    snprintf(names[2 * i + 1], sizeof names[0], "features.%d.bias", INDICES[i]);
    *weight = (NamedTensor){names[2 * i], type, 4, {WIDTHS[i], inputs, 3, 3}, NULL};
    *bias = (NamedTensor){names[2 * i + 1], type, 1, {WIDTHS[i]}, NULL};
    fill(&random, weight, WIDTHS[i] * inputs * 9, sqrtf(2 / (9 * (float)inputs)));
    fill(&random, bias, WIDTHS[i], 0.1f);
    inputs = WIDTHS[i];
  }
  static const double unused[2] = {1, 2};
  tensors[2 * LAYERS] = (NamedTensor){"classifier.0.bias", TENSOR_F64, 1, {2}, unused};
  Status status = write_file(tensors, 2 * LAYERS + 1);
  for (int i = 0; i < 2 * LAYERS; i++) free((void *)(uintptr_t)tensors[i].data);
  return status == OK ? 0 : -1;
}

static int set_up(void **state) {
  (void)state;
  if (backend_cpu_new(1, &backend, &error) != OK) return -1;
  folder = temporary_folder();
  path = mem_format("%s/vgg19.safetensors", folder);
  return write_weights();
}

static int tear_down(void **state) {
  (void)state;
  backend->free(backend);
  free(path);
  temporary_folder_end(folder);
  return 0;
}

static Config small_config(const char *const *assignments) {
  static const char *const SMALL[] = {
      "model.channels=4", "model.blocks=1", "loss.adversarial_weight=0",  "loss.temporal=0",
      "loss.l1=0",        "optim.ema=0",    "optim.lr_schedule=constant", "loss.perceptual=1"};
  Config config;
  assert_int_equal(config_set_defaults(&config_schema, &config, &error), OK);
  for (size_t i = 0; i < sizeof SMALL / sizeof *SMALL; i++)
    assert_int_equal(config_assign(&config_schema, SMALL[i], &config, NULL, &error), OK);
  for (; *assignments; assignments++)
    assert_int_equal(config_assign(&config_schema, *assignments, &config, NULL, &error), OK);
  return config;
}

static Status plan(const Config *config, int side, Gan **gan) {
  GanOptions options = {.shape = {FRAMES, side, side, 3, side, side}, .micro_batches = 1};
  return gan_plan(config, backend, &options, gan, &error);
}

static Gan *make_gan(const Config *config) {
  Gan *gan = NULL;
  float *weights = NULL;
  if (plan(config, SIDE, &gan) != OK) fail_msg("%s", error.message);
  if (perceptual_read(path, gan_perceptual_network(gan), &weights, &error) != OK)
    fail_msg("%s", error.message);
  gan_set_perceptual_weights(gan, weights);
  if (gan_allocate(gan, &error) != OK) fail_msg("%s", error.message);
  assert_int_equal(gan_initialize(gan, &error), OK);
  return gan;
}

/* --- Files ------------------------------------------------------------------------------------ */

/* Compares element [o,i,h,w] of the file's tensor with [o,1,h,w,i] in the network's array. */
static void check_layout(const Safetensors *file, const Parameters *network, const float *flat,
                         const char *name) {
  const NamedTensor *tensor = safetensors_find(file, name);
  const Parameter *parameter = parameters_find(network, name);
  const int64_t *dim = tensor->shape;
  assert_non_null(parameter);
  for (int64_t o = 0; o < dim[0]; o += 7)
    for (int64_t i = 0; i < dim[1]; i++)
      for (int position = 0; position < 9; position++) {
        int64_t from = (o * dim[1] + i) * 9 + position, to = (o * 9 + position) * dim[1] + i;
        uint16_t half;
        float value;
        memcpy(&half, (const char *)tensor->data + 2 * from, sizeof half);
        if (tensor->type == TENSOR_F32)
          memcpy(&value, (const char *)tensor->data + 4 * from, sizeof value);
        else if (tensor->type == TENSOR_BF16)
          value = bf16_to_f32(half);
        else
          value = (half & 0x8000 ? -1.0f : 1.0f) * (1 + (float)(half & 1023) / 1024) / 32;
        if (flat[parameter->offset + to] != value)
          fail_msg("%s [%d,%d] position %d: %g, expected %g", name, (int)o, (int)i, position,
                   (double)flat[parameter->offset + to], (double)value);
      }
}

static void test_layouts_and_types(void **state) {
  (void)state;
  Config config = small_config((const char *const[]){NULL});
  Gan *gan = NULL;
  Safetensors *file = NULL;
  float *flat = NULL;
  assert_int_equal(plan(&config, SIDE, &gan), OK);
  const Parameters *network = gan_perceptual_network(gan);
  assert_int_equal(network->count, 2 * LAYERS + 2);
  assert_int_equal(perceptual_read(path, network, &flat, &error), OK);
  assert_int_equal(safetensors_open(path, &file, &error), OK);
  check_layout(file, network, flat, "features.0.weight");
  check_layout(file, network, flat, "features.2.weight");
  check_layout(file, network, flat, "features.28.weight");
  const float *scale = flat + parameters_find(network, "input.scale")->offset;
  const float *shift = flat + parameters_find(network, "input.shift")->offset;
  /* Black and white, as torchvision documents. */
  assert_float_equal(-scale[0] + shift[0], (0 - 0.485f) / 0.229f, 1e-6);
  assert_float_equal(scale[2] + shift[2], (1 - 0.406f) / 0.225f, 1e-6);
  safetensors_close(file);
  free(flat);
  gan_free(gan);
}

/* Expects that a file of only these tensors is rejected with `message`. */
static void reject(const Parameters *network, const NamedTensor *tensors, int count,
                   const char *message) {
  char *good_path = path;
  float *flat = NULL;
  path = mem_format("%s/bad.safetensors", folder);
  assert_int_equal(write_file(tensors, count), OK);
  assert_int_equal(perceptual_read(path, network, &flat, &error), ERROR_DATA);
  assert_null(flat);
  char *expected = mem_format("loss.perceptual_weights: %s: %s", path, message);
  assert_string_equal(error.message, expected);
  free(expected);
  free(path);
  path = good_path;
}

static void test_bad_files_are_rejected(void **state) {
  (void)state;
  Config config = small_config((const char *const[]){NULL});
  Gan *gan = NULL;
  float *flat = NULL;
  static float zeros[64 * 27], nan[64 * 27];
  nan[40] = NAN;
  assert_int_equal(plan(&config, SIDE, &gan), OK);
  const Parameters *network = gan_perceptual_network(gan);
  const NamedTensor good = {"features.0.weight", TENSOR_F32, 4, {64, 3, 3, 3}, zeros};
  NamedTensor bad = good;
  reject(network, &good, 1,
         "tensor \"features.0.bias\" is missing, expected [64] as in torchvision's VGG19 "
         "(docs/perceptual.md)");
  bad.shape[1] = 1;
  reject(network, &bad, 1,
         "tensor \"features.0.weight\" is F32 [64, 1, 3, 3], expected F32, F16 or BF16 "
         "[64, 3, 3, 3] as in torchvision's VGG19 (docs/perceptual.md)");
  bad = (NamedTensor){"features.0.weight", TENSOR_F32, 1, {64}, zeros}; /* like a batch norm's */
  reject(network, &bad, 1,
         "tensor \"features.0.weight\" is F32 [64], expected F32, F16 or BF16 [64, 3, 3, 3] as "
         "in torchvision's VGG19 (docs/perceptual.md)");
  bad = good;
  bad.type = TENSOR_I32;
  reject(network, &bad, 1,
         "tensor \"features.0.weight\" is I32 [64, 3, 3, 3], expected F32, F16 or BF16 "
         "[64, 3, 3, 3] as in torchvision's VGG19 (docs/perceptual.md)");
  bad = good;
  bad.data = nan;
  reject(network, &bad, 1, "tensor \"features.0.weight\": element 40 of 1728 is not finite: nan");
  assert_int_equal(perceptual_read("nowhere", network, &flat, &error), ERROR_IO);
  assert_string_equal(error.message, "loss.perceptual_weights: nowhere: cannot open: No such file "
                                     "or directory");
  gan_free(gan);
}

/* --- Training --------------------------------------------------------------------------------- */

static void test_requirements_are_checked(void **state) {
  (void)state;
  Config config = small_config((const char *const[]){NULL});
  Gan *gan = NULL;
  assert_int_equal(plan(&config, SIDE - 1, &gan), ERROR_USAGE);
  assert_non_null(strstr(error.message, "loss.perceptual needs frames of at least 16x16 pixels, "
                                        "these are 15x15"));
  assert_int_equal(plan(&config, SIDE, &gan), OK);
  assert_int_equal(gan_allocate(gan, &error), ERROR_INTERNAL);
  assert_non_null(strstr(error.message, "the weights of loss.perceptual have not been set"));
  gan_free(gan);
  config = small_config((const char *const[]){"loss.perceptual=0", "loss.l1=1", NULL});
  assert_int_equal(plan(&config, SIDE, &gan), OK);
  assert_int_equal(gan_perceptual_network(gan)->total, 0);
  gan_free(gan);
}

static float *download(const Buffer *buffer) {
  float *values = mem_new((size_t)buffer->count, sizeof *values);
  assert_int_equal(buffer_download(buffer, 0, values, buffer->count, &error), OK);
  return values;
}

/* Trains on the perceptual loss alone; returns the loss of the first step. */
static double check_learning(const char *precision, int steps) {
  Config config = small_config((const char *const[]){precision, "optim.generator_lr=2e-3", NULL});
  Gan *gan = make_gan(&config);
  static uint8_t source[CLIP_BYTES], target[CLIP_BYTES];
  for (int i = 0; i < CLIP_BYTES; i++) {
    source[i] = (uint8_t)(128 + 100 * sin(0.1 * i));
    target[i] = source[i] > 128 ? 220 : 40;
  }
  float *before = download(&gan_perceptual_network(gan)->master);
  StepResult first = {0}, last = {0};
  for (int i = 0; i < steps; i++) {
    StepControls controls = schedule_at(&config, i);
    MicroBatch batch = {.source = source, .target = target, .samples = (int64_t[]){0}};
    assert_int_equal(gan_step(gan, &controls, &batch, &error), OK);
    assert_int_equal(gan_step_result(gan, 0, &last, &error), OK);
    if (i == 0) first = last;
  }
  double begin = first.metrics[METRIC_PERCEPTUAL], end = last.metrics[METRIC_PERCEPTUAL];
  if (!(end < 0.9 * begin)) fail_msg("%s: %g before, %g after training", precision, begin, end);
  assert_true(fabs(last.metrics[METRIC_LOSS_G] - end) <= 1e-6 * end);
  float *after = download(&gan_perceptual_network(gan)->master);
  assert_memory_equal(before, after, (size_t)gan_perceptual_network(gan)->total * sizeof *before);
  free(before);
  free(after);
  gan_free(gan);
  return begin;
}

static void test_training_lowers_the_loss_and_keeps_the_weights(void **state) {
  (void)state;
  double exact = check_learning("train.precision=f32", 6);
  if (!backend->supports_bf16(backend)) skip();
  double rounded = check_learning("train.precision=bf16", 6);
  if (!(fabs(rounded - exact) < 0.02 * exact)) fail_msg("%g in bf16, %g in f32", rounded, exact);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_layouts_and_types),
      cmocka_unit_test(test_bad_files_are_rejected),
      cmocka_unit_test(test_requirements_are_checked),
      cmocka_unit_test(test_training_lowers_the_loss_and_keeps_the_weights),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
