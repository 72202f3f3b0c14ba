/* What cuDNN makes of our convolutions, as far as it can be known without a GPU: the operation
 * graphs of every form of every convolution that the configs train, and, for GPUs that are only
 * described, the engines and plans that it has for them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <fcntl.h>
#include <glob.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/thread.h"
#include "engine/cuda/cudnn.h"
#include "engine/cuda/cudnn_claims.h"
#include "engine/cuda/cudnn_store.h"
#include "engine/cuda/cudnn_workers.h"
#include "trainer/model.h"

static Error error;

/* --- The convolutions of a config ------------------------------------------------------------- */
/* A backend that remembers what convolutions it is asked for, each once, and runs nothing. */
typedef struct Recorder {
  Backend base;
  int count, capacity;
  Convolution *convolutions;
} Recorder;

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
  const Status status = convolution_of(pass, op, inputs, outputs, &convolution, failure);
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

/* Adds those of a config's training step. */
static void record(Recorder *self, const char *path) {
  Config config;
  Model *model = NULL;
  const int before = self->count;
  assert_int_equal(config_set_defaults(&config_schema, &config, &error), OK);
  if (config_load(&config_schema, path, &config, &error) != OK) fail_msg("%s", error.message);
  const int side = config.data.crop_height > 0 ? (int)config.data.crop_height : 64;
  const int frames = config.data.frames > 0 ? (int)config.data.frames : 8;
  const ModelOptions options = {.shape = {frames, side, side, 3, side, side}, .micro_batches = 1};
  if (model_plan(&config, &self->base, &options, &model, &error) != OK)
    fail_msg("%s: %s", path, error.message);
  model_free(model);
  if (self->count == before) fail_msg("%s: no convolutions of its own", path);
}

static Recorder recorder = {.base = {.name = "recorder",
                                     .kernel_new = recorder_kernel_new,
                                     .supports_bf16 = recorder_supports_bf16,
                                     .describe = recorder_describe}};

static int record_all(void **state) {
  glob_t found;
  (void)state;
  assert_int_equal(glob("configs/*.yaml", 0, NULL, &found), 0);
  for (size_t i = 0; i < found.gl_pathc; i++) record(&recorder, found.gl_pathv[i]);
  globfree(&found);
  return 0;
}

static int forget_all(void **state) {
  (void)state;
  free(recorder.convolutions);
  return 0;
}

/* --- Graphs ----------------------------------------------------------------------------------- */
static void check_forms(const Convolution *convolution) {
  ConvolutionForm forms[CONVOLUTION_MAX_FORMS];
  const int count = convolution_forms(convolution, forms);
  assert_in_range(count, 1, CONVOLUTION_MAX_FORMS);
  for (int i = 0; i < count; i++) {
    char name[64];
    CudnnGraph *graph = NULL;
    const Convolution inner = convolution_inner(convolution, &forms[i]);
    if (cudnn_graph_new(&inner, forms[i].frames, forms[i].gradient == GRADIENT_IDENTITY, NULL,
                        &graph, &error) != OK)
      fail_msg("%s: %s", convolution_form_name(&forms[i], name), error.message);
    cudnn_graph_free(graph);
  }
}

static void graphs_of_configs(void **state) {
  (void)state;
  for (int i = 0; i < recorder.count; i++) check_forms(&recorder.convolutions[i]);
}

static int64_t between(Random *random, int low, int high) {
  return low + (int64_t)random_below(random, (uint64_t)(high - low + 1));
}

static Convolution random_convolution(Random *random) {
  Convolution c = {.pass = (ConvolutionPass)between(random, 0, 2),
                   .operands = between(random, 0, 1) ? DTYPE_BF16 : DTYPE_F32};
  const int64_t batch = between(random, 1, 3), in = between(random, 1, 70),
                out = between(random, 1, 70);
  c.x = shape_make(batch, 0, 0, 0, in);
  c.w = shape_make(out, 0, 0, 0, in);
  c.y = shape_make(batch, 0, 0, 0, out);
  for (int i = 0; i < 3; i++) {
    const int64_t taps = between(random, 1, i == 0 ? 3 : 7);
    c.stride[i] = (int)between(random, 1, i == 0 ? 1 : 3);
    c.before[i] = (int)between(random, 0, (int)taps - 1);
    c.after[i] = (int)between(random, 0, (int)taps - 1);
    c.w.dim[AXIS_T + i] = taps;
    c.x.dim[AXIS_T + i] = between(random, (int)taps, i == 0 ? 9 : 40);
    c.y.dim[AXIS_T + i] = (c.x.dim[AXIS_T + i] + c.before[i] + c.after[i] - taps) / c.stride[i] + 1;
  }
  c.result = c.pass == CONVOLUTION_BACKWARD_WEIGHTS ? DTYPE_F32 : c.operands;
  if (c.pass == CONVOLUTION_FORWARD) {
    c.bias = between(random, 0, 1);
    c.activation = (Activation)between(random, 0, 2);
    if (c.activation == ACTIVATION_LEAKY_RELU) c.slope = 0.2f;
  }
  return c;
}

