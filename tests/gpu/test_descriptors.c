/* cuDNN graphs and plans, as far as they can be tested without a GPU: the operation graphs of every
 * variant of every convolution in the configs, and the engines and plans for described GPUs. */
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
#include "engine/cuda/autotune/build_threads.h"
#include "tests/gpu/support_plans.h"

static Error error;

/* --- Graphs ----------------------------------------------------------------------------------- */
static void check_graphs(const Convolution *convolution) {
  ConvVariant variants[CONV_MAX_VARIANTS];
  const int count = conv_variants(convolution, variants);
  assert_in_range(count, 1, CONV_MAX_VARIANTS);
  for (int i = 0; i < count; i++) {
    char name[64];
    CudnnGraph *graph = NULL;
    const Convolution inner = conv_variant_apply(convolution, &variants[i]);
    if (cudnn_graph_new(&inner, variants[i].frames, variants[i].wgrad == WGRAD_IDENTITY, NULL,
                        &graph, &error) != OK)
      fail_msg("%s: %s", conv_variant_name(&variants[i], name), error.message);
    cudnn_graph_free(graph);
  }
}

static void cudnn_accepts_the_graphs_of_configs(void **state) {
  (void)state;
  for (int i = 0; i < recorder.count; i++) check_graphs(&recorder.convolutions[i]);
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

static void cudnn_accepts_the_graphs_of_random_shapes(void **state) {
  (void)state;
  for (uint64_t seed = 0; seed < 60; seed++) {
    Random random = random_stream(seed, RANDOM_TEST, 0, 0);
    const Convolution convolution = random_convolution(&random);
    check_graphs(&convolution);
  }
}

static void cudnn_rejects_wrong_shapes(void **state) {
  static const char code[] = "CUDNN_STATUS_BAD_PARAM";
  (void)state;
  for (uint64_t seed = 0; seed < 30; seed++) {
    Random random = random_stream(seed, RANDOM_TEST, 1, 0);
    Convolution wrong = random_convolution(&random);
    wrong.y.dim[AXIS_T + between(&random, 0, 2)] += between(&random, 1, 5);
    CudnnGraph *graph = NULL;
    error = (Error){0};
    assert_int_equal(cudnn_graph_new(&wrong, false, false, NULL, &graph, &error), ERROR_INTERNAL);
    assert_null(graph);
    const char *found = strstr(error.message, code);
    if (!found) fail_msg("no \"%s\" in: %s", code, error.message);
    assert_non_null(strchr(found, ':')); /* followed by cuDNN's message */
  }
}

/* --- Plans for described GPUs ----------------------------------------------------------------- */
/* The devices take turns. Without a driver cuDNN has no engines that are compiled at run time; on
 * sm_90 some shapes have no other engine on tensor cores, on sm_80 none. */
static void every_convolution_of_the_configs_has_a_plan(void **state) {
  static const CudnnConstraints constraints = {.deterministic = true, .workspace = 1 << 30};
  const int every = DEVICES * test_every(1, 4);
  (void)state;
  for (int i = 0; i < DEVICES; i++) {
    cudnnBackendDescriptor_t properties;
    Autotuner *autotuner = open_described(&devices[i], &constraints, NULL, &properties);
    Convolution *own = mem_new((size_t)recorder.count, sizeof *own);
    int count = 0;
    for (int k = i; k < recorder.count; k += every) own[count++] = recorder.convolutions[k];
    autotuner_prepare(autotuner, own, count);
    for (int k = 0; k < count; k++) {
      const Convolution *convolution = &own[k];
      ConvChoice choice;
      Text text = {0};
      if (autotuner_choose(autotuner, convolution, NULL, &choice, &error) != OK)
        fail_msg("%s", error.message);
      convolution_text(convolution, &text);
      if (strncmp(choice.plan->details, "engine ", 7) != 0 ||
          strtoll(choice.plan->details + 7, NULL, 10) != choice.plan->engine)
        fail_msg("%s: %s", text.data, choice.plan->details);
      if (choice.plan->tensor_cores != (strstr(choice.plan->details, "tensor_core") != NULL))
        fail_msg("%s: %s", text.data, choice.plan->details);
      if (devices[i].version == 800 && convolution->operands == DTYPE_BF16 &&
          !choice.plan->tensor_cores)
        fail_msg("%s: %s: engine without tensor cores", devices[i].name, text.data);
      text_free(&text);
    }
    free(own);
    close_described(autotuner, properties);
  }
}

/* Plans built in parallel equal those built one by one, and are not built again. */
static void plans_built_in_parallel_are_the_same(void **state) {
  enum { EVERY = 16 }; /* on a GPU an engine is compiled for up to seconds */
  static const CudnnConstraints constraints = {.workspace = 1 << 30};
  cudnnBackendDescriptor_t properties[2];
  (void)state;
  Autotuner *alone = open_described(&devices[1], &constraints, NULL, &properties[0]);
  Autotuner *together = open_described(&devices[1], &constraints, NULL, &properties[1]);
  autotuner_prepare(together, recorder.convolutions, recorder.count);
  assert_int_equal(autotuner_built(together), recorder.count);
  autotuner_prepare(together, recorder.convolutions, recorder.count);
  for (int i = 0; i < recorder.count; i += EVERY) {
    ConvChoice a, b;
    char name[64], other[64];
    assert_int_equal(autotuner_choose(alone, &recorder.convolutions[i], NULL, &a, &error), OK);
    assert_int_equal(autotuner_choose(together, &recorder.convolutions[i], NULL, &b, &error), OK);
    assert_string_equal(conv_variant_name(&a.variant, name), conv_variant_name(&b.variant, other));
    assert_string_equal(a.plan->details, b.plan->details);
  }
  assert_int_equal(autotuner_built(together), recorder.count);
  close_described(alone, properties[0]);
  close_described(together, properties[1]);
}

/* A request for one variant, and the name of the variant of the plan; "" where there is no plan. */
typedef struct VariantRequest {
  const Convolution *convolution;
  ConvVariant variant;
  char got[64];
} VariantRequest;

typedef struct VariantRequests {
  int count, found;
  VariantRequest *items;
} VariantRequests;

static const CudnnConstraints large_workspace = {.workspace = 1 << 30};

/* In any thread. */
static void request_variant(void *context, int index, const CudnnTarget *target) {
  VariantRequest *request = &((VariantRequests *)context)->items[index];
  Error refusal = {0};
  ConvChoice choice;
  Autotuner *autotuner =
      autotuner_open(target, devices[0].name, &large_workspace, NULL, 1, LOCK_TIMEOUT);
  if (autotuner_choose(autotuner, request->convolution, &request->variant, &choice, &refusal) == OK)
    conv_variant_name(&choice.variant, request->got);
  autotuner_free(autotuner);
}

static void check_request(void *context, int index) {
  VariantRequests *all = context;
  const VariantRequest *request = &all->items[index];
  char wanted[64];
  if (request->got[0] == '\0') return;
  assert_string_equal(request->got, conv_variant_name(&request->variant, wanted));
  all->found++;
}

/* A request for one variant never returns another. */
static void plans_of_a_requested_variant(void **state) {
  const int every = test_every(9, 90);
  VariantRequests all = {0};
  (void)state;
  const CudnnTarget target = described_or_skip(&devices[0]);
  all.items = mem_new((size_t)(recorder.count * CONV_MAX_VARIANTS), sizeof *all.items);
  for (int i = 0; i < recorder.count; i += every) {
    ConvVariant variants[CONV_MAX_VARIANTS];
    const int count = conv_variants(&recorder.convolutions[i], variants);
    for (int k = 0; k < count; k++)
      all.items[all.count++] = (VariantRequest){&recorder.convolutions[i], variants[k], ""};
  }
  const BuildWork work = {
      .count = all.count, .context = &all, .build = request_variant, .finish = check_request};
  BuildThreads *threads = build_threads_new(0);
  build_threads_run(threads, &target, &work);
  build_threads_free(threads);
  assert_true(all.found > recorder.count / every);
  free(all.items);
  cudnnBackendDestroyDescriptor(target.properties);
}

/* Without measurements, gradients of weights are first tried with bf16 output. */
static void bf16_weight_gradients_come_first(void **state) {
  int found = 0;
  (void)state;
  for (int i = 0; i < recorder.count; i++) {
    const Convolution *c = &recorder.convolutions[i];
    ConvVariant variants[CONV_MAX_VARIANTS];
    if (c->pass != CONVOLUTION_BACKWARD_WEIGHTS || c->operands == c->result) continue;
    conv_variants(c, variants);
    assert_int_equal(variants[0].wgrad, WGRAD_BF16);
    found++;
  }
  assert_true(found > 0);
}

static void convolutions_are_sorted_by_flops(void **state) {
  Convolution *sorted = mem_new((size_t)recorder.count, sizeof *sorted);
  double sum = 0, again = 0;
  (void)state;
  memcpy(sorted, recorder.convolutions, (size_t)recorder.count * sizeof *sorted);
  convolutions_sort_by_flops(sorted, recorder.count);
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

enum { ITEMS = 200 };
typedef struct Items {
  pthread_t caller;
  bool built[ITEMS], finished[ITEMS], is_wrong;
} Items;

static void build_item(void *context, int index, const CudnnTarget *target) {
  Items *items = context;
  if (items->built[index] || target->handle) items->is_wrong = true;
  items->built[index] = true;
}

static void finish_item(void *context, int index) {
  Items *items = context;
  if (!items->built[index] || items->finished[index] ||
      !pthread_equal(pthread_self(), items->caller))
    items->is_wrong = true;
  items->finished[index] = true;
}

/* Each item is built once, then finished in the caller's thread; several runs of the same threads,
 * with more and fewer items than threads. */
static void build_threads_run_each_item_once(void **state) {
  static const int counts[] = {0, 1, 2, ITEMS};
  const CudnnTarget target = {0};
  (void)state;
  for (int threads = 1; threads <= 7; threads += 3) {
    BuildThreads *pool = build_threads_new(threads);
    for (int i = 0; i < 4; i++) {
      Items items = {.caller = pthread_self()};
      const BuildWork work = {
          .count = counts[i], .context = &items, .build = build_item, .finish = finish_item};
      build_threads_run(pool, &target, &work);
      assert_false(items.is_wrong);
      for (int k = 0; k < ITEMS; k++) assert_int_equal(items.finished[k], k < counts[i]);
    }
    build_threads_free(pool);
  }
}

static void every_random_convolution_has_a_plan(void **state) {
  enum { SHAPES = 30 };
  Convolution shapes[SHAPES];
  (void)state;
  for (uint64_t seed = 0; seed < SHAPES; seed++) {
    Random random = random_stream(seed, RANDOM_TEST, 2, 0);
    shapes[seed] = random_convolution(&random);
  }
  for (int tf32 = 0; tf32 <= 1; tf32++) {
    const CudnnConstraints constraints = {
        .tf32 = tf32 == 1, .deterministic = tf32 == 1, .workspace = 1 << 20};
    cudnnBackendDescriptor_t properties;
    Autotuner *autotuner = open_described(&devices[1], &constraints, NULL, &properties);
    autotuner_prepare(autotuner, shapes, SHAPES);
    for (int seed = 0; seed < SHAPES; seed++) {
      const Convolution *convolution = &shapes[seed];
      ConvChoice choice;
      if (autotuner_choose(autotuner, convolution, NULL, &choice, &error) != OK)
        fail_msg("seed %d: %s", seed, error.message);
      assert_in_range(choice.plan->workspace, 0, constraints.workspace);
      if (convolution->operands == DTYPE_F32 && !tf32) assert_false(choice.plan->tensor_cores);
    }
    close_described(autotuner, properties);
  }
}

/* --- The plan cache --------------------------------------------------------------------------- */
/* The text of a plan file with another engine number; the caller frees. */
static char *with_engine(const char *text, int engine) {
  static const char name[] = "\"engine\": ";
  const char *place = strstr(text, name);
  assert_non_null(place);
  place += strlen(name);
  return mem_format("%.*s%d%s", (int)(place - text), text, engine, place + strcspn(place, ","));
}

static void choices_are_cached_on_disk(void **state) {
  static const CudnnConstraints constraints = {.workspace = 64 << 20};
  char folder[] = "/tmp/celforge-plans-XXXXXX";
  ConvChoice choice;
  (void)state;
  assert_non_null(mkdtemp(folder));
  choose_once(folder, &constraints, &choice);
  char *path = only_cached(folder), *text, *made;
  read_text(path, &text);

  /* A plan is read from the file: the engine number comes from there alone. */
  char *marked = with_engine(text, 12345);
  assert_int_equal(atomic_file_replace(path, marked, strlen(marked), &error), OK);
  cudnnBackendDescriptor_t properties;
  Autotuner *autotuner = open_described(&devices[1], &constraints, folder, &properties);
  const Convolution convolution = plain_convolution();
  assert_int_equal(autotuner_choose(autotuner, &convolution, NULL, &choice, &error), OK);
  assert_int_equal(choice.plan->engine, 12345);
  close_described(autotuner, properties);
  free(marked);

  /* Other constraints have another key. */
  static const CudnnConstraints other = {.workspace = 65 << 20};
  choose_once(folder, &other, &choice);
  char *paths[MAX_CACHED];
  assert_int_equal(list_cached(folder, paths), 2);
  for (int i = 0; i < 2; i++) {
    if (strcmp(paths[i], path) != 0) unlink(paths[i]);
    free(paths[i]);
  }

  /* A damaged file is replaced. */
  const char *const damages[] = {"", "{", "{}", "{\"key\": \"x\"}", "\x01\x02"};
  for (size_t i = 0; i <= sizeof damages / sizeof *damages; i++) {
    char *damaged =
        i < sizeof damages / sizeof *damages ? mem_string(damages[i]) : mem_string(text);
    if (i == sizeof damages / sizeof *damages) { /* valid JSON with an invalid plan */
      char *plan = strstr(damaged, "cudnnVersion");
      assert_non_null(plan);
      plan[0] = 'X';
    }
    assert_int_equal(atomic_file_replace(path, damaged, strlen(damaged), &error), OK);
    choose_once(folder, &constraints, &choice);
    free(path);
    path = only_cached(folder);
    read_text(path, &made);
    assert_string_equal(made, text);
    free(made);
    free(damaged);
  }
  free(text);
  free(path);
  assert_int_equal(folder_remove(folder, &error), OK);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(cudnn_accepts_the_graphs_of_configs),
      cmocka_unit_test(cudnn_accepts_the_graphs_of_random_shapes),
      cmocka_unit_test(cudnn_rejects_wrong_shapes),
      cmocka_unit_test(every_convolution_of_the_configs_has_a_plan),
      cmocka_unit_test(every_random_convolution_has_a_plan),
      cmocka_unit_test(choices_are_cached_on_disk),
      cmocka_unit_test(plans_built_in_parallel_are_the_same),
      cmocka_unit_test(build_threads_run_each_item_once),
      cmocka_unit_test(plans_of_a_requested_variant),
      cmocka_unit_test(bf16_weight_gradients_come_first),
      cmocka_unit_test(convolutions_are_sorted_by_flops),
  };
  return cmocka_run_group_tests(tests, record_all, forget_all);
}
