/* Planning and running: dead ops, order and memory. Results of random graphs are compared with the
 * reference, which has neither order nor arena. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "support_plan.h"
#include "support_reference.h"

static Error error;

static void assert_ok(Status status) {
  if (status != OK) fail_msg("%s", error.message);
}

/* A buffer of `count` floats in host memory, independent of backends. */
static Buffer host_buffer(const char *name, int64_t count) {
  Buffer buffer = buffer_describe(name, DTYPE_F32, count);
  buffer.data = mem_new((size_t)count, sizeof(float));
  return buffer;
}

static void fill_random(Buffer *buffer, uint64_t seed) {
  Random random = random_stream(seed, RANDOM_TEST, 1, 0);
  random_fill_normal(&random, buffer->data, (size_t)buffer->count, 1);
}

/* --- Dead ops --------------------------------------------------------------------------------- */

static void dead_ops_are_removed(void **state) {
  (void)state;
  FakeBackend fake = fake_backend();
  Buffer buffer = host_buffer("b", 64);
  Graph *graph = graph_new();
  Value x = graph_view(graph, &buffer, 0, shape_vector(16));
  Value used = graph_reshape(graph, graph_tanh(graph, x), shape_make(1, 1, 1, 4, 4));
  graph_abs(graph, graph_tanh(graph, used)); /* no buffer depends on it */
  graph_store(graph, used, graph_view(graph, &buffer, 16, shape_make(1, 1, 1, 4, 4)));
  graph_store(graph, x, graph_view(graph, &buffer, 32, shape_vector(16)));
  graph_all_reduce(graph, graph_view(graph, &buffer, 48, shape_vector(16)));
  Planned planned = plan_for(&fake.backend, graph, true, NULL);
  assert_int_equal(planned.program->step_count, 4);
  assert_int_equal(count_ops(planned.program, OP_POINTWISE), 1);
  assert_int_equal(program_cost(planned.program).ops_before_fusion, 4);
  graph_free(graph); /* the program does not refer to the graph */
  assert_ok(program_run(planned.program, &error));
  assert_int_equal(fake.runs, 3);
  planned_free(&planned);
  assert_int_equal(fake.kernels, 0);
  assert_int_equal(fake.live, 0);
  free(buffer.data);
}

static void empty_program_runs(void **state) {
  (void)state;
  FakeBackend fake = fake_backend();
  Graph *graph = graph_new();
  Planned planned = plan_for(&fake.backend, graph, false, NULL);
  assert_ok(program_run(planned.program, &error));
  assert_int_equal(program_cost(planned.program).arena_bytes, 0);
  planned_free(&planned);
  graph_free(graph);
}

/* --- Errors ----------------------------------------------------------------------------------- */

static void errors_name_the_op(void **state) {
  (void)state;
  FakeBackend fake = fake_backend();
  fake.refused = OP_STORE;
  Buffer buffer = buffer_describe("weights", DTYPE_F32, 16);
  Graph *graph = graph_new();
  graph_scope_push(graph, "layer");
  graph_store(graph, graph_view(graph, &buffer, 0, shape_vector(8)),
              graph_view(graph, &buffer, 8, shape_vector(8)));
  Arena *arena = arena_new();
  ProgramOptions options = {.name = "train", .arena = arena};
  Program *program = NULL;
  assert_int_equal(program_plan(graph, &fake.backend, &options, &program, &error), ERROR_INTERNAL);
  assert_null(program);
  assert_string_equal(error.message, "program train, op layer.store (store): cannot run this");
  fake.refused = OP_VIEW;
  assert_ok(program_plan(graph, &fake.backend, &options, &program, &error));
  assert_int_equal(program_run(program, &error), ERROR_INTERNAL);
  assert_string_equal(error.message,
                      "program train, op layer.store: buffer weights is not allocated");
  program_free(program);
  graph_fail(graph, "wrong");
  assert_int_equal(program_plan(graph, &fake.backend, &options, &program, &error), ERROR_USAGE);
  assert_string_equal(error.message, "layer: wrong");
  arena_free(arena);
  graph_free(graph);
}

