/* Which slices and concats become views of memory, and which run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support_bench.h"

/* 64 bytes per pixel: each frame begins at an aligned address. */
static const Shape frames = {{2, 2, 2, 2, 16}};

static Value normed(Bench *bench, Value x) {
  Value gain = source(bench, shape_vector(16)), bias = source(bench, shape_vector(16));
  return graph_norm(bench->graph, x, gain, bias, NORM_RMS, 1, 1e-5f);
}

/* The number of slices that run for the second half of a tensor along `axis`. */
static int slices_along(int axis, Shape shape, bool of_buffer) {
  Bench b = bench_new();
  Value x = source(&b, shape), whole = of_buffer ? x : normed(&b, x);
  Shape half = shape, begin = {{0}};
  half.dim[axis] /= 2;
  begin.dim[axis] = half.dim[axis];
  keep(&b, graph_average_pool(b.graph, graph_slice(b.graph, whole, begin, half), 2, 2, 0));
  const Program *program = bench_plan(&b);
  const int slices = count(&b, OP_SLICE);
  const Value read = only(&b, OP_AVERAGE_POOL)->inputs[0];
  if (slices == 0 && !of_buffer) {
    const PlanValue *part = plan_value(program->plan, read);
    assert_int_equal(part->root, whole.id);
    assert_int_equal(part->offset, shape_count(half));
  }
  bench_free(&b);
  return slices;
}

static void contiguous_slices_do_not_run(void **state) {
  static const Shape one_clip = {{1, 2, 2, 2, 16}};
  (void)state;
  assert_int_equal(slices_along(AXIS_N, frames, false), 0);
  assert_int_equal(slices_along(AXIS_T, one_clip, false), 0);
  assert_int_equal(slices_along(AXIS_T, frames, false), 1); /* in two pieces */
  assert_int_equal(slices_along(AXIS_N, frames, true), 1);  /* parts in buffers are copied */
}

/* The second half would begin at byte 48, which is not aligned. */
static void misaligned_slices_run(void **state) {
  (void)state;
  Bench b = bench_new();
  Value x = source(&b, shape_make(2, 1, 2, 2, 3));
  Value gain = source(&b, shape_vector(3)), bias = source(&b, shape_vector(3));
  Value whole = graph_norm(b.graph, x, gain, bias, NORM_RMS, 1, 1e-5f);
  Value half = graph_slice(b.graph, whole, (Shape){{1}}, shape_make(1, 1, 2, 2, 3));
  keep(&b, graph_average_pool(b.graph, half, 2, 2, 0));
  bench_plan(&b);
  only(&b, OP_SLICE);
  bench_free(&b);
}

typedef enum Operands { MADE, TWICE_THE_SAME, FROM_BUFFER, MADE_FAR } Operands;

/* The number of concats that run for two operands. */
static int concats_of(Operands operands, int axis) {
  Bench b = bench_new();
  Value x = source(&b, frames), y = source(&b, frames), parts[2] = {normed(&b, x), y};
  if (operands == MADE_FAR)
    keep(&b, graph_average_pool(b.graph, normed(&b, source(&b, frames)), 2, 2, 0));
  if (operands != FROM_BUFFER) parts[1] = operands == TWICE_THE_SAME ? parts[0] : normed(&b, y);
  Value whole = graph_concat(b.graph, parts, 2, axis);
  keep(&b, graph_average_pool(b.graph, whole, 2, 2, 0));
  const Program *program = bench_plan(&b);
  const int concats = count(&b, OP_CONCAT);
  for (int i = 0; i < 2 && concats == 0; i++) {
    const PlanValue *part = plan_value(program->plan, parts[i]);
    assert_int_equal(part->root, whole.id);
    assert_int_equal(part->offset, i * shape_count(frames));
  }
  bench_free(&b);
  return concats;
}

static void concat_operands_are_computed_in_place(void **state) {
  (void)state;
  assert_int_equal(concats_of(MADE, AXIS_N), 0);
  assert_int_equal(concats_of(MADE, AXIS_C), 1);
  assert_int_equal(concats_of(TWICE_THE_SAME, AXIS_N), 1);
  assert_int_equal(concats_of(FROM_BUFFER, AXIS_N), 1);
  assert_int_equal(concats_of(MADE_FAR, AXIS_N), 1); /* the lifetime of the whole would grow */
}

/* A concat that only the backward pass reads and that is recomputed there. The output of the
 * forward concat, which is unused then, must still have memory of its own. */
static void unused_concat_has_its_own_memory(void **state) {
  (void)state;
  Bench b = bench_new();
  Error error;
  Value parts[2], beside = normed(&b, source(&b, frames));
  for (int i = 0; i < 2; i++) parts[i] = normed(&b, source(&b, frames));
  Value whole = graph_concat(b.graph, parts, 2, AXIS_N);
  keep(&b, graph_average_pool(b.graph, beside, 2, 2, 0));
  const int backward = b.graph->op_count;
  keep(&b, graph_average_pool(b.graph, whole, 2, 2, 0));
  for (int i = backward; i < b.graph->op_count; i++) b.graph->ops[i].is_gradient = true;
  b.planned.arena = arena_new();
  const ProgramOptions options = {.name = "test", .arena = b.planned.arena, .rematerialize = true};
  assert_int_equal(program_plan(b.graph, &b.fake.backend, &options, &b.planned.program, &error),
                   OK);
  assert_int_equal(count(&b, OP_NORM), 5); /* the parts twice */
  assert_int_equal(count(&b, OP_CONCAT), 0);
  check_lifetimes(b.planned.program);
  bench_free(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(contiguous_slices_do_not_run),
      cmocka_unit_test(misaligned_slices_run),
      cmocka_unit_test(concat_operands_are_computed_in_place),
      cmocka_unit_test(unused_concat_has_its_own_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
