/* Which paddings and sums of gradients are fused into neighbouring ops. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support_bench.h"

static const Shape image = {{1, 2, 4, 4, 8}}, weight = {{8, 1, 3, 3, 8}};

static Value convolution(Bench *bench, Value x) {
  return graph_conv3d(bench->graph, x, source(bench, weight), NO_VALUE,
                      conv_spec_same(1, 3, 1, PAD_ZERO));
}

static Value norm_of(Bench *bench, Value x, NormKind kind) {
  Value gain = source(bench, shape_vector(8)), bias = source(bench, shape_vector(8));
  return graph_norm(bench->graph, x, gain, bias, kind, 2, 1e-5f);
}

static Value norm(Bench *bench, Value x) {
  return norm_of(bench, x, NORM_RMS);
}

/* --- Padding of what is resized --------------------------------------------------------------- */

static Value doubled(Bench *bench, Value x) {
  Shape shape = graph_shape(bench->graph, x);
  return graph_resize(bench->graph, x, 2 * shape.dim[AXIS_H], 2 * shape.dim[AXIS_W],
                      RESIZE_NEAREST);
}

static Value bordered(Bench *bench, Value x) {
  const Shape border = {{0, 0, 1, 1, 0}};
  return graph_pad(bench->graph, x, border, border, PAD_REFLECT);
}

static void resize_fuses_padding(void **state) {
  (void)state;
  Bench b = bench_new();
  Value x = source(&b, image), gradient;
  Value large = doubled(&b, x), y = bordered(&b, large);
  graph_gradients(b.graph, graph_mean(b.graph, graph_square(b.graph, y)), &x, 1, &gradient);
  keep(&b, gradient);
  bench_plan(&b);
  assert_int_equal(count(&b, OP_PAD), 0);
  assert_int_equal(count(&b, OP_PAD_BACKWARD), 0);
  const Op *forward = only(&b, OP_RESIZE), *backward = only(&b, OP_RESIZE_BACKWARD);
  assert_int_equal(forward->outputs[0].id, y.id);
  assert_int_equal(backward->outputs[0].id, gradient.id);
  assert_true(op_fused_pad(forward) && op_fused_pad(backward));
  assert_int_equal(forward->attributes.resize.pad.mode, PAD_REFLECT);
  assert_int_equal(backward->attributes.resize.pad.mode, PAD_REFLECT);
  bench_free(&b);
}

/* The output of the resize is also read without padding. */
static void resize_with_two_readers_is_not_fused(void **state) {
  (void)state;
  Bench b = bench_new();
  Value large = doubled(&b, source(&b, image));
  keep(&b, bordered(&b, large));
  keep(&b, graph_average_pool(b.graph, large, 2, 2, 0));
  bench_plan(&b);
  only(&b, OP_PAD);
  assert_false(op_fused_pad(only(&b, OP_RESIZE)));
  bench_free(&b);
}

/* Two paddings in a row: only one is fused. */
static void resize_fuses_one_padding(void **state) {
  (void)state;
  Bench b = bench_new();
  Value inner = bordered(&b, doubled(&b, source(&b, image)));
  keep(&b, bordered(&b, inner));
  bench_plan(&b);
  assert_int_equal(only(&b, OP_RESIZE)->outputs[0].id, inner.id);
  assert_int_equal(only(&b, OP_PAD)->inputs[0].id, inner.id);
  bench_free(&b);
}

/* --- Padding of what is normalised ------------------------------------------------------------ */

static void norm_fuses_padding(void **state) {
  (void)state;
  Bench b = bench_new();
  Value x = source(&b, image), gradient;
  Value y = bordered(&b, graph_relu(b.graph, norm(&b, x)));
  graph_gradients(b.graph, graph_mean(b.graph, graph_square(b.graph, y)), &x, 1, &gradient);
  keep(&b, gradient);
  bench_plan(&b);
  assert_int_equal(count(&b, OP_PAD), 0);
  assert_int_equal(count(&b, OP_PAD_BACKWARD), 0);
  const Op *forward = only(&b, OP_NORM), *backward = only(&b, OP_NORM_BACKWARD);
  assert_int_equal(forward->outputs[0].id, y.id);
  assert_int_equal(backward->outputs[0].id, gradient.id);
  assert_int_equal(forward->attributes.norm.activation, ACTIVATION_LEAKY_RELU);
  assert_int_equal(backward->attributes.norm.activation, ACTIVATION_LEAKY_RELU);
  for (int i = 0; i < 2; i++) {
    const PadAttributes *pad = op_fused_pad(i == 0 ? forward : backward);
    assert_non_null(pad);
    assert_int_equal(pad->mode, PAD_REFLECT);
    assert_int_equal(pad->before.dim[AXIS_H], 1);
    assert_int_equal(pad->after.dim[AXIS_W], 1);
  }
  bench_free(&b);
}