/* --- The arena -------------------------------------------------------------------------------- */

/* An element of a value, as an op of the plan computed it. */
typedef struct Origin {
  int value; /* or one of the below */
  int64_t element;
} Origin;

enum { NOBODY = -1, WORKSPACE = -2 };

/* The element that each byte of the arena holds, updated as the program would run. */
typedef struct Simulation {
  const Program *program;
  const Graph *graph;
  const bool *made; /* by value: computed by an op of the plan */
  Origin *owner;
} Simulation;

static Origin origin_of(const Simulation *simulation, Value value, int64_t element);

/* An element of a slice or concat that is an alias. */
static Origin origin_of_part(const Simulation *simulation, const Op *op, int64_t element) {
  const Graph *graph = simulation->graph;
  const Shape shape = graph_shape(graph, op->outputs[0]);
  int64_t at[RANK], rest = element, index = 0;
  for (int axis = RANK - 1; axis >= 0; axis--) {
    at[axis] = rest % shape.dim[axis];
    rest /= shape.dim[axis];
  }
  int operand = 0;
  const int axis = op->attributes.concat.axis;
  for (; op->kind == OP_CONCAT; operand++) {
    const int64_t length = graph_shape(graph, op->inputs[operand]).dim[axis];
    if (at[axis] < length) break;
    at[axis] -= length;
  }
  const Shape from = graph_shape(graph, op->inputs[operand]);
  for (int i = 0; i < RANK; i++) {
    const int64_t begin = op->kind == OP_SLICE ? op->attributes.slice.begin.dim[i] : 0;
    index = index * from.dim[i] + at[i] + begin;
  }
  return origin_of(simulation, op->inputs[operand], index);
}

static Origin origin_of(const Simulation *simulation, Value value, int64_t element) {
  const Op *op = graph_producer(simulation->graph, value);
  if (simulation->made[value.id]) return (Origin){value.id, element};
  if (op->kind == OP_RESHAPE || op->kind == OP_DETACH)
    return origin_of(simulation, op->inputs[0], element);
  if (op->kind == OP_SLICE || op->kind == OP_CONCAT) return origin_of_part(simulation, op, element);
  return (Origin){value.id, element};
}

static size_t offset_of(const Simulation *simulation, Value value) {
  int lifetime = simulation->program->lifetime_of[value.id];
  assert_true(lifetime >= 0);
  const PlanValue *info = plan_value(simulation->program->plan, value);
  size_t offset = simulation->program->lifetimes[lifetime].offset +
                  (size_t)info->offset * dtype_size(info->dtype);
  assert_int_equal(offset % 64, 0);
  return offset;
}

static void own(Simulation *simulation, size_t offset, size_t bytes, int owner) {
  assert_true(offset + bytes <= simulation->program->cost.arena_bytes);
  for (size_t i = offset; i < offset + bytes; i++) simulation->owner[i] = (Origin){owner, 0};
}

/* An output may share the memory of an input of a pointwise op of the same shape, and of no other
 * input. */
static void check_in_place(const Simulation *simulation, const Op *op, Value output) {
  const Plan *plan = simulation->program->plan;
  size_t begin = offset_of(simulation, output), end = begin + (size_t)plan_bytes(plan, output);
  for (int i = 0; i < op->input_count; i++) {
    Value input = op->inputs[i];
    if (input.id < 0 || plan_value(plan, input)->buffer) continue;
    size_t first = offset_of(simulation, input), last = first + (size_t)plan_bytes(plan, input);
    if (last <= begin || end <= first) continue;
    assert_int_equal(op->kind, OP_POINTWISE);
    assert_true(first == begin && last == end);
    assert_true(shape_equal(plan_value(plan, input)->shape, plan_value(plan, output)->shape));
  }
}

