#include "tests/gpu/support_plans.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "trainer/gan/gan.h"

static Error error;

/* --- The convolutions of a config ------------------------------------------------------------- */
static bool same_problem(const Convolution *a, const Convolution *b) {
  Text left = {0}, right = {0};
  convolution_text(a, &left);
  convolution_text(b, &right);
  const bool same = strcmp(left.data, right.data) == 0;
  text_free(&left);
  text_free(&right);
  return same;
}

static void recorder_kernel_free(Kernel *kernel) {
  free(kernel);
}

static Status recorder_kernel_new(Backend *backend, const Op *op, const Tensor *inputs,
                                  const Tensor *outputs, Kernel **out, Error *failure) {
  Recorder *self = (Recorder *)(void *)backend;
  Convolution convolution;
  *out = mem_new(1, sizeof **out);
  (*out)->free = recorder_kernel_free;
  if (op->kind < OP_CONV3D || op->kind > OP_CONV3D_BACKWARD_WEIGHTS) return OK;
  const ConvolutionPass pass = (ConvolutionPass)(op->kind - OP_CONV3D);
  const Status status = convolution_from_op(pass, op, inputs, outputs, &convolution, failure);
  if (status != OK) return status;
  for (int i = 0; i < self->count; i++)
    if (same_problem(&self->convolutions[i], &convolution)) return OK;
  MEM_PUSH_SLOT(self->convolutions, self->count, self->capacity);
  self->convolutions[self->count++] = convolution;
  return OK;
}

static bool recorder_supports_bf16(Backend *backend) {
  (void)backend;
  return true;
}

static const char *recorder_describe(Backend *backend) {
  (void)backend;
  return "recorder";
}

/* Adds the convolutions of a config's training step. */
static void record(Recorder *self, const char *path) {
  Config config;
  Gan *gan = NULL;
  const int before = self->count;
  assert_int_equal(config_set_defaults(&config_schema, &config, &error), OK);
  if (config_load(&config_schema, path, &config, NULL, &error) != OK) fail_msg("%s", error.message);
  const int side = config.data.crop_height > 0 ? (int)config.data.crop_height : 64;
  const int frames = config.data.frames > 0 ? (int)config.data.frames : 8;
  const GanOptions options = {.shape = {frames, side, side, 3, side, side}, .micro_batches = 1};
  if (gan_plan(&config, &self->base, &options, &gan, &error) != OK)
    fail_msg("%s: %s", path, error.message);
  gan_free(gan);
  if (self->count == before) fail_msg("%s: no further convolutions", path);
}

Recorder recorder = {.base = {.name = "recorder",
                              .kernel_new = recorder_kernel_new,
                              .supports_bf16 = recorder_supports_bf16,
                              .describe = recorder_describe}};

int record_all(void **state) {
  glob_t found;
  (void)state;
  assert_int_equal(glob("configs/*.yaml", 0, NULL, &found), 0);
  for (size_t i = 0; i < found.gl_pathc; i++) record(&recorder, found.gl_pathv[i]);
  globfree(&found);
  return 0;
}

int forget_all(void **state) {
  (void)state;
  free(recorder.convolutions);
  return 0;
}

/* --- Described GPUs --------------------------------------------------------------------------- */
const DescribedDevice devices[DEVICES] = {
    {"NVIDIA A100-SXM4-80GB", 800, 108, 166912, 41943040},
    {"NVIDIA H200", 900, 132, 232448, 62914560},
};

