/* Which ops are fused, and which must not be; networks compute the same with and without fusion. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "engine/ops/autodiff.h"
#include "engine/parameters/parameters.h"
#include "support_bench.h"
#include "support_reference.h"

static Error error;

static void assert_ok(Status status) {
  if (status != OK) fail_msg("%s", error.message);
}

static const Shape image = {{1, 2, 4, 4, 8}}, weight = {{8, 1, 3, 3, 8}};

static Value convolution(Bench *bench, Value x, Value bias) {
  return graph_conv3d(bench->graph, x, source(bench, weight), bias,
                      conv_spec_same(1, 3, 1, PAD_ZERO));
}

static Value norm(Bench *bench, Value x) {
  Value gain = source(bench, shape_vector(8)), bias = source(bench, shape_vector(8));
  return graph_norm(bench->graph, x, gain, bias, NORM_RMS, 1, 1e-5f);
}

/* --- Convolutions ----------------------------------------------------------------------------- */

static void convolution_fuses_bias_and_activation(void **state) {
  (void)state;
  for (int tanh = 0; tanh < 2; tanh++) {
    Bench b = bench_new();
    Value sum = graph_add(b.graph, source(&b, shape_vector(8)),
                          convolution(&b, source(&b, image), NO_VALUE));
    Value y = tanh ? graph_tanh(b.graph, sum) : graph_leaky_relu(b.graph, sum, 0.2f);
    keep(&b, y);
    bench_plan(&b);
    assert_int_equal(b.planned.program->step_count, 2);
    const Op *op = only(&b, OP_CONV3D);
    assert_int_equal(op->input_count, 3);
    assert_int_equal(op->outputs[0].id, y.id);
    assert_int_equal(op->attributes.conv.activation,
                     tanh ? ACTIVATION_TANH : ACTIVATION_LEAKY_RELU);
    if (!tanh) assert_true(op->attributes.conv.slope == 0.2f);
    bench_free(&b);
  }
}

static void convolution_with_two_readers_is_not_fused(void **state) {
  (void)state;
  Bench b = bench_new();
  Value y = convolution(&b, source(&b, image), NO_VALUE);
  keep(&b, graph_relu(b.graph, y));
  keep(&b, graph_resize(b.graph, y, 8, 8, RESIZE_NEAREST));
  bench_plan(&b);
  assert_int_equal(only(&b, OP_CONV3D)->attributes.conv.activation, ACTIVATION_NONE);
  assert_int_equal(count(&b, OP_POINTWISE), 1);
  bench_free(&b);
}

/* The bias is written between the convolution and the sum: it must not be read earlier. */
static void bias_is_not_read_too_early(void **state) {
  (void)state;
  Bench b = bench_new();
  Value vector = source(&b, shape_vector(8));
  Value y = convolution(&b, source(&b, image), NO_VALUE);
  graph_accumulate(b.graph, vector, vector);
  keep(&b, graph_add(b.graph, y, vector));
  bench_plan(&b);
  assert_int_equal(only(&b, OP_CONV3D)->input_count, 2);
  assert_int_equal(count(&b, OP_POINTWISE), 1);
  bench_free(&b);
}

/* The backward pass reads the step of the input of the activation. */
static void convolution_activation_in_training(void **state) {
  (void)state;
  Bench b = bench_new();
  Value w = source(&b, weight), bias = source(&b, shape_vector(8)), x = source(&b, image);
  Value y = graph_leaky_relu(
      b.graph, graph_conv3d(b.graph, x, w, bias, conv_spec_same(1, 3, 1, PAD_ZERO)), 0.2f);
  Value wrt[] = {w, bias}, gradients[2];
  graph_gradients(b.graph, graph_mean(b.graph, graph_square(b.graph, y)), wrt, 2, gradients);
  keep(&b, gradients[0]);
  keep(&b, gradients[1]);
  bench_plan(&b);
  assert_int_equal(only(&b, OP_CONV3D)->attributes.conv.activation, ACTIVATION_LEAKY_RELU);
  const Op *backward = only(&b, OP_CONV3D_BACKWARD_WEIGHTS);
  assert_int_equal(backward->output_count, 2); /* the gradient of the bias, too */
  assert_int_equal(backward->outputs[1].id, gradients[1].id);
  /* One op computes dy from y alone; the loss itself is dead. */
  assert_int_equal(only(&b, OP_POINTWISE)->input_count, 1);
  assert_int_equal(only(&b, OP_POINTWISE)->inputs[0].id, y.id);
  assert_int_equal(count(&b, OP_REDUCE), 0);
  bench_free(&b);
}

