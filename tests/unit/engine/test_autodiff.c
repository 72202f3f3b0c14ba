/* The ops that graph_gradients appends: kinds, dtypes, shapes, names and order.
 * test_gradient_values.c tests the numbers. */
#include "graph_checks.h"

#include "engine/ops/autodiff.h"

static Value convolve(Graph *graph, Value x, Value w, Value bias) {
  ConvSpec spec = conv_spec_same(1, 3, 2, PAD_ZERO);
  return graph_conv3d(graph, x, w, bias, spec);
}

static void convolution(void **state) {
  (void)state;
  Fixture f = fixture_new();
  Graph *g = f.graph;
  Value x = source(&f, DTYPE_BF16, shape_make(2, 1, 5, 6, 4));
  Value w = source(&f, DTYPE_BF16, shape_make(3, 1, 3, 3, 4));
  Value b = source(&f, DTYPE_F32, shape_vector(3));
  graph_scope_push(g, "net.conv1");
  Value y = convolve(g, graph_affine(g, x, 2, 0), w, b);
  graph_scope_pop(g);
  Value wrt[] = {graph_producer(g, y)->inputs[0], w, b, x}, gradients[4];
  graph_gradients(g, graph_mean(g, graph_square(g, y)), wrt, 4, gradients);
  check_value(g, gradients[0], DTYPE_BF16, graph_shape(g, x)); /* of the activation */
  check_value(g, gradients[1], DTYPE_F32, graph_shape(g, w));  /* a view's is f32 */
  check_value(g, gradients[2], DTYPE_F32, shape_vector(3));
  check_value(g, gradients[3], DTYPE_F32, graph_shape(g, x));
  const Op *dw = graph_producer(g, gradients[1]);
  assert_int_equal(dw->kind, OP_CONV3D_BACKWARD_WEIGHTS);
  assert_string_equal(dw->name, "net.conv1.gradient.conv3d_backward_weights");
  assert_int_equal(dw->inputs[0].id, wrt[0].id);
  assert_int_equal(graph_producer(g, gradients[0])->kind, OP_CONV3D_BACKWARD_DATA);
  assert_int_equal(graph_producer(g, gradients[2])->kind, OP_REDUCE);
  assert_string_equal(graph_scope(g), "");
  graph_free(g);
}

/* The form of R1: the gradient of a squared gradient. Only the same three kinds appear, and the
 * operands of each convolution have one dtype. */
static void convolution_twice(void **state) {
  (void)state;
  Fixture f = fixture_new();
  Graph *g = f.graph;
  Value x = source(&f, DTYPE_BF16, shape_make(2, 1, 6, 6, 4));
  Value w = source(&f, DTYPE_BF16, shape_make(3, 1, 3, 3, 4));
  Value input = graph_affine(g, x, 1.5f, 0), dx, dw;
  Value y = graph_leaky_relu(g, convolve(g, input, w, NO_VALUE), 0.2f);
  graph_gradients(g, graph_mean(g, graph_square(g, y)), &input, 1, &dx);
  graph_gradients(g, graph_mean(g, graph_square(g, dx)), &w, 1, &dw);
  check_value(g, dw, DTYPE_F32, graph_shape(g, w));
  assert_int_equal(count_kind(g, OP_CONV3D), 2); /* y, and the gradient of dx as a function of dy */
  assert_int_equal(count_kind(g, OP_CONV3D_BACKWARD_DATA), 1);
  assert_int_equal(count_kind(g, OP_CONV3D_BACKWARD_WEIGHTS),
                   2); /* of dx, and of the y that follows it */
  /* A penalty on dw itself casts its f32 gradient before it is combined with bf16. */
  Value ddx;
  graph_gradients(g, graph_mean(g, graph_square(g, dw)), &x, 1, &ddx);
  check_value(g, ddx, DTYPE_F32, graph_shape(g, x));
  for (int k = 0; k < g->op_count; k++) {
    const Op *op = &g->ops[k];
    if (op->kind < OP_CONV3D || op->kind > OP_CONV3D_BACKWARD_WEIGHTS) continue;
    assert_int_equal(graph_dtype(g, op->inputs[0]), DTYPE_BF16);
    assert_int_equal(graph_dtype(g, op->inputs[1]), DTYPE_BF16);
  }
  graph_free(g);
}

