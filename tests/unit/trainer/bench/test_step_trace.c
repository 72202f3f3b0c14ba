/* The trace of a training step, taken from a planned model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "trainer/bench/step_trace.h"

static Error error;

static Config small_config(const char *const *assignments) {
  Config config;
  assert_int_equal(config_set_defaults(&config_schema, &config, &error), OK);
  for (; *assignments; assignments++)
    if (config_assign(&config_schema, *assignments, &config, NULL, &error) != OK)
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
  GanOptions options = {
      .shape = {3, 32, 32, 3, 32, 32}, .micro_batches = micro_batches, .all_reduce = true};
  Backend *backend = NULL;
  Gan *gan = NULL;
  StepTrace trace;
  Sums sums = {0};
  if (backend_cpu_new(1, &backend, &error) != OK) fail_msg("%s", error.message);
  if (gan_plan(&config, backend, &options, &gan, &error) != OK) fail_msg("%s", error.message);
  step_trace_of_model(gan, &trace);
  for (int i = 0; i < trace.count; i++) {
    const TraceOp *op = &trace.ops[i];
    if (op->waits) sums.pending = 0;
    sums.flops += op->flops;
    sums.bytes += op->reduces;
    if (op->reduces > 0) sums.reduces++, sums.pending++;
  }
  double wanted = gan_cost(gan, 0).flops;
  if (micro_batches == 1) assert_true(fabs(sums.flops - wanted) <= 1e-9 * wanted);
  assert_int_equal(trace.clips, config.train.micro_batch * micro_batches);
  assert_false(trace.measured);
  double numbers = (double)(gan_generator(gan)->total + gan_discriminator(gan)->total);
  double width = config.comm.gradients == PRECISION_BF16 ? 2 : 4;
  assert_true(sums.bytes == numbers * width);
  step_trace_free(&trace);
  gan_free(gan);
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

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_of_model),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