static void simulate_step(Simulation *simulation, int index) {
  const Program *program = simulation->program;
  const Op *op = op_at(program, index);
  const Step *step = &program->steps[index];
  for (int i = 0; i < op->output_count; i++) {
    if (op->outputs[i].id < 0 || plan_value(program->plan, op->outputs[i])->buffer) continue;
    check_in_place(simulation, op, op->outputs[i]);
  }
  /* The workspace first: overlaps with inputs show up below. */
  if (step->kernel) {
    own(simulation, step->workspace_offset, step->kernel->workspace, WORKSPACE);
  }
  for (int i = 0; i < op->input_count; i++) {
    Value input = op->inputs[i];
    if (input.id < 0 || plan_value(program->plan, input)->buffer) continue;
    size_t offset = offset_of(simulation, input);
    const int64_t size = (int64_t)dtype_size(plan_value(program->plan, input)->dtype);
    for (int64_t b = 0; b < plan_bytes(program->plan, input); b++) {
      const Origin *owner = &simulation->owner[offset + (size_t)b];
      const Origin wanted = origin_of(simulation, input, b / size);
      assert_int_equal(owner->value, wanted.value);
      assert_int_equal(owner->element, wanted.element);
    }
  }
  for (int i = 0; i < op->output_count; i++) {
    Value output = op->outputs[i];
    if (output.id < 0 || plan_value(program->plan, output)->buffer) continue;
    size_t offset = offset_of(simulation, output);
    const int64_t size = (int64_t)dtype_size(plan_value(program->plan, output)->dtype);
    for (int64_t b = 0; b < plan_bytes(program->plan, output); b++) {
      Origin *owner = &simulation->owner[offset + (size_t)b];
      for (int j = 0; j < i; j++) assert_int_not_equal(owner->value, op->outputs[j].id);
      *owner = (Origin){output.id, b / size};
    }
    if (!step->kernel || step->kernel->workspace == 0) continue;
    assert_true(offset + (size_t)plan_bytes(program->plan, output) <= step->workspace_offset ||
                step->workspace_offset + step->kernel->workspace <= offset);
  }
}

static void check_arena(const Graph *graph, const Program *program) {
  size_t bytes = program_cost(program).arena_bytes;
  bool *made = mem_new((size_t)graph->value_count, sizeof *made);
  Simulation simulation = {program, graph, made, mem_new(bytes, sizeof(Origin))};
  for (size_t i = 0; i < bytes; i++) simulation.owner[i] = (Origin){NOBODY, 0};
  for (int i = 0; i < program->step_count; i++) {
    const Op *op = op_at(program, i);
    for (int j = 0; j < op->output_count; j++)
      if (op->outputs[j].id >= 0) made[op->outputs[j].id] = true;
  }
  for (int i = 0; i < program->step_count; i++) simulate_step(&simulation, i);
  free(simulation.owner);
  free(made);
}

static void live_values_never_overlap(void **state) {
  (void)state;
  Buffer buffer = buffer_describe("b", DTYPE_F32, RANDOM_GRAPH_BUFFER);
  for (uint64_t seed = 0; seed < 60; seed++) {
    Graph *graph = random_graph(seed, 150, &buffer, false);
    for (int plain = 0; plain < 2; plain++) {
      FakeBackend fake = fake_backend();
      fake.with_workspaces = true;
      Planned planned = plan_for(&fake.backend, graph, plain, NULL);
      check_arena(graph, planned.program);
      planned_free(&planned);
    }
    graph_free(graph);
  }
}

/* A chain of equal tensors needs two at a time, or one if each op works in place. */
static void arena_is_reused(void **state) {
  (void)state;
  FakeBackend fake = fake_backend();
  Buffer buffer = buffer_describe("b", DTYPE_F32, 4096);
  Shape shape = shape_make(1, 1, 32, 32, 1);
  Graph *graph = graph_new();
  Value x = graph_view(graph, &buffer, 0, shape);
  for (int i = 0; i < 10; i++) x = graph_average_pool(graph, x, 3, 1, 1);
  for (int i = 0; i < 10; i++) x = graph_tanh(graph, x);
  graph_accumulate(graph, x, graph_view(graph, &buffer, 0, shape));
  Planned planned = plan_for(&fake.backend, graph, true, NULL);
  assert_int_equal(program_cost(planned.program).arena_bytes, 2 * 4096);
  planned_free(&planned);
  graph_free(graph);
}

