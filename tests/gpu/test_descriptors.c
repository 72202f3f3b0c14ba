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
#include "engine/cuda/autotune/build_threads.h"
#include "tests/gpu/support_plans.h"

static Error error;

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
/* Each convolution on one of the devices in turn.
 *
 * Without a driver cuDNN offers no engines that are compiled at run time: on sm_90 they are the
 * only ones on tensor cores for some shapes, on sm_80 for none. */
static void plans_of_configs(void **state) {
  static const CudnnRules rules = {.deterministic = true, .workspace = 1 << 30};
  const int every = DEVICES * one_in(1, 4);
  (void)state;
  for (int i = 0; i < DEVICES; i++) {
    cudnnBackendDescriptor_t properties;
    Cudnn *cudnn = open_described(&devices[i], &rules, NULL, &properties);
    Convolution *own = mem_new((size_t)recorder.count, sizeof *own);
    int count = 0;
    for (int k = i; k < recorder.count; k += every) own[count++] = recorder.convolutions[k];
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
  const int every = one_in(9, 90);
  AskedForms all = {0};
  (void)state;
  const CudnnTarget target = described_or_skip(&devices[0]);
  all.items = mem_new((size_t)(recorder.count * CONVOLUTION_MAX_FORMS), sizeof *all.items);
  for (int i = 0; i < recorder.count; i += every) {
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
  assert_true(all.found > recorder.count / every);
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

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(graphs_of_configs),        cmocka_unit_test(graphs_of_random_shapes),
      cmocka_unit_test(wrong_shapes_are_refused), cmocka_unit_test(plans_of_configs),
      cmocka_unit_test(plans_of_random_shapes),   cmocka_unit_test(choices_are_kept),
      cmocka_unit_test(plans_made_in_threads),    cmocka_unit_test(work_in_threads),
      cmocka_unit_test(plans_of_one_form),        cmocka_unit_test(narrow_gradients_come_first),
      cmocka_unit_test(most_flops_first),
  };
  return cmocka_run_group_tests(tests, record_all, forget_all);
}