/* A residual block: the output of the first norm is padded for a convolution and is the residual of
 * the second norm. */
static void residuals_read_the_interior_of_paddings(void **state) {
  (void)state;
  Bench b = bench_new();
  Value first = norm(&b, source(&b, image)), padded = bordered(&b, first);
  Value way = graph_average_pool(b.graph, padded, 3, 1, 0);
  Value second = graph_add(b.graph, first, norm(&b, convolution(&b, way)));
  keep(&b, bordered(&b, second));
  bench_plan(&b);
  assert_int_equal(count(&b, OP_PAD), 0);
  assert_int_equal(count(&b, OP_NORM), 2);
  const Op *pool = only(&b, OP_AVERAGE_POOL);
  assert_int_equal(pool->inputs[0].id, padded.id);
  for (int i = 0; i < b.planned.program->step_count; i++) {
    const Op *op = op_at(b.planned.program, i);
    if (op->kind != OP_NORM) continue;
    assert_non_null(op_fused_pad(op));
    const bool adds = op->input_count > 3;
    assert_int_equal(op->attributes.norm.residual_pad.before.dim[AXIS_H], adds);
    if (adds) assert_int_equal(op->inputs[3].id, padded.id);
  }
  bench_free(&b);
}

/* Not fused: statistics of frames; zero padding; another reader of the output of the norm. */
static void norms_without_padding(void **state) {
  const Shape border = {{0, 0, 1, 1, 0}};
  (void)state;
  for (int i = 0; i < 4; i++) {
    Bench b = bench_new();
    const NormKind kinds[] = {NORM_INSTANCE, NORM_GROUP, NORM_RMS, NORM_RMS};
    Value y = norm_of(&b, source(&b, image), kinds[i]);
    keep(&b, graph_pad(b.graph, y, border, border, i == 2 ? PAD_ZERO : PAD_REFLECT));
    if (i == 3) keep(&b, graph_average_pool(b.graph, y, 2, 2, 0));
    bench_plan(&b);
    assert_int_equal(only(&b, OP_PAD)->inputs[0].id, y.id);
    assert_null(op_fused_pad(only(&b, OP_NORM)));
    bench_free(&b);
  }
}

/* Not fused: two paddings of one tensor; a norm whose input is also its residual; a residual of an
 * instance norm. */
static void residuals_without_padding(void **state) {
  const Shape wider = {{0, 0, 2, 2, 0}};
  (void)state;
  for (int i = 0; i < 3; i++) {
    Bench b = bench_new();
    Value y = norm(&b, source(&b, image));
    Value other = i == 1 ? y : graph_average_pool(b.graph, source(&b, image), 3, 1, 1);
    Value second = norm_of(&b, other, i == 2 ? NORM_INSTANCE : NORM_RMS);
    keep(&b, bordered(&b, y));
    if (i == 0) keep(&b, graph_pad(b.graph, y, wider, wider, PAD_REFLECT));
    keep(&b, graph_average_pool(b.graph, graph_add(b.graph, second, y), 2, 2, 0));
    bench_plan(&b);
    assert_true(count(&b, OP_PAD) >= 1);
    for (int k = 0; k < b.planned.program->step_count; k++) {
      const Op *op = op_at(b.planned.program, k);
      if (op->kind == OP_NORM) assert_null(op_fused_pad(op));
    }
    bench_free(&b);
  }
}