/* Two outputs, one of them unused, and one input whose memory can be reused. */
static void outputs_of_one_op_do_not_share_memory(void **state) {
  (void)state;
  FakeBackend fake = fake_backend();
  Buffer buffer = buffer_describe("b", DTYPE_F32, 16);
  Graph *graph = graph_new();
  Shape shapes[] = {shape_vector(16), shape_vector(16)};
  DType dtypes[] = {DTYPE_F32, DTYPE_F32};
  Value view = graph_view(graph, &buffer, 0, shapes[0]);
  Op op = {.kind = OP_POINTWISE, .input_count = 1, .output_count = 2};
  op.inputs[0] = graph_tanh(graph, view);
  op.attributes.pointwise =
      (PointwiseProgram){.instruction_count = 2,
                         .instructions = {{.code = PW_ABS}, {.code = PW_SIGN}},
                         .outputs = {1, 2}};
  const Op *pair = graph_append(graph, &op, "pair", shapes, dtypes);
  graph_store(graph, pair->outputs[1], view);
  Planned planned = plan_for(&fake.backend, graph, true, NULL);
  const int *lifetime_of = planned.program->lifetime_of;
  assert_int_equal(lifetime_of[op.inputs[0].id],
                   lifetime_of[op_at(planned.program, 1)->outputs[0].id]);
  check_arena(graph, planned.program);
  assert_int_equal(program_cost(planned.program).arena_bytes, 128);
  planned_free(&planned);
  graph_free(graph);
}

static void arena_gaps_are_filled(void **state) {
  (void)state;
  Lifetime items[] = {
      {0, 9, 640, 0}, {0, 3, 256, 0}, {0, 9, 128, 0}, {4, 9, 150, 0}, {4, 9, 10, 0}};
  assert_int_equal(arena_assign_offsets(items, 5), 640 + 256 + 128);
  assert_int_equal(items[3].offset, 640);
  assert_int_equal(arena_assign_offsets(NULL, 0), 0);
  Lifetime huge[] = {{0, 9, SIZE_MAX / 2, 0}, {0, 9, SIZE_MAX / 2, 0}, {0, 9, SIZE_MAX / 2, 0}};
  assert_true(arena_assign_offsets(huge, 3) == SIZE_MAX);
}

static void programs_share_an_arena(void **state) {
  (void)state;
  FakeBackend fake = fake_backend();
  Buffer buffer = host_buffer("b", 4096);
  Arena *arena = arena_new();
  Program *programs[2];
  for (int i = 0; i < 2; i++) {
    Graph *graph = graph_new();
    Shape shape = shape_make(1, 1, 32, 16 + 16 * i, 1);
    Value x = graph_average_pool(graph, graph_view(graph, &buffer, 0, shape), 3, 1, 1);
    graph_accumulate(graph, x, graph_view(graph, &buffer, 0, shape));
    ProgramOptions options = {.name = "p", .arena = arena};
    assert_ok(program_plan(graph, &fake.backend, &options, &programs[i], &error));
    graph_free(graph);
    assert_ok(program_run(programs[0], &error)); /* once more, after the arena has moved */
  }
  assert_int_equal(arena_bytes(arena), 4096);
  assert_int_equal(fake.allocations, 2);
  assert_ok(program_run(programs[1], &error));
  assert_int_equal(fake.allocations, 2);
  assert_ptr_equal(programs[0]->steps[0].outputs[0].data, programs[1]->steps[0].outputs[0].data);
  for (int i = 0; i < 2; i++) program_free(programs[i]);
  arena_free(arena);
  assert_int_equal(fake.live, 0);
  free(buffer.data);
}

/* --- Collectives ------------------------------------------------------------------------------ */

enum { MAX_PENDING = 256 };

/* An all-reduce with a rank that holds zeros, done as late as possible: in the wait. */
typedef struct FakeCollectives {
  int starts, waits, pending;
  float *data[MAX_PENDING];
  int64_t count[MAX_PENDING];
} FakeCollectives;