static void graphs_of_random_shapes(void **state) {
  (void)state;
  for (uint64_t seed = 0; seed < 60; seed++) {
    Random random = random_stream(seed, RANDOM_TEST, 0, 0);
    const Convolution convolution = random_convolution(&random);
    check_forms(&convolution);
  }
}

static void wrong_shapes_are_refused(void **state) {
  static const char *const words[] = {"cuDNN refuses", "CUDNN_STATUS_BAD_PARAM"};
  (void)state;
  for (uint64_t seed = 0; seed < 30; seed++) {
    Random random = random_stream(seed, RANDOM_TEST, 1, 0);
    Convolution wrong = random_convolution(&random);
    wrong.y.dim[AXIS_T + between(&random, 0, 2)] += between(&random, 1, 5);
    CudnnGraph *graph = NULL;
    error = (Error){0};
    assert_int_equal(cudnn_graph_new(&wrong, false, false, NULL, &graph, &error), ERROR_INTERNAL);
    assert_null(graph);
    for (int i = 0; i < 2; i++)
      if (!strstr(error.message, words[i])) fail_msg("no \"%s\" in: %s", words[i], error.message);
    /* cuDNN's own words, with the name of what is wrong, stand behind its code. */
    assert_non_null(strchr(strstr(error.message, words[1]), ':'));
  }
}

/* --- Plans for GPUs that are described -------------------------------------------------------- */
/* What cuDNN asks of a device, as its own serialisation of CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR. */
typedef struct DescribedDevice {
  const char *name;
  int version; /* 900: sm_90 */
  int processors, shared_opt_in, l2_bytes;
} DescribedDevice;

static const DescribedDevice devices[] = {
    {"NVIDIA A100-SXM4-80GB", 800, 108, 166912, 41943040},
    {"NVIDIA H200", 900, 132, 232448, 62914560},
};
enum { DEVICES = sizeof devices / sizeof *devices };

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

static CudnnTarget described_or_skip(const DescribedDevice *device) {
  const CudnnTarget target = {.properties = properties_of(device)};
  if (!target.properties) {
    print_message("# this cuDNN takes no description of a device\n");
    skip();
  }
  return target;
}

static const double LONG_PATIENCE = 120;

static Cudnn *open_described(const DescribedDevice *device, const CudnnRules *rules,
                             const char *folder, cudnnBackendDescriptor_t *properties) {
  const CudnnTarget target = described_or_skip(device);
  *properties = target.properties;
  return cudnn_open(&target, device->name, rules, folder, 0, LONG_PATIENCE);
}

static void close_described(Cudnn *cudnn, cudnnBackendDescriptor_t properties) {
  cudnn_free(cudnn);
  cudnnBackendDestroyDescriptor(properties);
}

/* Each convolution on one of the devices in turn.
 *
 * Without a driver cuDNN offers no engines that are compiled at run time: on sm_90 they are the
 * only ones on tensor cores for some shapes, on sm_80 for none. */
