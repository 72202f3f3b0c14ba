#include "base/bf16.h"
#include "engine/ops/rules.h"
#include "graph_checks.h"

static const PadMode zero = PAD_ZERO, reflect = PAD_REFLECT;

/* --- Tensors ---------------------------------------------------------------------------------- */

static void bf16_rounds_to_nearest_even(void **state) {
  (void)state;
  /* 1 + 2^-8 is halfway between 1 and 1 + 2^-7: ties to even gives 1. */
  assert_int_equal(bf16_from_f32(1.0f + 0x1p-8f), 0x3f80);
  assert_int_equal(bf16_from_f32(1.0f + 0x1p-8f + 0x1p-20f), 0x3f81);
  assert_int_equal(bf16_from_f32(1.0f + 0x1p-7f + 0x1p-8f), 0x3f82);
  assert_int_equal(bf16_from_f32(-0.0f), 0x8000);
  assert_int_equal(bf16_from_f32(3.4028235e38f), 0x7f80); /* above the largest bf16: infinity */
  uint32_t bits = 0x7f800001u; /* a NaN whose payload is in the lower half */
  float nan;
  memcpy(&nan, &bits, sizeof nan);
  assert_int_equal(bf16_from_f32(nan), 0x7fc0);
  for (uint32_t i = 0; i < 0x10000; i++) {
    float exact = bf16_to_f32((uint16_t)i);
    if (exact == exact) assert_int_equal(bf16_from_f32(exact), i);
  }
}

static void shapes_as_text(void **state) {
  (void)state;
  char text[SHAPE_TEXT_SIZE];
  assert_string_equal(shape_text(shape_make(2, 8, 64, 64, 3), text), "[2,8,64,64,3]");
  int64_t most = INT64_MIN;
  shape_text(shape_make(most, most, most, most, most), text);
  assert_int_equal(strlen(text), 106);
  assert_int_equal(shape_count(shape_make(2, 3, 4, 5, 6)), 720);
}

/* --- Scopes, errors, views -------------------------------------------------------------------- */

static void names_and_scopes(void **state) {
  (void)state;
  Fixture f = fixture_new();
  assert_string_equal(graph_scope(f.graph), "");
  Value x = source(&f, DTYPE_F32, shape_vector(4));
  assert_string_equal(graph_producer(f.graph, x)->name, "view");
  graph_scope_push(f.graph, "generator");
  graph_scope_push(f.graph, "block%d", 3);
  assert_string_equal(graph_scope(f.graph), "generator.block3");
  Value y = graph_tanh(f.graph, x);
  assert_string_equal(graph_producer(f.graph, y)->name, "generator.block3.tanh");
  graph_scope_pop(f.graph);
  assert_string_equal(graph_scope(f.graph), "generator");
  graph_scope_pop(f.graph);
  assert_string_equal(graph_scope(f.graph), "");
  graph_scope_pop(f.graph);
  check_error(f.graph, "scope: popped more often than pushed");
  graph_free(f.graph);
}

static void first_error_stays(void **state) {
  (void)state;
  Fixture f = fixture_new();
  Value x = source(&f, DTYPE_F32, shape_vector(4));
  graph_scope_push(f.graph, "net.conv1");
  Value bad = graph_add(f.graph, x, source(&f, DTYPE_F32, shape_vector(3)));
  assert_int_equal(bad.id, -1);
  int ops = f.graph->op_count;
  Value next = graph_mul(f.graph, graph_mean(f.graph, bad), x);
  assert_int_equal(next.id, -1);
  assert_int_equal(graph_tanh(f.graph, x).id, -1);
  graph_store(f.graph, next, x);
  graph_fail(f.graph, "later");
  assert_int_equal(f.graph->op_count, ops);
  check_error(f.graph,
              "net.conv1: add: [1,1,1,1,4] and [1,1,1,1,3] do not broadcast; lengths must be "
              "equal or 1");
  assert_int_equal(shape_count(graph_shape(f.graph, bad)), 0);
  graph_free(f.graph);
}