static Status fake_start(void *context, void *data, int64_t count, DType dtype, void *stream,
                         Error *unused) {
  FakeCollectives *fake = context;
  (void)stream;
  (void)unused;
  assert_int_equal(dtype, DTYPE_F32);
  assert_true(fake->pending < MAX_PENDING);
  fake->data[fake->pending] = data;
  fake->count[fake->pending++] = count;
  fake->starts++;
  return OK;
}

static Status fake_wait(void *context, void *stream, Error *unused) {
  FakeCollectives *fake = context;
  (void)stream;
  (void)unused;
  for (int i = 0; i < fake->pending; i++) {
    for (int64_t j = 0; j < fake->count[i]; j++) fake->data[i][j] *= 0.5f;
  }
  fake->pending = 0;
  fake->waits++;
  return OK;
}

/* Gradients a and b are stored, other work follows, then both are reduced and read. */
static void all_reduces_start_early(void **state) {
  (void)state;
  FakeBackend fake = fake_backend();
  FakeCollectives context = {0};
  Collectives collectives = {
      .context = &context, .all_reduce_start = fake_start, .all_reduce_wait = fake_wait};
  Buffer gradient = host_buffer("gradient", 64), other = host_buffer("other", 64);
  Graph *graph = graph_new();
  Shape half = shape_vector(32);
  Value a = graph_view(graph, &gradient, 0, half), b = graph_view(graph, &gradient, 32, half);
  Value x = graph_view(graph, &other, 0, half);
  graph_store(graph, x, a);
  graph_store(graph, x, graph_view(graph, &other, 32, half));
  graph_store(graph, x, b);
  graph_store(graph, x, graph_view(graph, &other, 32, half));
  graph_all_reduce(graph, b);
  graph_all_reduce(graph, a);
  graph_store(graph, x, graph_view(graph, &other, 32, half));
  graph_accumulate(graph, x, graph_view(graph, &gradient, 16, half));
  Planned planned = plan_for(&fake.backend, graph, true, &collectives);
  Program *program = planned.program;
  assert_int_equal(program->step_count, 8);
  for (int i = 0; i < 8; i++) {
    const bool reduces = i == 3 || i == 4;
    assert_int_equal(op_at(program, i)->kind, reduces ? OP_ALL_REDUCE : OP_STORE);
    assert_int_equal(program->steps[i].waits, i == 7);
  }
  assert_int_equal(op_at(program, 3)->inputs[0].id, b.id); /* in the order they were appended */
  uint64_t version = gradient.version;
  assert_ok(program_run(program, &error));
  assert_int_equal(context.starts, 2);
  assert_int_equal(context.waits, 1);
  assert_int_equal(gradient.version, version + 5); /* three stores, two all-reduces */
  planned_free(&planned);
  graph_free(graph);
  free(gradient.data);
  free(other.data);
}

/* No op follows the all-reduce: the run waits for it at the end. It starts after a reader of its
 * target. */
static void all_reduce_stays_behind_readers(void **state) {
  (void)state;
  FakeBackend fake = fake_backend();
  FakeCollectives context = {0};
  Collectives collectives = {
      .context = &context, .all_reduce_start = fake_start, .all_reduce_wait = fake_wait};
  Buffer gradient = host_buffer("gradient", 32), other = host_buffer("other", 32);
  Graph *graph = graph_new();
  Value a = graph_view(graph, &gradient, 0, shape_vector(32));
  graph_store(graph, graph_view(graph, &other, 0, shape_vector(32)), a);
  graph_store(graph, a, graph_view(graph, &other, 0, shape_vector(32)));
  graph_all_reduce(graph, a);
  Planned planned = plan_for(&fake.backend, graph, true, &collectives);
  assert_int_equal(only_op(planned.program, OP_ALL_REDUCE), 2);
  assert_ok(program_run(planned.program, &error));
  assert_int_equal(context.waits, 1);
  planned_free(&planned);
  graph_free(graph);
  free(gradient.data);
  free(other.data);
}

/* --- Results ---------------------------------------------------------------------------------- */

/* Marks the second half as the backward pass: values of the first half that it reads are recomputed
 * unless their sources have been written since. Returns the number of additional ops. */
