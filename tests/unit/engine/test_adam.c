/* Adam's counters and bias corrections over many updates; support_cases.c has the update itself
 * against the reference. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "engine/backend/op_arguments.h"

enum { COUNT = 16, FLOAT_LIMIT = 1 << 24 /* the last integer that floats count up to */ };

static Error error;

static void assert_ok(Status status) {
  if (status != OK) fail_msg("%s", error.message);
}

/* A kernel of the CPU backend with its operands. */
typedef struct Update {
  Backend *backend;
  Kernel *kernel;
  float arrays[4][COUNT], norm;
  AdamControls controls;
  AdamCounters counters;
  Tensor inputs[ADAM_INPUTS];
} Update;

static void update_init(Update *u, AdamConstants constants) {
  static char name[] = "net.adam";
  *u = (Update){.norm = 1, .controls = {.rate = 0.5f}};
  for (int i = 0; i < COUNT; i++) u->arrays[ADAM_GRADIENTS][i] = 1;
  for (int i = 0; i < 4; i++)
    u->inputs[i] = (Tensor){.data = u->arrays[i], .shape = shape_vector(COUNT)};
  u->inputs[ADAM_NORM] = (Tensor){.data = &u->norm, .shape = shape_scalar()};
  u->inputs[ADAM_CONTROLS] =
      (Tensor){.data = &u->controls, .shape = shape_vector(ADAM_CONTROL_COUNT)};
  u->inputs[ADAM_COUNTERS] =
      (Tensor){.data = &u->counters, .shape = shape_vector(ADAM_COUNTER_COUNT), .dtype = DTYPE_I64};
  Op op = {.kind = OP_ADAM, .name = name, .input_count = ADAM_INPUTS};
  op.attributes.adam = constants;
  assert_ok(backend_cpu_new(1, &u->backend, &error));
  assert_ok(u->backend->kernel_new(u->backend, &op, u->inputs, NULL, &u->kernel, &error));
}

static void update_run(Update *u) {
  assert_ok(u->kernel->run(u->kernel, u->inputs, NULL, NULL, &error));
}

static void update_free(Update *u) {
  u->kernel->free(u->kernel);
  u->backend->free(u->backend);
}

static void counters_count_beyond_2_to_the_24(void **state) {
  (void)state;
  Update u;
  update_init(&u, (AdamConstants){0.9f, 0.999f, 1e-8f, 0});
  u.counters = (AdamCounters){.applied = FLOAT_LIMIT, .skipped = FLOAT_LIMIT};
  update_run(&u);
  assert_int_equal(u.counters.applied, 16777217);
  u.norm = NAN;
  update_run(&u);
  assert_int_equal(u.counters.skipped, 16777217);
  assert_int_equal(u.counters.skipped_in_a_row, 1);
  u.norm = 1;
  update_run(&u);
  assert_int_equal(u.counters.applied, 16777218);
  assert_int_equal(u.counters.skipped_in_a_row, 0);
  u.counters.applied = INT64_C(1) << 40;
  update_run(&u);
  assert_int_equal(u.counters.applied, (INT64_C(1) << 40) + 1);
  update_free(&u);
}

/* The parameters after one update from zero that follows `applied` others. beta2 is so close to 1
 * that its bias correction still changes after 2^24 updates. */
static float updated(int64_t applied) {
  Update u;
  update_init(&u, (AdamConstants){0.5f, 1 - 0x1p-24f, 1e-12f, 0});
  u.counters.applied = applied;
  update_run(&u);
  const float parameter = u.arrays[ADAM_PARAMETERS][COUNT - 1];
  update_free(&u);
  return parameter;
}

static void bias_correction_changes_beyond_2_to_the_24(void **state) {
  (void)state;
  assert_true(isfinite(updated(FLOAT_LIMIT)) && updated(FLOAT_LIMIT) < 0);
  assert_true(updated(FLOAT_LIMIT + 65536) < updated(FLOAT_LIMIT));
}

static void bias_correction_of_the_first_updates(void **state) {
  (void)state;
  const AdamConstants constants = {0.5f, 0.75f, 1e-8f, 0};
  const AdamControls controls = {.rate = 0.5f};
  const float step_sizes[] = {1, 0.5f / 0.75f, 0.5f / 0.875f};
  for (int applied = 0; applied < 3; applied++) {
    const AdamStep step = adam_step(constants, 1, controls, applied);
    const double bias2 = 1 - pow(0.75, applied + 1);
    assert_true(step.step_size == step_sizes[applied]);
    assert_true(step.inverse_root_bias2 == (float)(1 / sqrt(bias2)));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(counters_count_beyond_2_to_the_24),
      cmocka_unit_test(bias_correction_changes_beyond_2_to_the_24),
      cmocka_unit_test(bias_correction_of_the_first_updates),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