static void broadcast_operands_are_summed(void **state) {
  (void)state;
  Fixture f = fixture_new();
  Graph *g = f.graph;
  Value x = graph_tanh(g, source(&f, DTYPE_BF16, shape_make(2, 1, 3, 4, 5)));
  Value wrt[] = {x, source(&f, DTYPE_F32, shape_vector(5)),
                 source(&f, DTYPE_F32, shape_make(2, 1, 1, 1, 1))};
  Value gradients[3];
  Value y = graph_mul(g, graph_add(g, x, wrt[1]), wrt[2]);
  graph_gradients(g, graph_mean(g, y), wrt, 3, gradients);
  check_value(g, gradients[0], DTYPE_BF16, graph_shape(g, x));
  for (int i = 1; i < 3; i++) {
    check_value(g, gradients[i], DTYPE_F32, graph_shape(g, wrt[i]));
    assert_int_equal(graph_producer(g, gradients[i])->kind, OP_REDUCE);
  }
  graph_free(g);
}

static void only_the_path_is_walked(void **state) {
  (void)state;
  Fixture f = fixture_new();
  Graph *g = f.graph;
  Value a = source(&f, DTYPE_F32, shape_vector(4)), b = source(&f, DTYPE_F32, shape_vector(4));
  Value fake = graph_tanh(g, a); /* made by the generator */
  Value loss = graph_mean(g, graph_mul(g, graph_sigmoid(g, fake), b)), gradient;
  int ops = g->op_count;
  graph_gradients(g, loss, &b, 1, &gradient);
  for (int k = ops; k < g->op_count; k++) {
    const Op *op = &g->ops[k];
    for (int i = 0; i < op->input_count; i++)
      assert_true(op->inputs[i].id != fake.id && op->inputs[i].id != a.id);
  }
  graph_free(g);
}

/* Uses of the same view add up; no gradient flows through a buffer. */
static void views_add_up_and_buffers_stop_gradients(void **state) {
  (void)state;
  Fixture f = fixture_new();
  Graph *g = f.graph;
  Value a = graph_view(g, &f.buffers[0], 0, shape_vector(4));
  Value again = graph_view(g, &f.buffers[0], 0, shape_vector(4));
  Value gradient;
  graph_gradients(g, graph_mean(g, graph_mul(g, a, graph_tanh(g, again))), &a, 1, &gradient);
  assert_string_equal(strrchr(graph_producer(g, gradient)->name, '.'), ".add");
  Value b = graph_view(g, &f.buffers[0], 16, shape_vector(4));
  graph_store(g, graph_tanh(g, a), b);
  graph_gradients(g, graph_mean(g, b), &a, 1, &gradient);
  check_error(g,
              "gradients: the loss does not depend on view (entry 0, buffer floats at element 0)");
  graph_free(g);
}

/* One of three paths passes through a detach: the gradient is the sum of the other two, and no op
 * of it reads what only the detached path computes. */