static void missing_operand(void **state) {
  (void)state;
  Fixture f = fixture_new();
  graph_add(f.graph, source(&f, DTYPE_F32, shape_vector(4)), NO_VALUE);
  check_error(f.graph, "add: operand 1 is missing");
  graph_free(f.graph);
}

static void views_are_unique(void **state) {
  (void)state;
  Fixture f = fixture_new();
  Value a = graph_view(f.graph, &f.buffers[0], 8, shape_vector(4));
  assert_int_equal(graph_view(f.graph, &f.buffers[0], 8, shape_vector(4)).id, a.id);
  assert_int_not_equal(graph_view(f.graph, &f.buffers[0], 8, shape_vector(5)).id, a.id);
  assert_int_not_equal(graph_view(f.graph, &f.buffers[0], 9, shape_vector(4)).id, a.id);
  assert_int_not_equal(graph_view(f.graph, &f.buffers[1], 8, shape_vector(4)).id, a.id);
  check_value(f.graph, a, DTYPE_F32, shape_vector(4));
  graph_free(f.graph);
}

/* --- Shapes and dtypes ------------------------------------------------------------------------ */

static void pointwise_dtypes(void **state) {
  (void)state;
  Fixture f = fixture_new();
  Graph *g = f.graph;
  Shape full = shape_make(2, 3, 4, 5, 6), vector = shape_vector(6);
  Value x32 = source(&f, DTYPE_F32, full), x16 = source(&f, DTYPE_BF16, full);
  Value v32 = source(&f, DTYPE_F32, vector), v16 = source(&f, DTYPE_BF16, vector);
  Value column = source(&f, DTYPE_F32, shape_make(2, 3, 4, 5, 1));
  check_value(g, graph_add(g, x16, v32), DTYPE_BF16, full);
  check_value(g, graph_add(g, v32, x16), DTYPE_BF16, full);
  check_value(g, graph_mul(g, x16, x32), DTYPE_F32, full);
  check_value(g, graph_sub(g, x32, v16), DTYPE_F32, full);
  check_value(g, graph_div(g, column, v32), DTYPE_F32, full); /* no operand has the full shape */
  check_value(g, graph_div(g, column, v16), DTYPE_F32, full);
  check_value(g, graph_tanh(g, x16), DTYPE_BF16, full);
  check_value(g, graph_broadcast(g, v16, full), DTYPE_BF16, full);
  check_value(g, graph_constant(g, full, 2), DTYPE_F32, full);
  check_value(g, graph_cast(g, source(&f, DTYPE_U8, full), DTYPE_BF16), DTYPE_BF16, full);
  check_value(g, graph_mean(g, x16), DTYPE_F32, shape_scalar());
  check_value(g, graph_reduce_sum(g, x16, 1u << AXIS_H | 1u << AXIS_W, 0.5f), DTYPE_F32,
              shape_make(2, 3, 1, 1, 6));
  graph_free(g);
}

static void identities_return_the_input(void **state) {
  (void)state;
  Fixture f = fixture_new();
  Graph *g = f.graph;
  Shape shape = shape_make(1, 2, 3, 4, 5), none = {{0}};
  Value x = source(&f, DTYPE_F32, shape);
  assert_int_equal(graph_cast(g, x, DTYPE_F32).id, x.id);
  assert_int_equal(graph_reshape(g, x, shape).id, x.id);
  assert_int_equal(graph_broadcast(g, x, shape).id, x.id);
  assert_int_equal(graph_slice(g, x, none, shape).id, x.id);
  assert_int_equal(graph_pad(g, x, none, none, reflect).id, x.id);
  assert_int_equal(graph_concat(g, &x, 1, AXIS_C).id, x.id);
  assert_int_equal(graph_affine(g, x, 1, 0).id, x.id);
  assert_int_equal(graph_resize(g, x, 3, 4, RESIZE_BILINEAR).id, x.id);
  assert_int_equal(graph_average_pool(g, x, 1, 1, 0).id, x.id);
  assert_int_equal(graph_max_pool(g, x, 1).id, x.id);
  assert_int_equal(graph_reduce_sum(g, x, 1u << AXIS_N, 1).id, x.id);
  assert_int_equal(g->op_count, 1);
  graph_free(g);
}