/* The gradient of x given that of y. */
static Value pulled_back(Bench *bench, Value y, Value dy, Value x) {
  const Differentiation task = {
      .outputs = &y, .cotangents = &dy, .output_count = 1, .wrt = &x, .wrt_count = 1};
  Value gradient;
  graph_differentiate(bench->graph, &task, &gradient);
  return gradient;
}

/* The cotangent is a view that is written before it is summed: each sum must see its own content.
 */
static void bias_gradient_sees_updates(void **state) {
  enum { PIXELS = 1u << AXIS_N | 1u << AXIS_T | 1u << AXIS_H | 1u << AXIS_W };
  (void)state;
  Bench b = bench_new();
  Value w = source(&b, weight), dy = source(&b, image);
  Value y =
      graph_conv3d(b.graph, source(&b, image), w, NO_VALUE, conv_spec_same(1, 3, 1, PAD_ZERO));
  keep(&b, pulled_back(&b, y, dy, w));
  graph_accumulate(b.graph, dy, dy);
  keep(&b, graph_reduce_sum(b.graph, dy, PIXELS, 1));
  bench_plan(&b);
  assert_int_equal(only(&b, OP_CONV3D_BACKWARD_WEIGHTS)->output_count, 1);
  only(&b, OP_REDUCE);
  bench_free(&b);
}

/* With a negative slope the sign of the output does not determine that of the input; and a step
 * before the activation cannot be a step of its output. */
static void steps_of_negative_slopes_keep_the_input(void **state) {
  (void)state;
  for (int early = 0; early < 2; early++) {
    Bench b = bench_new();
    Value x = convolution(&b, source(&b, image), NO_VALUE);
    if (early) {
      keep(&b, graph_average_pool(b.graph, graph_leaky_step(b.graph, x, 0.5f), 2, 2, 0));
    }
    float slope = early ? 0.5f : -0.5f;
    keep(&b, graph_average_pool(b.graph, graph_leaky_relu(b.graph, x, slope), 2, 2, 0));
    if (!early) {
      keep(&b, graph_average_pool(b.graph, graph_leaky_step(b.graph, x, slope), 2, 2, 0));
    }
    bench_plan(&b);
    assert_int_equal(only(&b, OP_CONV3D)->attributes.conv.activation, ACTIVATION_NONE);
    bench_free(&b);
  }
}

/* --- Norms ------------------------------------------------------------------------------------ */

static void norm_fuses_activation_and_residual(void **state) {
  (void)state;
  Bench b = bench_new();
  Value x = graph_average_pool(b.graph, source(&b, image), 3, 1, 1);
  Value y = graph_add(b.graph, x, graph_relu(b.graph, norm(&b, convolution(&b, x, NO_VALUE))));
  keep(&b, y);
  bench_plan(&b);
  assert_int_equal(count(&b, OP_POINTWISE), 0);
  const Op *op = only(&b, OP_NORM);
  assert_int_equal(op->attributes.norm.activation, ACTIVATION_LEAKY_RELU);
  assert_int_equal(op->input_count, 4);
  assert_int_equal(op->inputs[3].id, x.id);
  assert_int_equal(op->outputs[0].id, y.id);
  bench_free(&b);
}

/* The fused order is norm, activation, residual; an activation of the sum cannot be fused. */
static void activation_after_residual_is_not_fused(void **state) {
  (void)state;
  Bench b = bench_new();
  Value x = graph_average_pool(b.graph, source(&b, image), 3, 1, 1);
  keep(&b, graph_relu(b.graph, graph_add(b.graph, norm(&b, x), x)));
  bench_plan(&b);
  assert_int_equal(only(&b, OP_NORM)->attributes.norm.activation, ACTIVATION_NONE);
  assert_int_equal(only(&b, OP_NORM)->input_count, 4);
  assert_int_equal(count(&b, OP_POINTWISE), 1);
  bench_free(&b);
}