static void detached_paths_are_not_walked(void **state) {
  (void)state;
  Fixture f = fixture_new();
  Graph *g = f.graph;
  Value a = source(&f, DTYPE_BF16, shape_vector(4)), x = graph_affine(g, a, 2, 0);
  Value inner = graph_sigmoid(g, x), outer = graph_softplus(g, graph_detach(g, inner));
  Value loss = graph_mean(g, graph_add(g, graph_mul(g, x, outer), graph_tanh(g, x)));
  Value gradient, of_detached, twice;
  const int ops = g->op_count;
  graph_gradients(g, loss, &x, 1, &gradient);
  check_value(g, gradient, DTYPE_BF16, shape_vector(4));
  for (int k = ops; k < g->op_count; k++) {
    for (int i = 0; i < g->ops[k].input_count; i++)
      assert_int_not_equal(g->ops[k].inputs[i].id, inner.id);
  }
  /* With respect to the detached value itself there is a gradient. */
  Value detached = graph_producer(g, outer)->inputs[0];
  graph_gradients(g, loss, &detached, 1, &of_detached);
  check_value(g, of_detached, DTYPE_BF16, shape_vector(4));
  graph_gradients(g, graph_mean(g, graph_square(g, gradient)), &a, 1, &twice);
  check_value(g, twice, DTYPE_F32, shape_vector(4));
  graph_free(g);
}

/* The gradients of a product of bf16 matrices are products of bf16 matrices; those of a translation
 * are one translation, back. */
static void products_and_translations(void **state) {
  (void)state;
  Fixture f = fixture_new();
  Graph *g = f.graph;
  Value a = source(&f, DTYPE_BF16, shape_make(2, 1, 1, 5, 3));
  Value b = source(&f, DTYPE_BF16, shape_make(2, 1, 1, 7, 3));
  Value y = graph_matmul(g, a, b, false, true), wrt[] = {a, b}, gradients[2];
  check_value(g, y, DTYPE_F32, shape_make(2, 1, 1, 5, 7));
  graph_gradients(g, graph_mean(g, y), wrt, 2, gradients);
  for (int i = 0; i < 2; i++) {
    const Op *op = graph_producer(g, gradients[i]);
    check_value(g, gradients[i], DTYPE_F32, graph_shape(g, wrt[i]));
    assert_int_equal(op->kind, OP_MATMUL);
    for (int k = 0; k < 2; k++) assert_int_equal(graph_dtype(g, op->inputs[k]), DTYPE_BF16);
  }
  Value x = graph_affine(g, source(&f, DTYPE_BF16, shape_make(2, 3, 4, 5, 3)), 2, 0);
  Value offsets = source(&f, DTYPE_F32, shape_make(2, 1, 1, 1, 2)), pair[] = {x, NO_VALUE};
  Value moved = graph_translate(g, x, offsets);
  graph_gradients(g, graph_mean(g, moved), pair, 1, gradients);
  const Op *back = graph_producer(g, gradients[0]);
  assert_int_equal(back->kind, OP_TRANSLATE);
  assert_true(back->attributes.translate.negated);
  assert_int_equal(back->inputs[1].id, offsets.id);
  check_value(g, gradients[0], DTYPE_BF16, graph_shape(g, x));
  graph_free(g);
}

static void loss_and_repeated_entries(void **state) {
  (void)state;
  Fixture f = fixture_new();
  Graph *g = f.graph;
  Value loss = graph_mean(g, graph_tanh(g, source(&f, DTYPE_F32, shape_vector(4))));
  Value wrt[] = {loss, loss}, gradients[2];
  graph_gradients(g, loss, wrt, 2, gradients);
  check_value(g, gradients[0], DTYPE_F32, shape_scalar());
  assert_int_equal(gradients[0].id, gradients[1].id);
  assert_string_equal(graph_producer(g, gradients[0])->name, "constant");
  graph_free(g);
}

/* The gradient of a value of which `count` slices along the axis are read, each separately. */
static const Op *gradient_of_slices(Fixture *f, int count, int axis, int64_t step) {
  Graph *g = f->graph;
  Shape shape = shape_make(2, 1, 3, 4, 2), size = shape, begin = shape_make(0, 0, 0, 0, 0);
  shape.dim[axis] = count * step;
  size.dim[axis] = 1;
  Value x = graph_affine(g, source(f, DTYPE_F32, shape), 2, 0), sum = NO_VALUE, gradient;
  for (int i = 0; i < count; i++) {
    begin.dim[axis] = i * step;
    Value mean = graph_mean(g, graph_square(g, graph_slice(g, x, begin, size)));
    sum = i == 0 ? mean : graph_add(g, sum, mean);
  }
  graph_gradients(g, sum, &x, 1, &gradient);
  check_value(g, gradient, DTYPE_F32, shape);
  return graph_producer(g, gradient);
}