/* Lengths are those of torch.nn.functional.conv3d, avg_pool2d and pad. */
static void shapes_of_layers(void **state) {
  (void)state;
  Fixture f = fixture_new();
  Graph *g = f.graph;
  Value x = source(&f, DTYPE_F32, shape_make(2, 4, 9, 10, 3));
  Value w = source(&f, DTYPE_F32, shape_make(5, 3, 4, 4, 3));
  Value bias = source(&f, DTYPE_F32, shape_vector(5));
  ConvSpec spec = {.stride = {1, 2, 3}, .before = {2, 1, 0}, .after = {0, 1, 2}, .mode = zero};
  check_value(g, graph_conv3d(g, x, w, bias, spec), DTYPE_F32, shape_make(2, 4, 4, 3, 5));
  int pads = count_kind(g, OP_PAD);
  assert_int_equal(pads, 0);
  spec.mode = reflect;
  check_value(g, graph_conv3d(g, x, w, NO_VALUE, spec), DTYPE_F32, shape_make(2, 4, 4, 3, 5));
  assert_int_equal(count_kind(g, OP_PAD), 1);
  const Op *conv = &g->ops[g->op_count - 1];
  assert_int_equal(conv->input_count, 2);
  check_value(g, conv->inputs[0], DTYPE_F32, shape_make(2, 4, 11, 12, 3)); /* time is not in it */
  assert_int_equal(conv->attributes.conv.before[0], 2);
  assert_int_equal(conv->attributes.conv.before[1] + conv->attributes.conv.after[2], 0);
  spec = conv_spec_same(3, 7, 1, reflect);
  Value same = source(&f, DTYPE_F32, shape_make(5, 3, 7, 7, 3));
  check_value(g, graph_conv3d(g, x, same, bias, spec), DTYPE_F32, shape_make(2, 4, 9, 10, 5));
  Value y = graph_conv3d_transpose(g, x, source(&f, DTYPE_F32, shape_make(3, 2, 3, 4, 5)), bias,
                                   (ConvSpec){.stride = {1, 2, 3}, .before = {0, 1, 0}},
                                   (const int[]){0, 1, 2});
  check_value(g, y, DTYPE_F32, shape_make(2, 5, 19, 33, 5));
  check_value(g, graph_average_pool(g, x, 3, 2, 1), DTYPE_F32, shape_make(2, 4, 5, 5, 3));
  check_value(g, graph_max_pool(g, x, 4), DTYPE_F32, shape_make(2, 4, 2, 2, 3));
  check_value(g, graph_resize(g, x, 18, 5, RESIZE_NEAREST), DTYPE_F32, shape_make(2, 4, 18, 5, 3));
  Value parts[] = {x, graph_slice(g, x, shape_make(0, 1, 0, 0, 0), shape_make(2, 3, 9, 10, 3))};
  check_value(g, parts[1], DTYPE_F32, shape_make(2, 3, 9, 10, 3));
  check_value(g, graph_concat(g, parts, 2, AXIS_T), DTYPE_F32, shape_make(2, 7, 9, 10, 3));
  check_value(g, graph_pad(g, x, shape_make(1, 0, 2, 0, 3), shape_make(0, 4, 0, 5, 0), zero),
              DTYPE_F32, shape_make(3, 8, 11, 15, 6));
  check_value(g, graph_norm(g, x, NO_VALUE, NO_VALUE, NORM_INSTANCE, 0, 1e-5f), DTYPE_F32,
              shape_make(2, 4, 9, 10, 3));
  graph_free(g);
}