static void norm_backward_fuses_activation(void **state) {
  (void)state;
  Bench b = bench_new();
  Value x = source(&b, image), gain = source(&b, shape_vector(8));
  Value y = graph_leaky_relu(
      b.graph, graph_norm(b.graph, x, gain, source(&b, shape_vector(8)), NORM_INSTANCE, 1, 1e-5f),
      0.25f);
  Value pooled = graph_average_pool(b.graph, y, 2, 2, 0), gradient;
  graph_gradients(b.graph, graph_mean(b.graph, pooled), &gain, 1, &gradient);
  keep(&b, gradient);
  keep(&b, pooled);
  bench_plan(&b);
  assert_int_equal(only(&b, OP_NORM)->attributes.norm.activation, ACTIVATION_LEAKY_RELU);
  const Op *backward = only(&b, OP_NORM_BACKWARD);
  assert_int_equal(backward->attributes.norm.activation, ACTIVATION_LEAKY_RELU);
  assert_true(backward->attributes.norm.slope == 0.25f);
  assert_int_equal(backward->inputs[0].id, only(&b, OP_AVERAGE_POOL_BACKWARD)->outputs[0].id);
  assert_int_equal(count(&b, OP_POINTWISE), 1); /* the constant gradient of the pool */
  bench_free(&b);
}

/* The gain changes in between, so the sign cannot be recomputed. */
static void norm_backward_sees_updates(void **state) {
  (void)state;
  Bench b = bench_new();
  Value x = source(&b, image), gain = source(&b, shape_vector(8));
  Value y = graph_relu(
      b.graph, graph_norm(b.graph, x, gain, source(&b, shape_vector(8)), NORM_INSTANCE, 1, 1e-5f));
  Value pooled = graph_average_pool(b.graph, y, 2, 2, 0), gradient;
  graph_accumulate(b.graph, gain, gain);
  graph_gradients(b.graph, graph_mean(b.graph, pooled), &x, 1, &gradient);
  keep(&b, gradient);
  bench_plan(&b);
  const Op *backward = only(&b, OP_NORM_BACKWARD);
  assert_int_equal(backward->attributes.norm.activation, ACTIVATION_NONE);
  assert_int_equal(backward->output_count, 1); /* the gradient of the gain is unused */
  bench_free(&b);
}

/* The gradient after the activation is a view that changes before the backward pass of the norm. */
static void norm_backward_reads_in_order(void **state) {
  (void)state;
  Bench b = bench_new();
  Value x = source(&b, image), dy = source(&b, image), normed = norm(&b, x);
  Value inner = pulled_back(&b, graph_leaky_relu(b.graph, normed, 0.25f), dy, normed);
  graph_accumulate(b.graph, dy, dy);
  keep(&b, pulled_back(&b, normed, inner, x));
  bench_plan(&b);
  assert_int_equal(only(&b, OP_NORM_BACKWARD)->attributes.norm.activation, ACTIVATION_NONE);
  bench_free(&b);
}

/* --- A max pool's backward pass --------------------------------------------------------------- */

/* The gradient with respect to x of a max pool after a convolution with ReLU; with `beside`, a
 * square reads the output of the ReLU, too. */
static const Op *pooled_gradient(Bench *b, bool beside) {
  Value x = source(b, image), gradient;
  Value y = graph_relu(b->graph, convolution(b, x, NO_VALUE));
  Value loss = graph_mean(b->graph, graph_square(b->graph, graph_max_pool(b->graph, y, 2)));
  if (beside) loss = graph_add(b->graph, loss, graph_mean(b->graph, graph_square(b->graph, y)));
  graph_gradients(b->graph, loss, &x, 1, &gradient);
  keep(b, gradient);
  bench_plan(b);
  return only(b, OP_MAX_POOL_BACKWARD);
}

