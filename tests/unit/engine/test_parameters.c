#include "graph_checks.h"

#include <math.h>
#include <stdlib.h>

#include "base/bf16.h"
#include "engine/backend/backend.h"
#include "engine/parameters/parameters.h"

/* --- A backend of plain memory, not zeroed; `limit` bytes and then no more -------------------- */

typedef struct PlainBackend {
  Backend backend;
  size_t limit, used;
} PlainBackend;

static Status plain_allocate(Backend *backend, size_t bytes, const char *what, void **out,
                             Error *error) {
  PlainBackend *plain = (PlainBackend *)backend;
  if (bytes > plain->limit - plain->used)
    return error_set(error, ERROR_INTERNAL, "no memory for %s", what);
  plain->used += bytes;
  *out = malloc(bytes);
  memset(*out, 0xa5, bytes);
  return OK;
}

static void plain_release(Backend *backend, void *memory) {
  (void)backend;
  free(memory);
}

static Status plain_copy(Backend *backend, void *destination, const void *from, size_t bytes,
                         Error *error) {
  (void)backend;
  (void)error;
  memcpy(destination, from, bytes);
  return OK;
}

static PlainBackend plain_backend(size_t limit) {
  return (PlainBackend){.backend = {.name = "plain",
                                    .allocate = plain_allocate,
                                    .release = plain_release,
                                    .upload = plain_copy,
                                    .download = plain_copy},
                        .limit = limit};
}

/* --- A small network -------------------------------------------------------------------------- */

static const Shape first_shape = {{5, 1, 3, 3, 3}}, second_shape = {{2, 1, 3, 3, 5}};

/* Two convolutions; returns the loss. */
static Value build(Parameters *p, Graph *g, ParameterSource from, Buffer *input) {
  ConvSpec spec = conv_spec_same(1, 3, 1, PAD_ZERO);
  Value x = graph_view(g, input, 0, shape_make(1, 1, 8, 8, 3));
  Value w1 = parameters_weight(p, g, from, "conv1.weight", first_shape, 0.02f);
  Value b1 = parameters_vector(p, g, "conv1.bias", 5, from, INIT_ZERO);
  Value gain = parameters_vector(p, g, "norm.gain", 5, from, INIT_ONE);
  Value bias = parameters_vector(p, g, "norm.bias", 5, from, INIT_ZERO);
  Value w2 = parameters_weight(p, g, from, "conv2.weight", second_shape, 0.5f);
  x = graph_conv3d(g, graph_cast(g, x, graph_dtype(g, w1)), w1, b1, spec);
  x = graph_norm(g, x, gain, bias, NORM_RMS, 0, 1e-5f);
  x = graph_conv3d(g, graph_relu(g, x), w2, NO_VALUE, spec);
  return graph_mean(g, graph_square(g, x));
}

typedef struct Network {
  Parameters parameters;
  Graph *graph;
  Buffer input;
  Value loss;
} Network;

static void network_new(Network *n, DType precision) {
  parameters_init(&n->parameters, "net", precision);
  n->graph = graph_new();
  n->input = buffer_describe("input", DTYPE_F32, 8 * 8 * 3);
  n->loss = build(&n->parameters, n->graph, READ_COMPUTE, &n->input);
  assert_int_equal(graph_status(n->graph, NULL), OK);
}

static void network_free(Network *n) {
  graph_free(n->graph);
  parameters_free(&n->parameters);
}

static void declaration(void **state) {
  (void)state;
  Network n;
  network_new(&n, DTYPE_F32);
  Parameters *p = &n.parameters;
  static const char *const names[] = {"conv1.weight", "conv1.bias", "norm.gain", "norm.bias",
                                      "conv2.weight"};
  static const int64_t offsets[] = {0, 144, 160, 176, 192}, counts[] = {135, 5, 5, 5, 90};
  assert_int_equal(p->count, 5);
  for (int i = 0; i < 5; i++) {
    assert_string_equal(p->items[i].name, names[i]);
    assert_int_equal(p->items[i].offset, offsets[i]);
    assert_int_equal(p->items[i].count, counts[i]);
    assert_ptr_equal(parameters_find(p, names[i]), &p->items[i]);
  }
  assert_int_equal(p->total, 288);
  assert_int_equal(p->ema.count, 288);
  assert_string_equal(p->gradient.name, "net.gradient");
  assert_null(parameters_find(p, "conv1"));
  parameters_freeze(p);
  Graph *inference = graph_new(); /* repeated declarations add nothing */
  build(p, inference, READ_EMA, &n.input);
  assert_int_equal(graph_status(inference, NULL), OK);
  assert_int_equal(p->count, 5);
  graph_free(inference);
  network_free(&n);
}