/* Slices that cover a value: no padding and no sum. */
static void adjacent_slices_become_a_concat(void **state) {
  (void)state;
  Fixture f = fixture_new();
  const Op *gradient = gradient_of_slices(&f, 3, AXIS_C, 1);
  assert_int_equal(gradient->kind, OP_CONCAT);
  assert_int_equal(gradient->input_count, 3);
  for (int i = 0; i < 3; i++) /* in order, each the gradient of the slice */
    assert_int_equal(graph_producer(f.graph, gradient->inputs[i])->kind, OP_POINTWISE);
  gradient = gradient_of_slices(&f, 20, AXIS_T, 1);
  int parts = 0, concatenations = 0;
  while (gradient->kind == OP_CONCAT) { /* the last operand of each is the one before it */
    parts += gradient->input_count - 1;
    concatenations++;
    gradient = graph_producer(f.graph, gradient->inputs[gradient->input_count - 1]);
  }
  assert_int_equal(parts + 1, 20);
  assert_int_equal(concatenations, 3);
  gradient = gradient_of_slices(&f, 2, AXIS_H, 2); /* not side by side */
  assert_int_equal(gradient->kind, OP_POINTWISE);
  graph_free(f.graph);
}

static void fused_ops_are_refused(void **state) {
  (void)state;
  for (int which = 0; which < 5; which++) {
    Fixture f = fixture_new();
    Graph *g = f.graph;
    Value x = source(&f, DTYPE_F32, shape_make(1, 1, 4, 4, 3)), w, y, gradient;
    w = source(&f, DTYPE_F32, shape_make(2, 1, 3, 3, 3));
    if (which == 0) y = graph_tanh(g, x);
    if (which == 1) y = convolve(g, x, w, NO_VALUE);
    if (which == 2) y = graph_norm(g, x, NO_VALUE, NO_VALUE, NORM_RMS, 0, 1e-5f);
    if (which == 3) y = graph_mean(g, x);
    if (which == 4)
      graph_gradients(g, graph_mean(g, graph_square(g, graph_max_pool(g, x, 2))), &x, 1, &y);
    Op *op = &g->ops[g->op_count - 1];
    if (which == 0) op->attributes.pointwise.instruction_count = 2;
    if (which == 1) op->attributes.conv.activation = ACTIVATION_TANH;
    if (which == 2) op->attributes.norm.activation = ACTIVATION_LEAKY_RELU;
    if (which == 3) op->attributes.reduce.program.instruction_count = 1;
    if (which == 4) op->attributes.max_pool.activation = ACTIVATION_LEAKY_RELU;
    graph_gradients(g, graph_mean(g, y), &x, 1, &gradient);
    static const char *const messages[] = {
        "gradient: pointwise: a fused program of 2 instructions cannot be differentiated; "
        "differentiate "
        "before fusion",
        "gradient: conv3d: a fused convolution cannot be differentiated; differentiate before "
        "fusion",
        "gradient: norm: a fused norm cannot be differentiated; differentiate before fusion",
        "gradient: reduce: a fused reduction cannot be differentiated; differentiate before "
        "fusion",
        "gradient.gradient: max_pool_backward: a fused pool cannot be differentiated; "
        "differentiate before fusion"};
    check_error(g, messages[which]);
    graph_free(g);
  }
}