static void pool_backward_fuses_the_step(void **state) {
  (void)state;
  Bench b = bench_new();
  const Op *backward = pooled_gradient(&b, false);
  assert_int_equal(backward->attributes.max_pool.activation, ACTIVATION_LEAKY_RELU);
  assert_true(backward->attributes.max_pool.slope == 0);
  assert_int_equal(only(&b, OP_CONV3D_BACKWARD_DATA)->inputs[0].id, backward->outputs[0].id);
  assert_int_equal(count(&b, OP_POINTWISE), 1); /* the gradient of the square */
  bench_free(&b);
  b = bench_new();
  backward = pooled_gradient(&b, true); /* a sum is between the two */
  assert_int_equal(backward->attributes.max_pool.activation, ACTIVATION_NONE);
  bench_free(&b);
}

/* The input of the pool changes before the step is taken, or the step is that of another value. */
static void pool_backward_sees_updates(void **state) {
  (void)state;
  for (int i = 0; i < 3; i++) {
    Bench b = bench_new();
    Value x = source(&b, image), pooled = graph_max_pool(b.graph, x, 2);
    Value dx = pulled_back(&b, pooled, graph_tanh(b.graph, pooled), x);
    if (i == 1) graph_accumulate(b.graph, x, x);
    Value step = graph_leaky_step(b.graph, i == 2 ? source(&b, image) : x, 0.5f);
    keep(&b, graph_mul(b.graph, step, dx));
    bench_plan(&b);
    assert_int_equal(only(&b, OP_MAX_POOL_BACKWARD)->attributes.max_pool.activation,
                     i == 0 ? ACTIVATION_LEAKY_RELU : ACTIVATION_NONE);
    bench_free(&b);
  }
}

/* --- Pointwise chains ------------------------------------------------------------------------- */

static void chains_become_one_op(void **state) {
  (void)state;
  Bench b = bench_new();
  Value x = source(&b, image), y = source(&b, image);
  Value scale = graph_affine(b.graph, graph_constant(b.graph, shape_scalar(), 4), 0.5f, 0);
  Value z = graph_mul(b.graph, graph_broadcast(b.graph, scale, image), graph_sub(b.graph, x, y));
  z = graph_tanh(b.graph, graph_add(b.graph, z, graph_square(b.graph, z)));
  keep(&b, z);
  bench_plan(&b);
  const Op *op = only(&b, OP_POINTWISE);
  assert_int_equal(op->input_count, 2);
  assert_int_equal(op->output_count, 1);
  /* sub, affine, square, add, tanh: the constant is in the affine */
  assert_int_equal(op->attributes.pointwise.instruction_count, 5);
  bench_free(&b);
}

/* A detach is no op of the program, with or without fusion. */
static void detach_does_not_split_a_chain(void **state) {
  (void)state;
  Bench b = bench_new();
  Value inner = graph_square(b.graph, source(&b, image));
  Value y = graph_tanh(b.graph, graph_detach(b.graph, inner));
  keep(&b, graph_mul(b.graph, y, graph_detach(b.graph, y)));
  bench_plan(&b);
  assert_int_equal(b.planned.program->step_count, 2); /* and the store */
  assert_int_equal(only(&b, OP_POINTWISE)->attributes.pointwise.instruction_count, 3);
  bench_free(&b);
}

static void reductions_fuse_their_operand(void **state) {
  (void)state;
  Bench b = bench_new();
  Value difference = graph_sub(b.graph, source(&b, image), source(&b, image));
  keep(&b, graph_mean(b.graph, graph_abs(b.graph, difference)));
  keep(&b, graph_mean(b.graph, graph_square(b.graph, difference)));
  bench_plan(&b);
  assert_int_equal(count(&b, OP_REDUCE), 2);
  assert_int_equal(count(&b, OP_POINTWISE),
                   0); /* recomputing the difference is cheaper than storing it */
  bench_free(&b);
}

/* A difference of the outputs of two norms in `dtype`, read at once and, after another norm, much
 * later. */
