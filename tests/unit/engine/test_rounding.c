/* Roundings to bf16 inside of fused chains: the checks of support_rounding.h on the CPU, and where
 * no rounding is needed. tests/gpu/test_rounding.c has them on a GPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support_plan.h"
#include "support_rounding.h"

/* --- Which values need no rounding ------------------------------------------------------------ */

static int roundings(const Graph *graph) {
  FakeBackend fake = fake_backend();
  Planned planned = plan_for(&fake.backend, graph, false, NULL);
  const Op *op = op_at(planned.program, only_op(planned.program, OP_POINTWISE));
  const PointwiseProgram *program = &op->attributes.pointwise;
  int found = 0;
  for (int k = 0; k < program->instruction_count; k++)
    found += program->instructions[k].code == PW_ROUND_BF16;
  planned_free(&planned);
  return found;
}

/* A chain of bf16 values that ends in a tanh, which is stored as f32. */
static int roundings_behind(float slope, bool adds) {
  const Shape shape = {{2, 1, 3, 4, 4}};
  Buffer in = buffer_describe("in", DTYPE_BF16, 2 * shape_count(shape));
  Buffer out = buffer_describe("out", DTYPE_F32, shape_count(shape) + 1);
  Graph *graph = graph_new();
  Value x = graph_view(graph, &in, 0, shape);
  if (adds) x = graph_add(graph, x, graph_view(graph, &in, shape_count(shape), shape));
  x = graph_clamp(graph, graph_abs(graph, graph_leaky_relu(graph, x, slope)), 0, 0.5f);
  x = graph_tanh(graph, graph_affine(graph, x, -1, 0));
  graph_store(graph, graph_cast(graph, x, DTYPE_F32), graph_view(graph, &out, 1, shape));
  const int found = roundings(graph);
  graph_free(graph);
  return found;
}

static void exact_values_are_not_rounded(void **state) {
  (void)state;
  assert_int_equal(roundings_behind(0, false), 1); /* the tanh, before it is stored as f32 */
  assert_int_equal(roundings_behind(0, true), 2);  /* and the sum */
  assert_int_equal(roundings_behind(0.2f, true), 3);
}

static void random_chains_give_the_bytes_of_unfused_ops(void **state) {
  check_random_chains(*state, 300);
}

static void training_does_not_change_the_forward_pass(void **state) {
  Backend *backend = *state;
  if (!backend->supports_bf16(backend)) skip();
  check_recurrent_layer(backend);
}

static int open_backend(void **state) {
  Backend *backend = NULL;
  Error error;
  const bool opened = backend_cpu_new(2, &backend, &error) == OK;
  *state = backend;
  return opened ? 0 : -1;
}

static int close_backend(void **state) {
  Backend *backend = *state;
  backend->free(backend);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(random_chains_give_the_bytes_of_unfused_ops),
      cmocka_unit_test(training_does_not_change_the_forward_pass),
      cmocka_unit_test(exact_values_are_not_rounded),
  };
  return cmocka_run_group_tests_name("rounding", tests, open_backend, close_backend);
}