static int rematerialize_and_compare(uint64_t seed, Backend *backend, Buffer *buffer) {
  Graph *graph = random_graph(seed, 150, buffer, true);
  for (int i = graph->op_count / 2; i < graph->op_count; i++) graph->ops[i].is_gradient = true;
  Arena *arena = arena_new();
  Program *programs[2];
  float *found[2];
  for (int again = 0; again < 2; again++) {
    ProgramOptions options = {.name = "test", .arena = arena, .rematerialize = again};
    assert_ok(program_plan(graph, backend, &options, &programs[again], &error));
    check_lifetimes(programs[again]);
    fill_random(buffer, seed);
    assert_ok(program_run(programs[again], &error));
    found[again] = mem_new((size_t)buffer->count, sizeof(float));
    memcpy(found[again], buffer->data, (size_t)buffer->count * sizeof(float));
  }
  assert_memory_equal(found[0], found[1], (size_t)buffer->count * sizeof(float));
  int more = programs[1]->step_count - programs[0]->step_count;
  for (int i = 0; i < 2; i++) {
    program_free(programs[i]);
    free(found[i]);
  }
  arena_free(arena);
  graph_free(graph);
  return more;
}

static void rematerialized_graphs_give_the_same_bytes(void **state) {
  (void)state;
  Backend *backend = NULL;
  assert_ok(backend_cpu_new(1, &backend, &error));
  Buffer buffer = buffer_describe("b", DTYPE_F32, RANDOM_GRAPH_BUFFER);
  assert_ok(buffer_allocate(&buffer, backend, &error));
  int more = 0;
  for (uint64_t seed = 0; seed < 60; seed++)
    more += rematerialize_and_compare(seed, backend, &buffer);
  if (more < 40) fail_msg("only %d ops were run again", more);
  buffer_free(&buffer);
  backend->free(backend);
}

static void run_and_compare(uint64_t seed, Backend *backend, bool plain, Buffer *buffer) {
  FakeCollectives context = {0};
  Collectives collectives = {
      .context = &context, .all_reduce_start = fake_start, .all_reduce_wait = fake_wait};
  Graph *graph = random_graph(seed, 150, buffer, false);
  Graph *written_out = random_graph(seed, 150, buffer, true);
  Planned planned = plan_for(backend, graph, plain, &collectives);
  graph_free(graph);
  fill_random(buffer, seed);
  Reference *reference = reference_new(written_out);
  const double *expected = reference_buffer(reference, buffer);
  reference_evaluate(reference);
  assert_ok(program_run(planned.program, &error));
  for (int64_t i = 0; i < buffer->count; i++) {
    double got = (double)((float *)buffer->data)[i];
    if (!(fabs(got - expected[i]) <= 1e-5 * (1 + fabs(expected[i])))) {
      fail_msg("seed %d, %s: element %d is %g, not %g", (int)seed, plain ? "plain" : "fused",
               (int)i, got, expected[i]);
    }
  }
  reference_free(reference);
  planned_free(&planned);
  graph_free(written_out);
}

static void random_graphs_match_the_reference(void **state) {
  (void)state;
  Backend *backend = NULL;
  assert_ok(backend_cpu_new(2, &backend, &error));
  Buffer buffer = buffer_describe("b", DTYPE_F32, RANDOM_GRAPH_BUFFER);
  assert_ok(buffer_allocate(&buffer, backend, &error));
  for (uint64_t seed = 0; seed < 60; seed++) {
    run_and_compare(seed, backend, true, &buffer);
    run_and_compare(seed, backend, false, &buffer);
  }
  buffer_free(&buffer);
  backend->free(backend);
}

/* --- Reports ---------------------------------------------------------------------------------- */