static int differences_stored(DType dtype) {
  Bench b = bench_new();
  Value made[2];
  for (int i = 0; i < 2; i++)
    made[i] =
        graph_cast(b.graph, norm(&b, graph_cast(b.graph, source(&b, image), dtype)), DTYPE_F32);
  Value difference = graph_sub(b.graph, made[0], made[1]);
  keep(&b, graph_mean(b.graph, graph_abs(b.graph, difference)));
  keep(&b, graph_mul(b.graph, difference, norm(&b, source(&b, image))));
  const Program *program = bench_plan(&b);
  int stored = 0;
  for (int i = 0; i < program->step_count; i++)
    for (int j = 0; j < op_at(program, i)->output_count; j++)
      stored += op_at(program, i)->outputs[j].id == difference.id;
  bench_free(&b);
  return stored;
}

/* If every reader recomputes a value, it is not stored and its operands live longer instead. That
 * is done only if they take no more memory: two 2-byte operands for a 4-byte value, not two 4-byte
 * operands. */
static void distant_readers_recompute_if_memory_shrinks(void **state) {
  (void)state;
  assert_int_equal(differences_stored(DTYPE_BF16), 0);
  assert_int_equal(differences_stored(DTYPE_F32), 1);
}

/* Costly values are not recomputed: the sigmoid of a scalar stays an op of its own, and so does a
 * tanh that two readers need; the first of them then computes both. */
static void costly_values_are_computed_once(void **state) {
  (void)state;
  Bench b = bench_new();
  Value x = source(&b, image), small = graph_sigmoid(b.graph, source(&b, shape_scalar()));
  Value y = graph_tanh(b.graph, graph_mul(b.graph, x, small));
  keep(&b, graph_average_pool(b.graph, graph_affine(b.graph, y, 2, 0), 2, 2, 0));
  keep(&b, graph_average_pool(b.graph, y, 2, 2, 0));
  const Program *program = bench_plan(&b);
  assert_int_equal(count(&b, OP_POINTWISE), 2);
  int two = 0;
  for (int i = 0; i < program->step_count; i++) {
    const Op *op = op_at(program, i);
    if (op->kind == OP_POINTWISE) two += op->output_count == 2;
  }
  assert_int_equal(two, 1);
  bench_free(&b);
}

/* A view must be read before the op that writes it, even if the value is used later. */
static void readers_stay_before_writers(void **state) {
  (void)state;
  Bench b = bench_new();
  Value x = source(&b, image);
  Value y = graph_tanh(b.graph, x);
  graph_accumulate(b.graph, x, x);
  keep(&b, graph_add(b.graph, y, x));
  const Program *program = bench_plan(&b);
  assert_int_equal(count(&b, OP_POINTWISE), 2);
  assert_int_equal(op_at(program, 0)->kind, OP_POINTWISE);
  assert_int_equal(op_at(program, 1)->kind, OP_STORE);
  bench_free(&b);
}

/* Long chains are cut at the limits of a program; random chains stay within them. */
static void limits_hold(void **state) {
  (void)state;
  Bench b = bench_new();
  Value x = source(&b, image);
  for (int i = 0; i < 100; i++) {
    Value other = source(&b, shape_vector(8));
    x = graph_tanh(b.graph, i % 3 ? graph_mul(b.graph, x, other) : graph_sigmoid(b.graph, x));
  }
  keep(&b, x);
  const Program *program = bench_plan(&b);
  for (int i = 0; i < program->step_count; i++) {
    const Op *op = op_at(program, i);
    if (op->kind != OP_POINTWISE) continue;
    assert_in_range(op->input_count, 1, POINTWISE_MAX_INPUTS);
    assert_in_range(op->attributes.pointwise.instruction_count, 1, POINTWISE_MAX_INSTRUCTIONS);
  }
  assert_in_range(count(&b, OP_POINTWISE), 8, 12);
  bench_free(&b);
}

/* A stored value keeps its own memory if it is read later, in any shape, as a part or a whole. */
static bool is_read(const Plan *plan, Value value) {
  for (int i = 0; i < plan->value_count; i++) {
    const bool is_it = plan->values[i].root == plan_value(plan, value)->root;
    if (is_it && plan->values[i].use_count > 0) return true;
  }
  return plan_value(plan, value)->buffer != NULL;
}