static void plans_of_configs(void **state) {
  enum { EVERY = DEVICES };
  static const CudnnRules rules = {.deterministic = true, .workspace = 1 << 30};
  (void)state;
  for (int i = 0; i < DEVICES; i++) {
    cudnnBackendDescriptor_t properties;
    Cudnn *cudnn = open_described(&devices[i], &rules, NULL, &properties);
    Convolution *own = mem_new((size_t)recorder.count, sizeof *own);
    int count = 0;
    for (int k = i; k < recorder.count; k += EVERY) own[count++] = recorder.convolutions[k];
    cudnn_prepare(cudnn, own, count);
    for (int k = 0; k < count; k++) {
      const Convolution *convolution = &own[k];
      CudnnChoice choice;
      Text text = {0};
      if (cudnn_choose(cudnn, convolution, NULL, &choice, &error) != OK)
        fail_msg("%s", error.message);
      convolution_text(convolution, &text);
      if (strncmp(choice.plan->details, "engine ", 7) != 0 ||
          strtoll(choice.plan->details + 7, NULL, 10) != choice.plan->engine)
        fail_msg("%s: %s", text.data, choice.plan->details);
      if (choice.plan->tensor_cores != (strstr(choice.plan->details, "tensor_core") != NULL))
        fail_msg("%s: %s", text.data, choice.plan->details);
      if (devices[i].version == 800 && convolution->operands == DTYPE_BF16 &&
          !choice.plan->tensor_cores)
        fail_msg("%s: %s: without tensor cores", devices[i].name, text.data);
      text_free(&text);
    }
    free(own);
    close_described(cudnn, properties);
  }
}

/* Made side by side in threads they are those that are made one by one, and are there when asked
 * for. */
static void plans_made_in_threads(void **state) {
  enum { EVERY = 16 }; /* on a GPU an engine is compiled for up to seconds */
  static const CudnnRules rules = {.workspace = 1 << 30};
  cudnnBackendDescriptor_t properties[2];
  (void)state;
  Cudnn *alone = open_described(&devices[1], &rules, NULL, &properties[0]);
  Cudnn *together = open_described(&devices[1], &rules, NULL, &properties[1]);
  cudnn_prepare(together, recorder.convolutions, recorder.count);
  assert_int_equal(cudnn_made(together), recorder.count);
  cudnn_prepare(together, recorder.convolutions, recorder.count);
  for (int i = 0; i < recorder.count; i += EVERY) {
    CudnnChoice a, b;
    char name[64], other[64];
    assert_int_equal(cudnn_choose(alone, &recorder.convolutions[i], NULL, &a, &error), OK);
    assert_int_equal(cudnn_choose(together, &recorder.convolutions[i], NULL, &b, &error), OK);
    assert_string_equal(convolution_form_name(&a.form, name),
                        convolution_form_name(&b.form, other));
    assert_string_equal(a.plan->details, b.plan->details);
  }
  assert_int_equal(cudnn_made(together), recorder.count);
  close_described(alone, properties[0]);
  close_described(together, properties[1]);
}

/* A form of a convolution that is asked for by itself, and the name of what was got; "": none. */
typedef struct AskedForm {
  const Convolution *convolution;
  ConvolutionForm form;
  char got[64];
} AskedForm;

typedef struct AskedForms {
  int count, found;
  AskedForm *items;
} AskedForms;

static const CudnnRules large_workspace = {.workspace = 1 << 30};

/* In any thread. */
static void ask_for_form(void *context, int index, const CudnnTarget *target) {
  AskedForm *asked = &((AskedForms *)context)->items[index];
  Error refusal = {0};
  CudnnChoice choice;
  Cudnn *cudnn = cudnn_open(target, devices[0].name, &large_workspace, NULL, 1, LONG_PATIENCE);
  if (cudnn_choose(cudnn, asked->convolution, &asked->form, &choice, &refusal) == OK)
    convolution_form_name(&choice.form, asked->got);
  cudnn_free(cudnn);
}

static void check_form(void *context, int index) {
  AskedForms *all = context;
  const AskedForm *asked = &all->items[index];
  char wanted[64];
  if (asked->got[0] == '\0') return;
  assert_string_equal(asked->got, convolution_form_name(&asked->form, wanted));
  all->found++;
}

/* Who asks for one form gets that one or none. */
static void plans_of_one_form(void **state) {
  enum { EVERY = 9 };
  AskedForms all = {0};
  (void)state;
  const CudnnTarget target = described_or_skip(&devices[0]);
  all.items = mem_new((size_t)(recorder.count * CONVOLUTION_MAX_FORMS), sizeof *all.items);
  for (int i = 0; i < recorder.count; i += EVERY) {
    ConvolutionForm forms[CONVOLUTION_MAX_FORMS];
    const int count = convolution_forms(&recorder.convolutions[i], forms);
    for (int k = 0; k < count; k++)
      all.items[all.count++] = (AskedForm){&recorder.convolutions[i], forms[k], ""};
  }
  const CudnnWork work = {
      .count = all.count, .context = &all, .make = ask_for_form, .take = check_form};
  CudnnWorkers *workers = cudnn_workers_new(0);
  cudnn_workers_run(workers, &target, &work);
  cudnn_workers_free(workers);
  assert_true(all.found > recorder.count / EVERY);
  free(all.items);
  cudnnBackendDestroyDescriptor(target.properties);
}