static void sources(void **state) {
  (void)state;
  Network n;
  network_new(&n, DTYPE_BF16);
  Parameters *p = &n.parameters;
  Graph *g = n.graph;
  const ParameterSource from[] = {READ_COMPUTE, READ_MASTER, READ_EMA};
  const Buffer *weights[] = {&p->compute, &p->master, &p->ema};
  const Buffer *vectors[] = {&p->master, &p->master, &p->ema};
  for (int i = 0; i < 3; i++) {
    Value w = parameters_weight(p, g, from[i], "conv2.weight", second_shape, 0.5f);
    Value v = parameters_vector(p, g, "norm.gain", 5, from[i], INIT_ONE);
    check_value(g, w, i == 0 ? DTYPE_BF16 : DTYPE_F32, second_shape);
    check_value(g, v, DTYPE_F32, shape_vector(5));
    assert_ptr_equal(graph_producer(g, w)->attributes.view.buffer, weights[i]);
    assert_ptr_equal(graph_producer(g, v)->attributes.view.buffer, vectors[i]);
    assert_int_equal(graph_producer(g, w)->attributes.view.offset, 192);
  }
  network_free(&n);
}

static void wrong_declarations(void **state) {
  (void)state;
  static const char *const messages[] = {
      "parameters: net.norm.gain was declared as vector [1,1,1,1,5], but is used as vector "
      "[1,1,1,1,6]",
      "parameters: net.norm.gain was declared as vector [1,1,1,1,5], but is used as weight "
      "[1,1,1,1,5]",
      "parameters: net.new is new, but the parameters of the network are frozen",
      "parameters: net.gain: a vector is initialised with zeros or ones, not randomly",
      "parameters: net.w: standard deviation -1, expected finite and at least 0",
      ("parameters: net.empty is [1,1,1,1,0]; every axis must be at least 1, their product below "
       "2^59"),
      "parameters: net has 5 parameters, buckets of 0 bytes; expected at least 1 of both",
  };
  for (int i = 0; i < 7; i++) {
    Network n;
    network_new(&n, DTYPE_F32);
    Parameters *p = &n.parameters;
    if (i == 0) parameters_vector(p, n.graph, "norm.gain", 6, READ_MASTER, INIT_ONE);
    if (i == 1) parameters_weight(p, n.graph, READ_MASTER, "norm.gain", shape_vector(5), 1);
    if (i == 2) parameters_freeze(p);
    if (i == 2) parameters_vector(p, n.graph, "new", 6, READ_MASTER, INIT_ONE);
    if (i == 3) parameters_vector(p, n.graph, "gain", 6, READ_MASTER, INIT_NORMAL);
    if (i == 4) parameters_weight(p, n.graph, READ_MASTER, "w", shape_vector(5), -1);
    if (i == 5) parameters_vector(p, n.graph, "empty", 0, READ_MASTER, INIT_ONE);
    if (i == 6) parameters_differentiate(p, n.graph, n.loss, NULL, true, 0);
    check_error(n.graph, messages[i]);
    network_free(&n);
  }
}

/* --- Initial values --------------------------------------------------------------------------- */

static void allocate(Parameters *p, PlainBackend *plain) {
  Error error = {0};
  parameters_freeze(p);
  assert_int_equal(parameters_allocate(p, &plain->backend, true, true, &error), OK);
}

static void initial_values(void **state) {
  (void)state;
  Network n;
  Error error = {0};
  PlainBackend plain = plain_backend(1 << 20);
  network_new(&n, DTYPE_BF16);
  Parameters *p = &n.parameters;
  allocate(p, &plain);
  uint64_t version = p->compute.version;
  assert_int_equal(parameters_initialize(p, 7, &error), OK);
  assert_true(p->compute.version > version);
  const float *master = p->master.data, *ema = p->ema.data, *moment = p->moment1.data;
  const uint16_t *compute = p->compute.data;
  int64_t next = 0;
  for (int i = 0; i < p->count; i++) {
    const Parameter *item = &p->items[i];
    for (; next < item->offset; next++) assert_true(master[next] == 0);
    for (int64_t k = 0; k < item->count; k++, next++) {
      if (item->init != INIT_NORMAL)
        assert_true(master[next] == (item->init == INIT_ONE ? 1.0f : 0.0f));
    }
  }
  for (int64_t k = 0; k < p->total; k++) {
    assert_true(ema[k] == master[k] && moment[k] == 0);
    assert_int_equal(compute[k], bf16_from_f32(master[k]));
  }
  double square = 0;
  for (int64_t k = 0; k < 90; k++) square += (double)master[192 + k] * (double)master[192 + k];
  assert_true(fabs(sqrt(square / 90) - 0.5) < 0.15); /* four standard errors of 0.037 */
  network_free(&n);
}