/* Unused outputs are dropped. */
static void stored_values_stay_readable(void **state) {
  (void)state;
  Buffer buffer = buffer_describe("b", DTYPE_F32, RANDOM_GRAPH_BUFFER);
  for (uint64_t seed = 0; seed < 60; seed++) {
    FakeBackend fake = fake_backend();
    Graph *graph = random_graph(seed, 150, &buffer, false);
    Planned planned = plan_for(&fake.backend, graph, false, NULL);
    for (int i = 0; i < planned.program->step_count; i++) {
      const Op *op = op_at(planned.program, i);
      for (int j = 0; j < op->output_count; j++) {
        assert_true(is_read(planned.program->plan, op->outputs[j]));
      }
    }
    planned_free(&planned);
    graph_free(graph);
  }
}

/* --- Stores ----------------------------------------------------------------------------------- */

static void stores_are_bound_to_buffers(void **state) {
  (void)state;
  struct {
    int64_t offset; /* of the target */
    bool accumulate, touched, read_by_maker, bound;
  } cases[] = {
      {64, false, false, false, true}, {65, false, false, false, false},
      {64, true, false, false, false}, {64, false, true, false, false},
      {0, false, false, true, false},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Bench b = bench_new();
    Buffer *from = cases[i].read_by_maker ? &b.out : &b.in;
    Value made = graph_tanh(b.graph, graph_view(b.graph, from, 16, shape_vector(32)));
    Value target = graph_view(b.graph, &b.out, cases[i].offset, shape_make(1, 1, 1, 2, 16));
    made = graph_reshape(b.graph, made, shape_make(1, 1, 1, 2, 16));
    if (cases[i].touched) {
      graph_accumulate(b.graph, graph_view(b.graph, &b.in, 0, shape_vector(1)),
                       graph_view(b.graph, &b.out, 95, shape_vector(1)));
    }
    if (cases[i].accumulate) {
      graph_accumulate(b.graph, made, target);
    } else {
      graph_store(b.graph, made, target);
    }
    bench_plan(&b);
    const Program *program = b.planned.program;
    const Step *step = &program->steps[only_op(program, OP_POINTWISE)];
    assert_ptr_equal(step->outputs[0].buffer, cases[i].bound ? &b.out : NULL);
    assert_int_equal(step->written_count, cases[i].bound ? 1 : 0);
    assert_int_equal(count(&b, OP_STORE), cases[i].bound ? 0 : 1 + cases[i].touched);
    bench_free(&b);
  }
}

/* --- A network -------------------------------------------------------------------------------- */

typedef struct Training {
  Parameters parameters;
  Buffer input, target, losses;
  Graph *graph;
} Training;

static Value block(Training *t, Value x, const char *name) {
  Graph *g = t->graph;
  Parameters *p = &t->parameters;
  char text[64];
  snprintf(text, sizeof text, "%s.weight", name);
  Value w = parameters_weight(p, g, READ_COMPUTE, text, shape_make(8, 2, 3, 3, 8), 0.2f);
  snprintf(text, sizeof text, "%s.gain", name);
  Value gain = parameters_vector(p, g, text, 8, READ_COMPUTE, INIT_ONE);
  snprintf(text, sizeof text, "%s.bias", name);
  Value bias = parameters_vector(p, g, text, 8, READ_COMPUTE, INIT_ZERO);
  Value y = graph_conv3d(g, x, w, NO_VALUE, conv_spec_same(2, 3, 1, PAD_REFLECT));
  return graph_add(g, x, graph_relu(g, graph_norm(g, y, gain, bias, NORM_RMS, 1, 1e-5f)));
}

/* Stem, two residual blocks and a head whose output is added to the input; L1 and squared losses;
 * gradients are stored. */
