/* A step's trace: taken from a model, written and read again, refused where it is wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "trainer/scaling/trace.h"

static Error error;

static char *temporary(const char *content) {
  char path[] = "/tmp/celforge-trace-XXXXXX";
  int descriptor = mkstemp(path);
  assert_true(descriptor >= 0);
  assert_int_equal(write(descriptor, content, strlen(content)), (ssize_t)strlen(content));
  close(descriptor);
  return mem_string(path);
}

static Config small_config(const char *const *assignments) {
  Config config;
  assert_int_equal(config_set_defaults(&config_schema, &config, &error), OK);
  for (; *assignments; assignments++)
    if (config_assign(&config_schema, *assignments, &config, &error) != OK)
      fail_msg("%s", error.message);
  return config;
}

/* Counts all-reduces, their bytes and whether each is waited for before the step's end. */
typedef struct Sums {
  int reduces, pending;
  double bytes, flops;
} Sums;

static Sums trace_model(const char *gradients, int micro_batches) {
  Config config = small_config((const char *const[]){
      "model.channels=4", "model.blocks=1", "model.image_channels=4", "model.image_layers=2",
      "model.video_channels=4", "model.video_layers=2", "comm.bucket_mib=0.01", gradients, NULL});
  ModelOptions options = {
      .shape = {3, 32, 32, 3, 32, 32}, .micro_batches = micro_batches, .all_reduce = true};
  Backend *backend = NULL;
  Model *model = NULL;
  StepTrace trace;
  Sums sums = {0};
  if (backend_cpu_new(1, &backend, &error) != OK) fail_msg("%s", error.message);
  if (model_plan(&config, backend, &options, &model, &error) != OK) fail_msg("%s", error.message);
  step_trace_of_model(model, &trace);
  for (int i = 0; i < trace.count; i++) {
    const TraceOp *op = &trace.ops[i];
    if (op->waits) sums.pending = 0;
    sums.flops += op->flops;
    sums.bytes += op->reduces;
    if (op->reduces > 0) sums.reduces++, sums.pending++;
  }
  double wanted = model_cost(model, 0).flops;
  if (micro_batches == 1) assert_true(fabs(sums.flops - wanted) <= 1e-9 * wanted);
  assert_int_equal(trace.clips, config.train.micro_batch * micro_batches);
  assert_false(trace.measured);
  double numbers = (double)(model_generator(model)->total + model_discriminator(model)->total);
  double width = config.comm.gradients == PRECISION_BF16 ? 2 : 4;
  assert_true(sums.bytes == numbers * width);
  step_trace_free(&trace);
  model_free(model);
  backend->free(backend);
  return sums;
}

static void test_of_model(void **state) {
  (void)state;
  Sums one = trace_model("comm.gradients=f32", 1), three = trace_model("comm.gradients=f32", 3);
  Sums half = trace_model("comm.gradients=bf16", 1);
  assert_true(one.reduces > 2);
  assert_int_equal(one.pending, 0); /* the norms wait for the gradients */
  assert_int_equal(three.reduces, one.reduces);
  assert_int_equal(three.pending, 0);
  assert_true(three.flops > 2.5 * one.flops);
  assert_int_equal(half.reduces, one.reduces);
}

static void test_written_and_read(void **state) {
  (void)state;
  StepTrace trace = {.name = "a step",
                     .precision = PRECISION_BF16,
                     .clips = 3,
                     .threads = 2,
                     .clip_bytes = 1e6 / 3,
                     .state_bytes = 1e9,
                     .batches_ahead = 2.5,
                     .checkpoint_every = 100,
                     .overlap = false};
  TraceOp ops[] = {{.name = "conv", .seconds = 0.1, .flops = 1e9, .bytes = 1e7},
                   {.name = "bucket", .reduces = 1e6},
                   {.name = "norm", .seconds = 1.0 / 3, .waits = true}};
  for (int i = 0; i < 3; i++) step_trace_append(&trace, &ops[i]);
  char *path = temporary("");
  StepTrace back;
  assert_int_equal(step_trace_write(&trace, path, &error), OK);
  if (step_trace_read(path, &back, &error) != OK) fail_msg("%s", error.message);
  assert_int_equal(back.count, 3);
  assert_memory_equal(back.ops, trace.ops, 3 * sizeof *trace.ops);
  assert_string_equal(back.name, trace.name);
  assert_true(back.measured && !back.overlap && back.precision == PRECISION_BF16);
  assert_true(back.clips == 3 && back.threads == 2 && back.clip_bytes == trace.clip_bytes &&
              back.state_bytes == 1e9 && back.batches_ahead == 2.5 && back.checkpoint_every == 100);
  step_trace_scale(&back, 26);
  assert_true(fabs(back.ops[0].seconds - 6) < 1e-12 && fabs(back.ops[2].seconds - 20) < 1e-12);
  unlink(path);
  free(path);
  step_trace_free(&trace);
  step_trace_free(&back);
}

static void refuses(const char *json, const char *message) {
  char *path = temporary(json);
  StepTrace trace;
  Status status = step_trace_read(path, &trace, &error);
  unlink(path);
  if (status != ERROR_DATA || !strstr(error.message, message) || !strstr(error.message, path))
    fail_msg("status %d: %s, want %s", status, error.message, message);
  free(path);
}

static void test_refused(void **state) {
  (void)state;
#define HEAD "{\"format\": \"celforge-step-trace\", \"name\": \"x\", \"precision\": \"f32\", "
  refuses("{\"format\": \"onnx\"}", "format");
  refuses(HEAD "\"ops\": []}", "clips: missing");
  refuses(HEAD "\"clips\": 1, \"ops\": []}", "ops is empty");
  refuses(HEAD "\"clips\": 0, \"ops\": []}", "clips");
  refuses(HEAD "\"clips\": 1, \"ops\": [{\"name\": \"a\"}, 3]}", "ops[1]");
  refuses(HEAD "\"clips\": 1, \"ops\": [{\"seconds\": 1}]}", "ops[0].name");
  refuses(HEAD "\"clips\": 1, \"ops\": [{\"name\": \"a\", \"seconds\": -1}]}", "seconds is -1");
  refuses(HEAD "\"clips\": 1, \"ops\": [{\"name\": \"a\", \"seconds\": 1e300}]}",
          "must be 0 to 1e+18");
  refuses(HEAD "\"clips\": 1, \"batches_ahead\": 1e300, \"ops\": [{\"name\": \"a\"}]}",
          "batches_ahead is");
  refuses(HEAD "\"clips\": 1, \"ops\": [{\"name\": \"a\", \"waits\": 1}]}", "waits");
  refuses("{\"format\": \"celforge-step-trace\", \"name\": \"x\", \"precision\": \"f16\"}", "f16");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_of_model),
      cmocka_unit_test(test_written_and_read),
      cmocka_unit_test(test_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