/* Equal names give equal numbers in any order of declaration; other names, networks or seeds give
 * others. */
static void initial_values_depend_on_names(void **state) {
  (void)state;
  enum { COUNT = 40 };
  static const struct {
    const char *network, *name;
    uint64_t seed;
    bool first;
  } cases[] = {{"net", "w", 1, true},
               {"net", "w", 1, false},
               {"net", "v", 1, true},
               {"other", "w", 1, true},
               {"net", "w", 2, true}};
  float values[5][COUNT];
  for (int i = 0; i < 5; i++) {
    Parameters p;
    Error error = {0};
    PlainBackend plain = plain_backend(1 << 20);
    Graph *g = graph_new();
    parameters_init(&p, cases[i].network, DTYPE_F32);
    if (!cases[i].first) parameters_weight(&p, g, READ_COMPUTE, "before", shape_vector(3), 1);
    parameters_weight(&p, g, READ_COMPUTE, cases[i].name, shape_vector(COUNT), 1);
    allocate(&p, &plain);
    assert_int_equal(parameters_initialize(&p, cases[i].seed, &error), OK);
    int64_t offset = parameters_find(&p, cases[i].name)->offset;
    assert_int_equal(buffer_download(&p.master, offset, values[i], COUNT, &error), OK);
    graph_free(g);
    parameters_free(&p);
  }
  assert_memory_equal(values[0], values[1], sizeof values[0]);
  for (int i = 2; i < 5; i++) assert_memory_not_equal(values[0], values[i], sizeof values[0]);
}

static void allocation_failures(void **state) {
  (void)state;
  Network n;
  Error error = {0};
  PlainBackend plain = plain_backend(288 * 4 * 3);
  network_new(&n, DTYPE_F32);
  Parameters *p = &n.parameters;
  assert_int_equal(parameters_allocate(p, &plain.backend, true, false, &error), ERROR_INTERNAL);
  assert_string_equal(error.message,
                      "parameters of net: cannot be allocated before they are frozen");
  parameters_freeze(p);
  assert_int_equal(parameters_allocate(p, &plain.backend, true, false, &error), ERROR_INTERNAL);
  assert_string_equal(error.message, "no memory for net.moment2");
  assert_int_equal(parameters_allocate(p, &plain.backend, true, false, &error), ERROR_INTERNAL);
  assert_string_equal(error.message, "buffer net.master is already allocated");
  float value = 0;
  assert_int_equal(buffer_upload(&p->moment2, 0, &value, 1, &error), ERROR_INTERNAL);
  assert_string_equal(error.message, "buffer net.moment2: upload before it is allocated");
  assert_int_equal(buffer_download(&p->master, 288, &value, 1, &error), ERROR_INTERNAL);
  assert_string_equal(error.message,
                      "buffer net.master: download of 1 elements at 288, but it holds 288");
  network_free(&n);
}

/* --- Gradients and buckets -------------------------------------------------------------------- */

static const Buffer *target_buffer(const Graph *g, const Op *op, int place, int64_t *offset) {
  const Op *view = graph_producer(g, op->inputs[place]);
  *offset = view->attributes.view.offset;
  return view->attributes.view.buffer;
}