static void training_new(Training *t, DType precision) {
  Graph *g = t->graph = graph_new();
  Parameters *p = &t->parameters;
  parameters_init(p, "net", precision);
  Shape shape = shape_make(2, 2, 6, 5, 3);
  Value input = graph_affine(g, graph_cast(g, graph_view(g, &t->input, 0, shape), DTYPE_F32),
                             1.0f / 127.5f, -1);
  Value target = graph_affine(g, graph_cast(g, graph_view(g, &t->target, 0, shape), DTYPE_F32),
                              1.0f / 127.5f, -1);
  Value w1 = parameters_weight(p, g, READ_COMPUTE, "stem.weight", shape_make(8, 1, 3, 3, 3), 0.2f);
  Value b1 = parameters_vector(p, g, "stem.bias", 8, READ_COMPUTE, INIT_ZERO);
  Value x =
      graph_conv3d(g, graph_cast(g, input, precision), w1, b1, conv_spec_same(1, 3, 1, PAD_ZERO));
  x = graph_leaky_relu(g, x, 0.2f);
  x = block(t, x, "one");
  x = block(t, x, "two");
  Value w2 = parameters_weight(p, g, READ_COMPUTE, "head.weight", shape_make(3, 1, 3, 3, 8), 0.2f);
  Value b2 = parameters_vector(p, g, "head.bias", 3, READ_COMPUTE, INIT_ZERO);
  x = graph_tanh(g, graph_conv3d(g, x, w2, b2, conv_spec_same(1, 3, 1, PAD_ZERO)));
  Value difference = graph_sub(g, graph_add(g, graph_cast(g, x, DTYPE_F32), input), target);
  Value l1 = graph_mean(g, graph_abs(g, difference));
  Value l2 = graph_mean(g, graph_square(g, difference));
  parameters_freeze(p);
  parameters_differentiate(p, g, graph_add(g, l1, graph_affine(g, l2, 0.5f, 0)), NULL, true, 4096);
  graph_store(g, l1, graph_view(g, &t->losses, 0, shape_scalar()));
  graph_store(g, l2, graph_view(g, &t->losses, 1, shape_scalar()));
  graph_store(g, parameters_gradient_norm(p, g), graph_view(g, &t->losses, 2, shape_scalar()));
  assert_ok(graph_status(g, &error));
}

static void training_free(Training *t) {
  parameters_free(&t->parameters);
  buffer_free(&t->input);
  buffer_free(&t->target);
  buffer_free(&t->losses);
  graph_free(t->graph);
}

static void training_buffers(Training *t) {
  t->input = buffer_describe("input", DTYPE_U8, 360);
  t->target = buffer_describe("target", DTYPE_U8, 360);
  t->losses = buffer_describe("losses", DTYPE_F32, 3);
}

static void training_allocate(Training *t, Backend *backend) {
  uint8_t pixels[2][360];
  Random random = random_stream(5, RANDOM_TEST, 0, 0);
  for (int i = 0; i < 720; i++) pixels[i / 360][i % 360] = (uint8_t)random_below(&random, 256);
  assert_ok(buffer_allocate(&t->input, backend, &error));
  assert_ok(buffer_allocate(&t->target, backend, &error));
  assert_ok(buffer_allocate(&t->losses, backend, &error));
  assert_ok(buffer_upload(&t->input, 0, pixels[0], 360, &error));
  assert_ok(buffer_upload(&t->target, 0, pixels[1], 360, &error));
  assert_ok(parameters_allocate(&t->parameters, backend, true, false, &error));
  assert_ok(parameters_initialize(&t->parameters, 7, &error));
}

/* The op counts of a training step of such a network. */
static void networks_fuse(void **state) {
  (void)state;
  FakeBackend fake = fake_backend();
  Training t;
  training_buffers(&t);
  training_new(&t, DTYPE_BF16);
  Planned planned = plan_for(&fake.backend, t.graph, false, NULL);
  const Program *program = planned.program;
  for (int i = 0; i < program->step_count; i++) {
    const Op *op = op_at(program, i);
    if (op->kind == OP_NORM) {
      assert_int_equal(op->attributes.norm.activation, ACTIVATION_LEAKY_RELU);
      assert_int_equal(op->input_count, 4);
    }
    if (op->kind == OP_NORM_BACKWARD) {
      assert_int_equal(op->attributes.norm.activation, ACTIVATION_LEAKY_RELU);
    }
    /* Gradients are written directly to the flat array; one of three losses is at a multiple of 64
     * bytes. */
    if (op->kind == OP_STORE) assert_ptr_equal(program->steps[i].inputs[1].buffer, &t.losses);
  }
  assert_int_equal(count_ops(program, OP_STORE), 2);
  assert_int_equal(count_ops(program, OP_NORM), 2);
  assert_int_equal(count_ops(program, OP_CONV3D), 4);
  assert_true(program_cost(program).ops * 2 < program_cost(program).ops_before_fusion);
  planned_free(&planned);
  training_free(&t);
}