static void updates_name_their_written_inputs(void **state) {
  (void)state;
  Fixture f = fixture_new();
  Graph *g = f.graph;
  Value view[9];
  for (int i = 0; i < 9; i++)
    view[i] = source(&f,
                     i == 5   ? DTYPE_BF16
                     : i == 8 ? DTYPE_I64
                              : DTYPE_F32,
                     shape_vector(i < 6    ? 32
                                  : i == 7 ? 4
                                           : 3));
  view[6] = graph_mean(g, view[1]);
  AdamViews adam = {view[0], view[1], view[2], view[3], NO_VALUE,
                    view[5], view[6], view[7], view[8]};
  graph_adam(g, &adam, 0.5f, 0.999f, 1e-8f, 0);
  assert_int_equal(op_written_inputs(&g->ops[g->op_count - 1]), 1 | 4 | 8 | 32 | 256);
  graph_store(g, graph_tanh(g, view[0]), view[5]);
  assert_int_equal(op_written_inputs(&g->ops[g->op_count - 1]), 2);
  graph_accumulate(g, view[0], view[1]);
  assert_true(g->ops[g->op_count - 1].attributes.store.accumulate);
  graph_all_reduce(g, view[1]);
  assert_int_equal(op_written_inputs(&g->ops[g->op_count - 1]), 1);
  assert_int_equal(op_written_inputs(&g->ops[0]), 0);
  assert_int_equal(graph_status(g, NULL), OK);
  graph_free(g);
}

static void every_kind_has_a_name(void **state) {
  (void)state;
  for (int kind = 0; kind < OP_KIND_COUNT; kind++) {
    assert_non_null(op_kind_name((OpKind)kind));
    for (int other = 0; other < kind; other++)
      assert_string_not_equal(op_kind_name((OpKind)kind), op_kind_name((OpKind)other));
  }
}

static double flops_of(const Graph *graph, Value value) {
  const Op *op = graph_producer(graph, value);
  Shape inputs[OP_MAX_INPUTS], outputs[OP_MAX_OUTPUTS];
  for (int i = 0; i < op->input_count; i++) inputs[i] = graph_shape(graph, op->inputs[i]);
  for (int i = 0; i < op->output_count; i++) outputs[i] = graph_shape(graph, op->outputs[i]);
  return op_rule(op->kind)->flops(op, inputs, outputs);
}

static void flops(void **state) {
  (void)state;
  Fixture f = fixture_new();
  Graph *g = f.graph;
  Value x = source(&f, DTYPE_F32, shape_make(2, 4, 8, 8, 3));
  Value w = source(&f, DTYPE_F32, shape_make(5, 3, 3, 3, 3));
  Value y = graph_conv3d(g, x, w, NO_VALUE, conv_spec_same(3, 3, 2, zero)), gradients[2];
  double form = 2.0 * (2 * 4 * 4 * 4 * 5) * (27 * 3);
  assert_true(flops_of(g, y) == form);
  Value wrt[] = {x, w};
  graph_gradients(g, graph_mean(g, y), wrt, 2, gradients);
  assert_true(flops_of(g, gradients[0]) == form);
  assert_true(flops_of(g, gradients[1]) == form);
  Value up = graph_conv3d_transpose(g, y, w, NO_VALUE, conv_spec_same(3, 3, 2, zero),
                                    (const int[]){0, 1, 1});
  assert_true(flops_of(g, up) == form);
  Value a = source(&f, DTYPE_F32, shape_make(2, 3, 1, 7, 5));
  assert_true(flops_of(g, graph_matmul(g, a, a, true, false)) == 2.0 * 6 * 5 * 5 * 7);
  assert_true(flops_of(g, graph_matmul(g, a, a, false, true)) == 2.0 * 6 * 7 * 7 * 5);
  assert_true(flops_of(g, graph_tanh(g, x)) == 2 * 4 * 8 * 8 * 3);
  assert_true(flops_of(g, graph_mean(g, x)) == 2 * 4 * 8 * 8 * 3);
  graph_free(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(bf16_rounds_to_nearest_even),
      cmocka_unit_test(shapes_as_text),
      cmocka_unit_test(names_and_scopes),
      cmocka_unit_test(first_error_stays),
      cmocka_unit_test(missing_operand),
      cmocka_unit_test(views_are_unique),
      cmocka_unit_test(pointwise_dtypes),
      cmocka_unit_test(identities_return_the_input),
      cmocka_unit_test(shapes_of_layers),
      cmocka_unit_test(updates_name_their_written_inputs),
      cmocka_unit_test(every_kind_has_a_name),
      cmocka_unit_test(flops),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