static void gradients_are_stored_by_layer(void **state) {
  (void)state;
  for (int added = 0; added < 3; added++) {
    Network n;
    network_new(&n, DTYPE_BF16);
    Parameters *p = &n.parameters;
    Buffer arrays[2] = {buffer_describe("first", DTYPE_F32, p->total),
                        buffer_describe("second", DTYPE_F32, p->total)};
    PartialSums partial = {added, (Buffer *const[]){&arrays[0], &arrays[1]}};
    parameters_differentiate(p, n.graph, n.loss, &partial, false, 1 << 20);
    check_value(n.graph, n.loss, DTYPE_F32, shape_scalar());
    assert_int_equal(count_kind(n.graph, OP_ALL_REDUCE), 0);
    bool stored[5] = {false};
    bool second_layer = false;
    for (int k = 0; k < n.graph->op_count; k++) {
      const Op *op = &n.graph->ops[k];
      int64_t offset;
      if (op->kind != OP_STORE) continue;
      assert_ptr_equal(target_buffer(n.graph, op, 1, &offset), &p->gradient);
      assert_false(op->attributes.store.accumulate);
      const Op *sum = graph_producer(n.graph, op->inputs[0]);
      for (int i = added - 1; i >= 0; i--) { /* the last parameter comes first */
        int64_t from;
        assert_ptr_equal(target_buffer(n.graph, sum, 1, &from), &arrays[i]);
        assert_int_equal(from, offset);
        sum = graph_producer(n.graph, sum->inputs[0]);
      }
      assert_int_equal(graph_dtype(n.graph, op->inputs[0]), DTYPE_F32);
      for (int i = 0; i < 5; i++) {
        if (p->items[i].offset == offset) stored[i] = true;
      }
      /* Each store follows the gradients of its layer: the last layer comes first. */
      assert_true(second_layer || offset == 192);
      second_layer = true;
    }
    for (int i = 0; i < 5; i++) assert_true(stored[i]);
    network_free(&n);
  }
}

/* For any bucket size, each element is in one bucket, buckets are ordered from the end to the
 * beginning, and each follows all of its stores. */
static void buckets_cover_every_element(void **state) {
  (void)state;
  static const int64_t sizes[] = {1, 64, 400, 500, 700, 1 << 20};
  static const int counts[] = {5, 5, 2, 2, 1, 1};
  for (int s = 0; s < 6; s++) {
    Network n;
    network_new(&n, DTYPE_F32);
    Parameters *p = &n.parameters;
    parameters_differentiate(p, n.graph, n.loss, NULL, true, sizes[s]);
    int64_t end = p->total, offset;
    int buckets = 0;
    for (int k = 0; k < n.graph->op_count; k++) {
      const Op *op = &n.graph->ops[k];
      if (op->kind == OP_ALL_REDUCE) {
        if (buckets == 0) assert_string_equal(op->name, "net.bucket0.all_reduce");
        assert_ptr_equal(target_buffer(n.graph, op, 0, &offset), &p->gradient);
        assert_int_equal(offset + shape_count(graph_shape(n.graph, op->inputs[0])), end);
        end = offset;
        buckets++;
      } else if (op->kind == OP_STORE) {
        target_buffer(n.graph, op, 1, &offset);
        assert_true(offset < end); /* stores precede their bucket */
      }
    }
    assert_int_equal(end, 0);
    assert_int_equal(buckets, counts[s]);
    network_free(&n);
  }
}

static void norms_and_the_worst_gradient(void **state) {
  (void)state;
  Network n;
  network_new(&n, DTYPE_F32);
  Parameters *p = &n.parameters;
  parameters_freeze(p);
  check_value(n.graph, parameters_gradient_norm(p, n.graph), DTYPE_F32, shape_scalar());
  assert_int_equal(p->squared_norms.count, p->count);
  for (int i = 0; i < p->count; i++) assert_int_equal(p->segment_offsets[i], p->items[i].offset);
  assert_int_equal(p->segment_offsets[p->count], p->total);
  float squares[] = {0, 0.5f, 0.25f, 3, 2};
  assert_int_equal(p->count, 5);
  assert_int_equal(parameters_worst_gradient(p, squares), 3);
  squares[4] = INFINITY;
  assert_int_equal(parameters_worst_gradient(p, squares), 4);
  squares[0] = NAN;
  assert_int_equal(parameters_worst_gradient(p, squares), 0);
  network_free(&n);
}

static void gradient_norm_needs_frozen_parameters(void **state) {
  (void)state;
  Network n;
  Error error = {0};
  network_new(&n, DTYPE_F32);
  assert_int_equal(parameters_gradient_norm(&n.parameters, n.graph).id, NO_VALUE.id);
  assert_int_not_equal(graph_status(n.graph, &error), OK);
  assert_non_null(strstr(error.message, "before they are frozen"));
  network_free(&n);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(declaration),
      cmocka_unit_test(sources),
      cmocka_unit_test(wrong_declarations),
      cmocka_unit_test(initial_values),
      cmocka_unit_test(initial_values_depend_on_names),
      cmocka_unit_test(allocation_failures),
      cmocka_unit_test(gradients_are_stored_by_layer),
      cmocka_unit_test(buckets_cover_every_element),
      cmocka_unit_test(norms_and_the_worst_gradient),
      cmocka_unit_test(gradient_norm_needs_frozen_parameters),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