/* Not fused: the gradient of the norm's output is itself read, or is a sum with another one. */
static void gradients_without_padding(void **state) {
  (void)state;
  for (int sum = 0; sum < 2; sum++) {
    Bench b = bench_new();
    Value x = source(&b, image), y = norm(&b, x), gradients[2], wrt[2] = {x, y};
    Value loss = graph_mean(b.graph, graph_square(b.graph, bordered(&b, y)));
    if (sum)
      loss = graph_add(b.graph, loss, graph_mean(b.graph, graph_square(b.graph, norm(&b, y))));
    graph_gradients(b.graph, loss, wrt, 2 - sum, gradients);
    for (int i = 0; i < 2 - sum; i++) keep(&b, gradients[i]);
    bench_plan(&b);
    assert_int_equal(op_has_addend(only(&b, OP_PAD_BACKWARD)), sum);
    for (int i = 0; i < b.planned.program->step_count; i++)
      assert_true(op_at(b.planned.program, i)->kind != OP_NORM_BACKWARD ||
                  !op_fused_pad(op_at(b.planned.program, i)));
    bench_free(&b);
  }
}

/* --- Sums of gradients ------------------------------------------------------------------------ */

/* x is also read beside `map`; its gradient is the sum of both. */
typedef Value Map(Bench *bench, Value x);

static Value pooled(Bench *bench, Value x) {
  return graph_average_pool(bench->graph, x, 2, 2, 0);
}

static void map_backward_fuses_addend(void **state) {
  static Map *const maps[] = {bordered, doubled, pooled};
  static const OpKind kinds[] = {OP_PAD_BACKWARD, OP_RESIZE_BACKWARD, OP_AVERAGE_POOL_BACKWARD};
  (void)state;
  for (int i = 0; i < 3; i++) {
    Bench b = bench_new();
    Value x = source(&b, image), gradient;
    Value mapped = graph_mean(b.graph, graph_square(b.graph, maps[i](&b, x)));
    Value beside = graph_mean(b.graph, graph_square(b.graph, norm(&b, x)));
    graph_gradients(b.graph, graph_add(b.graph, mapped, beside), &x, 1, &gradient);
    keep(&b, gradient);
    bench_plan(&b);
    const Op *backward = only(&b, kinds[i]);
    assert_true(op_has_addend(backward));
    assert_int_equal(backward->outputs[0].id, gradient.id);
    assert_int_equal(backward->inputs[1].id, only(&b, OP_NORM_BACKWARD)->outputs[0].id);
    bench_free(&b);
  }
}

/* Another op is between the gradient and the sum: its input would live longer. */
static void distant_sums_are_not_fused(void **state) {
  (void)state;
  Bench b = bench_new();
  Value x = source(&b, image), y = source(&b, image), gradient;
  graph_gradients(b.graph, graph_mean(b.graph, graph_square(b.graph, bordered(&b, x))), &x, 1,
                  &gradient);
  keep(&b, graph_add(b.graph, gradient, norm(&b, y)));
  bench_plan(&b);
  assert_false(op_has_addend(only(&b, OP_PAD_BACKWARD)));
  bench_free(&b);
}

/* A padding with an addend cannot be fused into a resize. */
static void padding_with_addend_is_not_fused_into_resize(void **state) {
  (void)state;
  Bench b = bench_new();
  Value x = source(&b, image), gradient, large = doubled(&b, x);
  Value padded = graph_mean(b.graph, graph_square(b.graph, bordered(&b, large)));
  Value beside = graph_mean(b.graph, graph_square(b.graph, norm(&b, large)));
  graph_gradients(b.graph, graph_add(b.graph, padded, beside), &x, 1, &gradient);
  keep(&b, gradient);
  bench_plan(&b);
  assert_true(op_has_addend(only(&b, OP_PAD_BACKWARD)));
  assert_false(op_fused_pad(only(&b, OP_RESIZE_BACKWARD)));
  bench_free(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(resize_fuses_padding),
      cmocka_unit_test(resize_with_two_readers_is_not_fused),
      cmocka_unit_test(resize_fuses_one_padding),
      cmocka_unit_test(norm_fuses_padding),
      cmocka_unit_test(residuals_read_the_interior_of_paddings),
      cmocka_unit_test(norms_without_padding),
      cmocka_unit_test(residuals_without_padding),
      cmocka_unit_test(gradients_without_padding),
      cmocka_unit_test(map_backward_fuses_addend),
      cmocka_unit_test(distant_sums_are_not_fused),
      cmocka_unit_test(padding_with_addend_is_not_fused_into_resize),
  };
  return cmocka_run_group_tests_name("fusion of maps", tests, NULL, NULL);
}
