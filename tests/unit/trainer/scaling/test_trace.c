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

static void test_written_and_read(void **state) {
  (void)state;
  StepTrace trace = {.name = "a step",
                     .bf16 = true,
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
  assert_true(back.measured && !back.overlap && back.bf16);
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
      cmocka_unit_test(test_written_and_read),
      cmocka_unit_test(test_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