static void compare(const char *what, const Buffer *buffer, const double *expected,
                    double tolerance) {
  double difference = 0, size = 0;
  for (int64_t i = 0; i < buffer->count; i++) {
    double got = (double)((const float *)buffer->data)[i];
    difference += (got - expected[i]) * (got - expected[i]);
    size += expected[i] * expected[i];
  }
  if (!(sqrt(difference) <= tolerance * sqrt(size))) {
    fail_msg("%s: relative error %g", what, sqrt(difference / size));
  }
}

static void check_training(Backend *backend, DType precision, double tolerance) {
  for (int plain = 0; plain < 2; plain++) {
    Training t;
    training_buffers(&t);
    training_new(&t, precision);
    training_allocate(&t, backend);
    Planned planned = plan_for(backend, t.graph, plain, NULL);
    Reference *reference = reference_new(t.graph);
    const double *gradient = reference_buffer(reference, &t.parameters.gradient);
    const double *losses = reference_buffer(reference, &t.losses);
    reference_evaluate(reference);
    for (int run = 0; run < 2; run++) {
      assert_ok(program_run(planned.program, &error));
      compare(plain ? "gradient, plain" : "gradient, fused", &t.parameters.gradient, gradient,
              tolerance);
      compare(plain ? "losses, plain" : "losses, fused", &t.losses, losses, tolerance);
    }
    reference_free(reference);
    planned_free(&planned);
    training_free(&t);
  }
}

/* The bf16 tolerance is large: the reference does not round, and signs of small differences flip.
 * Errors in fusion are larger by far. */
static void networks_compute_the_same(void **state) {
  (void)state;
  Backend *backend = NULL;
  assert_ok(backend_cpu_new(2, &backend, &error));
  check_training(backend, DTYPE_F32, 1e-5);
  if (backend->supports_bf16(backend)) check_training(backend, DTYPE_BF16, 0.2);
  backend->free(backend);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(convolution_fuses_bias_and_activation),
      cmocka_unit_test(convolution_with_two_readers_is_not_fused),
      cmocka_unit_test(bias_is_not_read_too_early),
      cmocka_unit_test(convolution_activation_in_training),
      cmocka_unit_test(bias_gradient_sees_updates),
      cmocka_unit_test(steps_of_negative_slopes_keep_the_input),
      cmocka_unit_test(norm_fuses_activation_and_residual),
      cmocka_unit_test(activation_after_residual_is_not_fused),
      cmocka_unit_test(norm_backward_fuses_activation),
      cmocka_unit_test(norm_backward_sees_updates),
      cmocka_unit_test(norm_backward_reads_in_order),
      cmocka_unit_test(pool_backward_fuses_the_step),
      cmocka_unit_test(pool_backward_sees_updates),
      cmocka_unit_test(chains_become_one_op),
      cmocka_unit_test(detach_does_not_split_a_chain),
      cmocka_unit_test(reductions_fuse_their_operand),
      cmocka_unit_test(distant_readers_recompute_if_memory_shrinks),
      cmocka_unit_test(costly_values_are_computed_once),
      cmocka_unit_test(readers_stay_before_writers),
      cmocka_unit_test(limits_hold),
      cmocka_unit_test(stored_values_stay_readable),
      cmocka_unit_test(stores_are_bound_to_buffers),
      cmocka_unit_test(networks_fuse),
      cmocka_unit_test(networks_compute_the_same),
  };
  return cmocka_run_group_tests_name("fusion", tests, NULL, NULL);
}