static void reports_name_transposed_operands(void **state) {
  (void)state;
  FakeBackend fake = fake_backend();
  Buffer buffer = host_buffer("features", 4096);
  Graph *graph = graph_new();
  Value x = graph_view(graph, &buffer, 0, shape_make(1, 1, 1, 64, 8));
  Value gram = graph_matmul(graph, graph_detach(graph, x), x, true, false);
  graph_store(graph, gram, graph_view(graph, &buffer, 1024, graph_shape(graph, gram)));
  Planned planned = plan_for(&fake.backend, graph, false, NULL);
  Text text = {0};
  program_print(planned.program, &text);
  assert_non_null(strstr(text.data, "matmul +transpose_a "));
  assert_non_null(strstr(text.data, "1 (2 before fusion)"));
  text_free(&text);
  planned_free(&planned);
  graph_free(graph);
  free(buffer.data);
}

static void reports_name_ops_and_bounds(void **state) {
  (void)state;
  FakeBackend fake = fake_backend();
  Buffer buffer = host_buffer("gradient", 4096);
  Graph *graph = graph_new();
  Shape shape = shape_make(1, 1, 16, 16, 4);
  graph_scope_push(graph, "net.conv1");
  Value w = graph_view(graph, &buffer, 1024, shape_make(4, 1, 3, 3, 4));
  Value y = graph_conv3d(graph, graph_view(graph, &buffer, 0, shape), w, NO_VALUE,
                         conv_spec_same(1, 3, 1, PAD_ZERO));
  graph_accumulate(graph, graph_relu(graph, y), graph_view(graph, &buffer, 2048, shape));
  graph_all_reduce(graph, graph_view(graph, &buffer, 2048, shape_vector(1024)));
  Planned planned = plan_for(&fake.backend, graph, false, NULL);
  Text text = {0};
  program_print(planned.program, &text);
  assert_non_null(strstr(text.data, "net.conv1.conv3d"));
  assert_non_null(strstr(text.data, "conv3d +leaky_relu"));
  assert_non_null(strstr(text.data, "gradient[2048:3072] f32 4.0 KiB, waited for at the end"));
  assert_non_null(strstr(text.data, "3 (4 before fusion)"));
  text_clear(&text);
  program_print_profile(planned.program, NULL, &text);
  assert_string_equal(text.data, "program test: no profiled runs\n");
  program_profile(planned.program, true);
  for (int i = 0; i < 3; i++) assert_ok(program_run(planned.program, &error));
  assert_int_equal(program_times(planned.program).runs, 3);
  assert_true(program_times(planned.program).convolutions > 0);
  text_clear(&text);
  program_print_profile(planned.program, NULL, &text);
  assert_non_null(strstr(text.data, "mean of 3 runs"));
  assert_non_null(strstr(text.data, "conv3d +leaky_relu"));
  assert_null(strstr(text.data, "bound ms"));
  text_clear(&text);
  /* The convolution takes 1 ms of the fake clock; its bound is 73728 / 2^27 s = 0.549 ms. */
  const DevicePeaks peaks = {.flops = 134217728, .bytes = 1e12};
  program_print_profile(planned.program, &peaks, &text);
  assert_non_null(strstr(text.data, "bound ms"));
  assert_non_null(strstr(text.data, "     0.549    54.9 %"));
  ProgramCost cost = program_cost(planned.program);
  assert_true(cost.convolution_flops == 2.0 * 16 * 16 * 4 * 9 * 4);
  text_free(&text);
  planned_free(&planned);
  graph_free(graph);
  free(buffer.data);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(dead_ops_are_removed),
      cmocka_unit_test(empty_program_runs),
      cmocka_unit_test(errors_name_the_op),
      cmocka_unit_test(live_values_never_overlap),
      cmocka_unit_test(arena_is_reused),
      cmocka_unit_test(outputs_of_one_op_do_not_share_memory),
      cmocka_unit_test(arena_gaps_are_filled),
      cmocka_unit_test(programs_share_an_arena),
      cmocka_unit_test(all_reduces_start_early),
      cmocka_unit_test(all_reduce_stays_behind_readers),
      cmocka_unit_test(random_graphs_match_the_reference),
      cmocka_unit_test(rematerialized_graphs_give_the_same_bytes),
      cmocka_unit_test(reports_name_transposed_operands),
      cmocka_unit_test(reports_name_ops_and_bounds),
  };
  return cmocka_run_group_tests_name("plan", tests, NULL, NULL);
}