/* Unmeasured, a gradient of weights is one that cuDNN writes in bf16. */
static void narrow_gradients_come_first(void **state) {
  int found = 0;
  (void)state;
  for (int i = 0; i < recorder.count; i++) {
    const Convolution *c = &recorder.convolutions[i];
    ConvolutionForm forms[CONVOLUTION_MAX_FORMS];
    if (c->pass != CONVOLUTION_BACKWARD_WEIGHTS || c->operands == c->result) continue;
    convolution_forms(c, forms);
    assert_int_equal(forms[0].gradient, GRADIENT_NARROW);
    found++;
  }
  assert_true(found > 0);
}

static Convolution plain_convolution(void) {
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

/* Of every convolution of every config. */
static void most_flops_first(void **state) {
  Convolution *sorted = mem_new((size_t)recorder.count, sizeof *sorted);
  double sum = 0, again = 0;
  (void)state;
  memcpy(sorted, recorder.convolutions, (size_t)recorder.count * sizeof *sorted);
  convolutions_by_flops(sorted, recorder.count);
  for (int i = 0; i < recorder.count; i++) {
    sum += convolution_flops(&recorder.convolutions[i]);
    again += convolution_flops(&sorted[i]);
    if (i > 0) assert_true(convolution_flops(&sorted[i - 1]) >= convolution_flops(&sorted[i]));
  }
  assert_true(sum > 1e9 && fabs(sum - again) < 1e-9 * sum);
  free(sorted);
  /* 2 x 4 x 16 x 16 pixels, 27 taps, 64 channels in and 32 out. */
  const Convolution plain = plain_convolution();
  assert_true(convolution_flops(&plain) == 2.0 * 2048 * 27 * 64 * 32);
}

/* What the threads of cudnn_workers.h are given. */
enum { PIECES = 200 };
typedef struct Pieces {
  pthread_t caller;
  bool made[PIECES], taken[PIECES], is_wrong;
} Pieces;

static void make_piece(void *context, int index, const CudnnTarget *target) {
  Pieces *pieces = context;
  if (pieces->made[index] || target->handle) pieces->is_wrong = true;
  pieces->made[index] = true;
}

static void take_piece(void *context, int index) {
  Pieces *pieces = context;
  if (!pieces->made[index] || pieces->taken[index] ||
      !pthread_equal(pthread_self(), pieces->caller))
    pieces->is_wrong = true;
  pieces->taken[index] = true;
}

/* Each piece once, made before it is taken, and taken by who asked; several runs of the same
 * threads, with more of them than work and less. */
static void work_in_threads(void **state) {
  static const int counts[] = {0, 1, 2, PIECES};
  const CudnnTarget target = {0};
  (void)state;
  for (int threads = 1; threads <= 7; threads += 3) {
    CudnnWorkers *workers = cudnn_workers_new(threads);
    for (int i = 0; i < 4; i++) {
      Pieces pieces = {.caller = pthread_self()};
      const CudnnWork work = {
          .count = counts[i], .context = &pieces, .make = make_piece, .take = take_piece};
      cudnn_workers_run(workers, &target, &work);
      assert_false(pieces.is_wrong);
      for (int k = 0; k < PIECES; k++) assert_int_equal(pieces.taken[k], k < counts[i]);
    }
    cudnn_workers_free(workers);
  }
}

static void plans_of_random_shapes(void **state) {
  enum { SHAPES = 30 };
  Convolution shapes[SHAPES];
  (void)state;
  for (uint64_t seed = 0; seed < SHAPES; seed++) {
    Random random = random_stream(seed, RANDOM_TEST, 2, 0);
    shapes[seed] = random_convolution(&random);
  }
  for (int tf32 = 0; tf32 <= 1; tf32++) {
    const CudnnRules rules = {.tf32 = tf32 == 1, .deterministic = tf32 == 1, .workspace = 1 << 20};
    cudnnBackendDescriptor_t properties;
    Cudnn *cudnn = open_described(&devices[1], &rules, NULL, &properties);
    cudnn_prepare(cudnn, shapes, SHAPES);
    for (int seed = 0; seed < SHAPES; seed++) {
      const Convolution *convolution = &shapes[seed];
      CudnnChoice choice;
      if (cudnn_choose(cudnn, convolution, NULL, &choice, &error) != OK)
        fail_msg("seed %d: %s", seed, error.message);
      assert_in_range(choice.plan->workspace, 0, rules.workspace);
      if (convolution->operands == DTYPE_F32 && !tf32) assert_false(choice.plan->tensor_cores);
    }
    close_described(cudnn, properties);
  }
}

/* --- Choices on disk -------------------------------------------------------------------------- */
/* The paths of the choices in `folder`, in the order of their names; returns how many. Beside them
 * lies the file of the locks. */
enum { MOST_KEPT = 1000 };
static int kept_in(const char *folder, char *paths[MOST_KEPT]) {
  char **names;
  size_t count;
  int found = 0;
  assert_int_equal(folder_list(folder, &names, &count, &error), OK);
  assert_in_range(count, 0, MOST_KEPT);
  for (size_t i = 0; i < count; i++)
    if (strcmp(names[i], "lock") != 0) paths[found++] = path_join(folder, names[i]);
  folder_list_free(names, count);
  return found;
}

static char *only_path(const char *folder) {
  char *paths[MOST_KEPT];
  assert_int_equal(kept_in(folder, paths), 1);
  return paths[0];
}

static void read_text(const char *path, char **text) {
  size_t size;
  if (file_read(path, 1 << 20, text, &size, &error) != OK) fail_msg("%s", error.message);
}

static void choose_once(const char *folder, const CudnnRules *rules, CudnnChoice *choice) {
  cudnnBackendDescriptor_t properties;
  Cudnn *cudnn = open_described(&devices[1], rules, folder, &properties);
  const Convolution convolution = plain_convolution();
  if (cudnn_choose(cudnn, &convolution, NULL, choice, &error) != OK) fail_msg("%s", error.message);
  CudnnChoice again;
  assert_int_equal(cudnn_choose(cudnn, &convolution, NULL, &again, &error), OK);
  assert_ptr_equal(choice->plan, again.plan);
  close_described(cudnn, properties);
}

/* A choice's text with another number of its engine; the caller frees. */
static char *with_engine(const char *text, int engine) {
  static const char name[] = "\"engine\": ";
  const char *place = strstr(text, name);
  assert_non_null(place);
  place += strlen(name);
  return mem_format("%.*s%d%s", (int)(place - text), text, engine, place + strcspn(place, ","));
}

static void choices_are_kept(void **state) {
  static const CudnnRules rules = {.workspace = 64 << 20};
  char folder[] = "/tmp/celforge-plans-XXXXXX";
  CudnnChoice choice;
  (void)state;
  assert_non_null(mkdtemp(folder));
  choose_once(folder, &rules, &choice);
  char *path = only_path(folder), *text, *made;
  read_text(path, &text);

  /* A plan that is read is used as it stands: its number, which only the file holds, comes back. */
  char *marked = with_engine(text, 12345);
  assert_int_equal(atomic_file_replace(path, marked, strlen(marked), &error), OK);
  cudnnBackendDescriptor_t properties;
  Cudnn *cudnn = open_described(&devices[1], &rules, folder, &properties);
  const Convolution convolution = plain_convolution();
  assert_int_equal(cudnn_choose(cudnn, &convolution, NULL, &choice, &error), OK);
  assert_int_equal(choice.plan->engine, 12345);
  close_described(cudnn, properties);
  free(marked);

  /* Other rules are another key. */
  static const CudnnRules other = {.workspace = 65 << 20};
  choose_once(folder, &other, &choice);
  char *paths[MOST_KEPT];
  assert_int_equal(kept_in(folder, paths), 2);
  for (int i = 0; i < 2; i++) {
    if (strcmp(paths[i], path) != 0) unlink(paths[i]);
    free(paths[i]);
  }

  /* Whatever is wrong with the file, it is made anew. */
  const char *const damages[] = {"", "{", "{}", "{\"key\": \"x\"}", "\x01\x02"};
  for (size_t i = 0; i <= sizeof damages / sizeof *damages; i++) {
    char *damaged =
        i < sizeof damages / sizeof *damages ? mem_string(damages[i]) : mem_string(text);
    if (i == sizeof damages / sizeof *damages) { /* valid JSON, but cuDNN's part is not */
      char *plan = strstr(damaged, "cudnnVersion");
      assert_non_null(plan);
      plan[0] = 'X';
    }
    assert_int_equal(atomic_file_replace(path, damaged, strlen(damaged), &error), OK);
    choose_once(folder, &rules, &choice);
    free(path);
    path = only_path(folder);
    read_text(path, &made);
    assert_string_equal(made, text);
    free(made);
    free(damaged);
  }
  free(text);
  free(path);
  assert_int_equal(folder_remove(folder, &error), OK);
}

/* --- Choices of several processes ------------------------------------------------------------- */
/* A rank, in a thread of its own: claims tell open files apart, not processes. */
typedef struct Rank {
  Cudnn *cudnn;
  cudnnBackendDescriptor_t properties;
  pthread_t thread;
} Rank;

enum { SHARED_PART = 3 }; /* of all convolutions */

static void *prepare_part(void *argument) {
  const Rank *rank = argument;
  cudnn_prepare(rank->cudnn, recorder.convolutions, recorder.count / SHARED_PART);
  return NULL;
}

/* Each choice is made by one of them, and all have it. */
static void ranks_share_the_work(void **state) {
  enum { RANKS = 3 };
  static const CudnnRules rules = {.workspace = 1 << 30};
  char folder[] = "/tmp/celforge-plans-XXXXXX", *paths[MOST_KEPT];
  Rank ranks[RANKS];
  int made = 0, busy = 0;
  (void)state;
  assert_non_null(mkdtemp(folder));
  for (int i = 0; i < RANKS; i++)
    ranks[i].cudnn = open_described(&devices[1], &rules, folder, &ranks[i].properties);
  for (int i = 0; i < RANKS; i++)
    assert_int_equal(pthread_create(&ranks[i].thread, NULL, prepare_part, &ranks[i]), 0);
  for (int i = 0; i < RANKS; i++) pthread_join(ranks[i].thread, NULL);
  for (int i = 0; i < RANKS; i++) {
    const int own = cudnn_made(ranks[i].cudnn);
    made += own;
    busy += own > 0;
    prepare_part(&ranks[i]); /* nothing is left to make */
    assert_int_equal(cudnn_made(ranks[i].cudnn), own);
  }
  assert_int_equal(made, recorder.count / SHARED_PART);
  assert_in_range(busy, 2, RANKS);
  for (int i = 0; i < recorder.count / SHARED_PART; i++) {
    CudnnChoice first, other;
    for (int k = 0; k < RANKS; k++) {
      assert_int_equal(cudnn_choose(ranks[k].cudnn, &recorder.convolutions[i], NULL,
                                    k == 0 ? &first : &other, &error),
                       OK);
      if (k > 0) assert_string_equal(first.plan->details, other.plan->details);
    }
  }
  for (int i = 0; i < RANKS; i++) close_described(ranks[i].cudnn, ranks[i].properties);
  const int kept = kept_in(folder, paths);
  assert_int_equal(kept, recorder.count / SHARED_PART);
  for (int i = 0; i < kept; i++) free(paths[i]);
  assert_int_equal(folder_remove(folder, &error), OK);
}

/* A claim is one's own until it is ended, by its owner or with it; who waits gets it then, or gives
 * up. */
static void claims(void **state) {
  char folder[] = "/tmp/celforge-plans-XXXXXX";
  (void)state;
  assert_null(cudnn_claims_open(NULL, 1));
  assert_true(cudnn_claim(NULL, "any"));
  assert_non_null(mkdtemp(folder));
  CudnnClaims *a = cudnn_claims_open(folder, 0.1), *b = cudnn_claims_open(folder, 0.1);
  assert_non_null(a);
  assert_non_null(b);
  assert_true(cudnn_claim(a, "one"));
  assert_false(cudnn_claim(b, "one"));
  assert_true(cudnn_claim(b, "two"));
  assert_false(cudnn_claim(a, "two"));
  assert_false(cudnn_claim_wait(b, "one"));
  cudnn_claim_end(a, "one");
  assert_true(cudnn_claim_wait(b, "one"));
  assert_false(cudnn_claim(a, "one"));
  cudnn_claims_close(b);
  assert_true(cudnn_claim_wait(a, "one"));
  assert_true(cudnn_claim_wait(a, "two"));
  cudnn_claims_close(a);
  assert_int_equal(folder_remove(folder, &error), OK);
  /* A folder that cannot be written is shared with nobody. */
  assert_null(cudnn_claims_open("/proc/celforge", 1));
}

/* Many keys of one owner, which ends one after another or none. */
enum { OWNED = 50, STEPS = 6 };
typedef struct Owner {
  CudnnClaims *claims, *waiting; /* the owner's own; who waits */
  int number;
} Owner;

static const char *numbered(int number, char text[16]) {
  snprintf(text, 16, "key %d", number);
  return text;
}

static void *end_in_steps(void *argument) {
  const Owner *owner = argument;
  char key[16];
  for (int i = 0; i < STEPS; i++) {
    nanosleep(&(struct timespec){.tv_nsec = 400000000}, NULL);
    cudnn_claim_end(owner->claims, numbered(i, key));
  }
  return NULL;
}

static void *wait_for_one(void *argument) {
  const Owner *owner = argument;
  char key[16];
  return cudnn_claim_wait(owner->waiting, numbered(owner->number, key)) ? argument : NULL;
}

/* As long as something comes it is waited for; when nothing does, for one patience in all, by
 * however many threads and for however many keys. */
static void patience_is_one_for_all_claims(void **state) {
  enum { THREADS = 4 };
  static const double PATIENCE = 2; /* less than all steps take */
  char folder[] = "/tmp/celforge-plans-XXXXXX", key[16];
  pthread_t ending, threads[THREADS];
  Owner owner, waits[THREADS];
  (void)state;
  assert_non_null(mkdtemp(folder));
  owner.claims = cudnn_claims_open(folder, PATIENCE);
  owner.waiting = cudnn_claims_open(folder, PATIENCE);
  for (int i = 0; i < OWNED; i++) assert_true(cudnn_claim(owner.claims, numbered(i, key)));
  double begin = clock_seconds();
  assert_int_equal(pthread_create(&ending, NULL, end_in_steps, &owner), 0);
  for (int i = 0; i < STEPS; i++) assert_true(cudnn_claim_wait(owner.waiting, numbered(i, key)));
  assert_true(clock_seconds() - begin > PATIENCE);
  pthread_join(ending, NULL);

  begin = clock_seconds();
  for (int i = 0; i < THREADS; i++) {
    waits[i] = owner;
    waits[i].number = STEPS + i;
    assert_int_equal(pthread_create(&threads[i], NULL, wait_for_one, &waits[i]), 0);
  }
  for (int i = 0; i < THREADS; i++) {
    void *got;
    pthread_join(threads[i], &got);
    assert_null(got);
  }
  for (int i = STEPS; i < OWNED; i++)
    assert_false(cudnn_claim_wait(owner.waiting, numbered(i, key)));
  assert_true(clock_seconds() - begin > PATIENCE / 2);
  assert_true(clock_seconds() - begin < 5 * PATIENCE);
  cudnn_claims_close(owner.claims);
  for (int i = 0; i < OWNED; i++) assert_true(cudnn_claim_wait(owner.waiting, numbered(i, key)));
  cudnn_claims_close(owner.waiting);
  assert_int_equal(folder_remove(folder, &error), OK);
}

/* Claims what the choice in the file was made for, and removes the file. */
static void claim_again(CudnnClaims *claims, const char *path) {
  json_t *root;
  const char *key;
  assert_int_equal(json_read_file(path, 1 << 20, &root, &error), OK);
  assert_int_equal(json_get_string(root, path, "key", &key, &error), OK);
  assert_true(cudnn_claim(claims, key));
  json_decref(root);
  unlink(path);
}

/* What another claims and does not make is made after all, when its claim ends. */
static void *end_soon(void *argument) {
  nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
  cudnn_claims_close(argument);
  return NULL;
}

static void claims_of_the_dead_end(void **state) {
  static const CudnnRules rules = {.workspace = 64 << 20};
  char folder[] = "/tmp/celforge-plans-XXXXXX";
  CudnnChoice choice;
  pthread_t thread;
  (void)state;
  assert_non_null(mkdtemp(folder));
  choose_once(folder, &rules, &choice);
  char *path = only_path(folder);
  CudnnClaims *other = cudnn_claims_open(folder, LONG_PATIENCE);
  claim_again(other, path);
  free(path);
  cudnnBackendDescriptor_t properties;
  Cudnn *cudnn = open_described(&devices[1], &rules, folder, &properties);
  const Convolution convolution = plain_convolution();
  assert_int_equal(pthread_create(&thread, NULL, end_soon, other), 0);
  const double begin = clock_seconds();
  cudnn_prepare(cudnn, &convolution, 1);
  assert_true(clock_seconds() - begin > 0.2);
  assert_int_equal(cudnn_made(cudnn), 1);
  pthread_join(thread, NULL);
  close_described(cudnn, properties);
  assert_int_equal(folder_remove(folder, &error), OK);
}

/* Prepares the first `count` convolutions in one thread; returns the seconds that it took. What it
 * says goes to a file beside the choices. */
static double prepare_some(const char *folder, int count, double patience) {
  static const CudnnRules rules = {.workspace = 64 << 20};
  const CudnnTarget target = described_or_skip(&devices[1]);
  char *path = mem_format("%s/said", folder);
  Cudnn *cudnn = cudnn_open(&target, devices[1].name, &rules, folder, 1, patience);
  const int before = dup(STDERR_FILENO), log = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
  assert_true(before >= 0 && log >= 0);
  dup2(log, STDERR_FILENO);
  const double begin = clock_seconds();
  cudnn_prepare(cudnn, recorder.convolutions, count);
  const double seconds = clock_seconds() - begin;
  dup2(before, STDERR_FILENO);
  close(before);
  close(log);
  free(path);
  assert_int_equal(cudnn_made(cudnn), count);
  close_described(cudnn, target.properties);
  return seconds;
}

/* Another process has claimed everything and is stopped: it is waited for once, not once for each
 * convolution, which is said once, and all are prepared here. */
static void who_is_stopped_is_waited_for_once(void **state) {
  enum { COUNT = 12 };
  static const double PATIENCE = 1;
  static const char words[] = "is prepared here as well";
  char folder[] = "/tmp/celforge-plans-XXXXXX", *paths[MOST_KEPT], *said;
  (void)state;
  assert_non_null(mkdtemp(folder));
  const double alone = prepare_some(folder, COUNT, PATIENCE);
  char *log = mem_format("%s/said", folder);
  unlink(log);
  CudnnClaims *other = cudnn_claims_open(folder, PATIENCE);
  assert_int_equal(kept_in(folder, paths), COUNT);
  for (int i = 0; i < COUNT; i++) {
    claim_again(other, paths[i]);
    free(paths[i]);
  }
  const double beside = prepare_some(folder, COUNT, PATIENCE);
  if (beside < PATIENCE / 2 || beside > PATIENCE * COUNT / 2 + alone)
    fail_msg("%d convolutions took %.2f s alone, %.2f s beside one who is stopped", COUNT, alone,
             beside);
  read_text(log, &said);
  const char *first = strstr(said, words);
  if (!first || strstr(first + 1, words)) fail_msg("not said, or more than once: %s", said);
  free(said);
  free(log);
  cudnn_claims_close(other);
  assert_int_equal(folder_remove(folder, &error), OK);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(graphs_of_configs),
      cmocka_unit_test(graphs_of_random_shapes),
      cmocka_unit_test(wrong_shapes_are_refused),
      cmocka_unit_test(plans_of_configs),
      cmocka_unit_test(plans_of_random_shapes),
      cmocka_unit_test(choices_are_kept),
      cmocka_unit_test(plans_made_in_threads),
      cmocka_unit_test(work_in_threads),
      cmocka_unit_test(plans_of_one_form),
      cmocka_unit_test(narrow_gradients_come_first),
      cmocka_unit_test(most_flops_first),
      cmocka_unit_test(claims),
      cmocka_unit_test(ranks_share_the_work),
      cmocka_unit_test(claims_of_the_dead_end),
      cmocka_unit_test(patience_is_one_for_all_claims),
      cmocka_unit_test(who_is_stopped_is_waited_for_once),
  };
  return cmocka_run_group_tests(tests, record_all, forget_all);
}