/* The gradient of each kind has the shape of the input, and so does its gradient. */
static Value through(Fixture *f, int which, Value x) {
  Graph *g = f->graph;
  Value vector = source(f, DTYPE_F32, shape_vector(4));
  Shape some = shape_make(0, 0, 1, 2, 0), none = {{0}};
  NormKind kinds[] = {NORM_RMS, NORM_INSTANCE, NORM_GROUP};
  if (which < 3) return graph_norm(g, x, vector, vector, kinds[which], 2, 1e-5f);
  if (which == 3) return graph_resize(g, x, 9, 4, RESIZE_BILINEAR);
  if (which == 4) return graph_average_pool(g, x, 3, 2, 1);
  if (which == 5) return graph_pad(g, x, some, none, PAD_REFLECT);
  if (which == 6) return graph_pad(g, x, some, none, PAD_ZERO);
  if (which == 7) return graph_slice(g, x, some, shape_make(2, 3, 2, 3, 4));
  if (which == 9) return graph_max_pool(g, x, 2);
  if (which == 8) return graph_concat(g, (Value[]){x, graph_tanh(g, x)}, 2, AXIS_T);
  return graph_reshape(g, x, shape_make(6, 1, 5, 6, 4));
}

static void gradients_of_gradients(void **state) {
  (void)state;
  for (int which = 0; which < 11; which++) {
    Fixture f = fixture_new();
    Graph *g = f.graph;
    Value x = graph_tanh(g, source(&f, DTYPE_BF16, shape_make(2, 3, 5, 6, 4))), first, second;
    Value y = through(&f, which, x);
    graph_gradients(g, graph_mean(g, graph_square(g, y)), &x, 1, &first);
    check_value(g, first, DTYPE_BF16, graph_shape(g, x));
    graph_gradients(g, graph_mean(g, graph_square(g, first)), &x, 1, &second);
    check_value(g, second, DTYPE_BF16, graph_shape(g, x));
    graph_free(g);
  }
}

/* The callback comes directly after the last op of a gradient, so the later layer comes first. */
typedef struct Order {
  Graph *graph;
  int count, index[2], op_count[2];
} Order;

static void note(void *context, int index, Value gradient) {
  Order *order = context;
  assert_true(graph_usable(order->graph, &gradient, 1));
  order->index[order->count] = index;
  order->op_count[order->count++] = order->graph->op_count;
}

static void callback_follows_the_last_op(void **state) {
  (void)state;
  Fixture f = fixture_new();
  Graph *g = f.graph;
  Value a = source(&f, DTYPE_F32, shape_vector(4)), b = source(&f, DTYPE_F32, shape_vector(4));
  Value hidden = graph_tanh(g, graph_mul(g, source(&f, DTYPE_F32, shape_vector(4)), a));
  Value loss = graph_mean(g, graph_square(g, graph_mul(g, hidden, b)));
  Order order = {.graph = g};
  Value wrt[] = {a, b}, gradients[2];
  Differentiation request = {.wrt = wrt, .wrt_count = 2, .ready = note, .context = &order};
  graph_differentiate_loss(g, loss, &request, gradients);
  assert_int_equal(order.count, 2);
  assert_int_equal(order.index[0], 1);
  assert_int_equal(order.index[1], 0);
  assert_true(order.op_count[0] < order.op_count[1]);
  assert_true(g->values[gradients[0].id].producer >= order.op_count[0]);
  graph_free(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(convolution),
      cmocka_unit_test(convolution_twice),
      cmocka_unit_test(broadcast_operands_are_summed),
      cmocka_unit_test(only_the_path_is_walked),
      cmocka_unit_test(views_add_up_and_buffers_stop_gradients),
      cmocka_unit_test(detached_paths_are_not_walked),
      cmocka_unit_test(products_and_translations),
      cmocka_unit_test(loss_and_repeated_entries),
      cmocka_unit_test(adjacent_slices_become_a_concat),
      cmocka_unit_test(fused_ops_are_refused),
      cmocka_unit_test(gradients_of_gradients),
      cmocka_unit_test(callback_follows_the_last_op),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