static cudnnBackendDescriptor_t properties_of(const DescribedDevice *device) {
  cudnnBackendDescriptor_t properties = NULL;
  char *json = mem_format(
      "{\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],"
      "\"regsPerBlock\":65536,\"multiProcessorCount\":%d,\"warpSize\":32,"
      "\"maxSharedMemoryPerBlock\":49152,\"maxSharedMemoryPerBlockOptin\":%d,"
      "\"reservedSharedMemoryPerBlock\":1024,\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":32,"
      "\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":2048,\"pciDeviceId\":0,\"isTccDriver\":0,"
      "\"supportCoopLaunch\":1,\"totalGlobalMem\":85899345920,\"smClockRateKHz\":1755000,"
      "\"memClockRateKHz\":2619000,\"l2CacheSize\":%d,\"cudaDeviceId\":0,\"deviceVer\":%d,"
      "\"driverVer\":13000,\"deviceName\":\"%s\"}",
      device->processors, device->shared_opt_in, device->l2_bytes, device->version, device->name);
  bool made = cudnnBackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &properties) ==
                  CUDNN_STATUS_SUCCESS &&
              cudnnBackendSetAttribute(properties, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION,
                                       CUDNN_TYPE_CHAR, (int64_t)strlen(json),
                                       json) == CUDNN_STATUS_SUCCESS &&
              cudnnBackendFinalize(properties) == CUDNN_STATUS_SUCCESS;
  free(json);
  if (made) return properties;
  if (properties) cudnnBackendDestroyDescriptor(properties);
  return NULL;
}

CudnnTarget described_or_skip(const DescribedDevice *device) {
  const CudnnTarget target = {.properties = properties_of(device)};
  if (!target.properties) {
    print_message("# this cuDNN does not support described devices\n");
    skip();
  }
  return target;
}

int test_every(int without, int with_driver) {
  int version = 0; /* 0: there is no driver */
  return cudaDriverGetVersion(&version) == cudaSuccess && version > 0 ? with_driver : without;
}

const double LOCK_TIMEOUT = 120;

Autotuner *open_described(const DescribedDevice *device, const CudnnConstraints *constraints,
                          const char *folder, cudnnBackendDescriptor_t *properties) {
  const CudnnTarget target = described_or_skip(device);
  *properties = target.properties;
  return autotuner_open(&target, device->name, constraints, folder, 0, LOCK_TIMEOUT);
}

void close_described(Autotuner *autotuner, cudnnBackendDescriptor_t properties) {
  autotuner_free(autotuner);
  cudnnBackendDestroyDescriptor(properties);
}

Convolution plain_convolution(void) {
  return (Convolution){.pass = CONVOLUTION_FORWARD,
                       .x = shape_make(2, 4, 16, 16, 64),
                       .w = shape_make(32, 3, 3, 3, 64),
                       .y = shape_make(2, 4, 16, 16, 32),
                       .stride = {1, 1, 1},
                       .before = {2, 1, 1},
                       .after = {0, 1, 1},
                       .operands = DTYPE_BF16,
                       .result = DTYPE_BF16};
}

/* --- The plan cache --------------------------------------------------------------------------- */
int list_cached(const char *folder, char *paths[MAX_CACHED]) {
  char **names;
  size_t count;
  int found = 0;
  assert_int_equal(folder_list(folder, &names, &count, &error), OK);
  assert_in_range(count, 0, MAX_CACHED);
  for (size_t i = 0; i < count; i++)
    if (strcmp(names[i], "lock") != 0) paths[found++] = path_join(folder, names[i]);
  folder_list_free(names, count);
  return found;
}

char *only_cached(const char *folder) {
  char *paths[MAX_CACHED];
  assert_int_equal(list_cached(folder, paths), 1);
  return paths[0];
}

void read_text(const char *path, char **text) {
  size_t size;
  if (file_read(path, 1 << 20, text, &size, &error) != OK) fail_msg("%s", error.message);
}

void choose_once(const char *folder, const CudnnConstraints *constraints, ConvChoice *choice) {
  cudnnBackendDescriptor_t properties;
  Autotuner *autotuner = open_described(&devices[1], constraints, folder, &properties);
  const Convolution convolution = plain_convolution();
  if (autotuner_choose(autotuner, &convolution, NULL, choice, &error) != OK)
    fail_msg("%s", error.message);
  ConvChoice again;
  assert_int_equal(autotuner_choose(autotuner, &convolution, NULL, &again, &error), OK);
  assert_ptr_equal(choice->plan, again.plan);
  close_described(autotuner, properties);
}
