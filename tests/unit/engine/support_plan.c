#include "support_plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/bulk_memory.h"
#include "base/memory.h"

/* --- The backend ------------------------------------------------------------------------------ */

typedef struct FakeKernel {
  Kernel kernel;
  FakeBackend *backend;
} FakeKernel;

static Status fake_run(Kernel *kernel, const Tensor *inputs, const Tensor *outputs, void *workspace,
                       Error *error) {
  (void)inputs;
  (void)outputs;
  (void)workspace;
  (void)error;
  ((FakeKernel *)kernel)->backend->runs++;
  return OK;
}

static void fake_kernel_free(Kernel *kernel) {
  ((FakeKernel *)kernel)->backend->kernels--;
  free(kernel);
}

/* A program passes all kernels to prepare before it creates the first one. */
static void fake_prepare(Backend *backend, const KernelRequest *requests, int count) {
  for (int i = 0; i < count; i++) {
    const Op *op = requests[i].op;
    if (op->input_count > 0) assert_true(shape_count(requests[i].inputs[0].shape) > 0);
  }
  ((FakeBackend *)backend)->announced = count;
}

static Status fake_kernel_new(Backend *backend, const Op *op, const Tensor *inputs,
                              const Tensor *outputs, Kernel **out, Error *error) {
  FakeBackend *fake = (FakeBackend *)backend;
  (void)inputs;
  (void)outputs;
  if (op->kind == OP_VIEW || op->kind == OP_RESHAPE || op->kind == OP_ALL_REDUCE) {
    return error_set(error, ERROR_INTERNAL, "asked for a kernel of %s", op_kind_name(op->kind));
  }
  if (fake->announced-- <= 0)
    return error_set(error, ERROR_INTERNAL, "a kernel of %s was not announced",
                     op_kind_name(op->kind));
  if (op->kind == fake->refused) return error_set(error, ERROR_INTERNAL, "cannot run this");
  FakeKernel *kernel = mem_new(1, sizeof *kernel);
  size_t workspace = fake->with_workspaces ? (size_t)(fake->kernels % 5) * 100 : 0;
  kernel->kernel = (Kernel){.workspace = workspace, .run = fake_run, .free = fake_kernel_free};
  kernel->backend = fake;
  fake->kernels++;
  *out = &kernel->kernel;
  return OK;
}

static Status fake_allocate(Backend *backend, size_t bytes, const char *what, void **out,
                            Error *error) {
  ((FakeBackend *)backend)->allocations++;
  ((FakeBackend *)backend)->live++;
  return mem_bulk(bytes, what, out, error);
}

static void fake_release(Backend *backend, void *memory) {
  ((FakeBackend *)backend)->live--;
  free(memory);
}

static Status fake_synchronize(Backend *backend, Error *error) {
  (void)backend;
  (void)error;
  return OK;
}

static Status fake_record_event(Backend *backend, int index, Error *error) {
  (void)backend;
  (void)index;
  (void)error;
  return OK;
}

static Status fake_event_seconds(Backend *backend, int from, int to, double *seconds,
                                 Error *error) {
  (void)backend;
  (void)error;
  *seconds = 1e-3 * (to - from);
  return OK;
}

FakeBackend fake_backend(void) {
  return (FakeBackend){.backend = {.name = "fake",
                                   .allocate = fake_allocate,
                                   .release = fake_release,
                                   .synchronize = fake_synchronize,
                                   .record_event = fake_record_event,
                                   .event_seconds = fake_event_seconds,
                                   .kernel_new = fake_kernel_new,
                                   .prepare = fake_prepare},
                       .refused = OP_VIEW};
}

/* --- Programs --------------------------------------------------------------------------------- */

Planned plan_for(Backend *backend, const Graph *graph, bool without_fusion,
                 const Collectives *collectives) {
  Planned planned = {.arena = arena_new()};
  ProgramOptions options = {.name = "test",
                            .arena = planned.arena,
                            .collectives = collectives,
                            .without_fusion = without_fusion};
  Error error = {0};
  if (program_plan(graph, backend, &options, &planned.program, &error) != OK) {
    fail_msg("%s", error.message);
  }
  return planned;
}

void planned_free(Planned *planned) {
  program_free(planned->program);
  arena_free(planned->arena);
}

int count_ops(const Program *program, OpKind kind) {
  int count = 0;
  for (int i = 0; i < program->step_count; i++) count += program->plan->ops[i].kind == kind;
  return count;
}

int only_op(const Program *program, OpKind kind) {
  assert_int_equal(count_ops(program, kind), 1);
  int index = 0;
  while (program->plan->ops[index].kind != kind) index++;
  return index;
}

const Op *op_at(const Program *program, int index) {
  return &program->plan->ops[index];
}

static void check_lives(const Program *program, Value value, int index) {
  if (value.id < 0 || plan_value(program->plan, value)->buffer) return;
  assert_true(program->lifetime_of[value.id] >= 0);
  const Lifetime *lifetime = &program->lifetimes[program->lifetime_of[value.id]];
  assert_true(lifetime->first <= index && index <= lifetime->last);
}

void check_lifetimes(const Program *program) {
  for (int i = 0; i < program->step_count; i++) {
    const Op *op = op_at(program, i);
    for (int j = 0; j < op->input_count; j++) check_lives(program, op->inputs[j], i);
    for (int j = 0; j < op->output_count; j++) check_lives(program, op->outputs[j], i);
  }
}

/* --- Random graphs ---------------------------------------------------------------------------- */

enum { POOL = 24 };

typedef struct Maker {
  Graph *graph;
  Buffer *buffer;
  Random random;
  bool halving;
  int count;
  Value pool[POOL]; /* values to choose from */
} Maker;

static int pick(Maker *maker, int bound) {
  return (int)random_below(&maker->random, (uint64_t)bound);
}

static void add(Maker *maker, Value value) {
  int place = maker->count < POOL ? maker->count++ : pick(maker, POOL);
  maker->pool[place] = value;
}

static Value any(Maker *maker) {
  return maker->pool[pick(maker, maker->count)];
}

/* All of these broadcast to one another. */
static Shape any_shape(Maker *maker) {
  const Shape shapes[] = {shape_make(3, 1, 4, 2, 4), shape_make(3, 1, 4, 2, 4), shape_vector(4),
                          shape_scalar()};
  return shapes[pick(maker, 4)];
}

/* Offsets are multiples of 8 elements, so that views often overlap and are sometimes aligned. */
static Value any_view(Maker *maker, Shape shape) {
  int64_t offset = 8 * (int64_t)pick(maker, RANDOM_GRAPH_BUFFER / 16);
  return graph_view(maker->graph, maker->buffer, offset, shape);
}

static Value unary(Maker *maker, Value x) {
  switch (pick(maker, 8)) {
  case 0:
    return graph_tanh(maker->graph, x);
  case 1:
    return graph_leaky_relu(maker->graph, x, 0.2f);
  case 2:
    return graph_abs(maker->graph, x);
  case 3:
    return graph_affine(maker->graph, x, 0.75f, 0.125f);
  case 4:
    return graph_sigmoid(maker->graph, x);
  case 5:
    return graph_cast(maker->graph, x, DTYPE_F32);
  case 6:
    return graph_detach(maker->graph, x);
  default:
    return graph_square(maker->graph, graph_tanh(maker->graph, x));
  }
}

static Value binary(Maker *maker, Value a, Value b) {
  Graph *graph = maker->graph;
  switch (pick(maker, 3)) {
  case 0:
    return graph_add(graph, graph_affine(graph, a, 0.5f, 0), graph_affine(graph, b, 0.5f, 0));
  case 1:
    return graph_sub(graph, graph_affine(graph, a, 0.25f, 0), graph_affine(graph, b, 0.5f, 0));
  default:
    return graph_mul(graph, graph_tanh(graph, a), b);
  }
}

static Value reduced(Maker *maker, Value x) {
  const unsigned axes[] = {ALL_AXES, ALL_AXES & ~(1u << AXIS_C)};
  return graph_reduce_sum(maker->graph, x, axes[pick(maker, 2)], 0.0625f);
}

static Value reshaped(Maker *maker, Value x) {
  Shape shape = graph_shape(maker->graph, x);
  Shape turned = {{shape.dim[1], shape.dim[0], shape.dim[3], shape.dim[2], shape.dim[4]}};
  Value there = graph_reshape(maker->graph, x, turned);
  return graph_reshape(maker->graph, unary(maker, there), shape);
}

static Value frames_of(Maker *maker, Value whole, int64_t first, int64_t count) {
  return graph_slice(maker->graph, whole, (Shape){{first}}, shape_make(count, 1, 4, 2, 4));
}

/* One frame of x; or two parts, some of them modified, concatenated again; or parts that overlap.
 */
static Value parted(Maker *maker, Value x) {
  Value whole = graph_broadcast(maker->graph, x, shape_make(3, 1, 4, 2, 4)), parts[2];
  const int kind = pick(maker, 3), cut = 1 + pick(maker, 2), order = pick(maker, 2);
  if (kind == 0) return unary(maker, frames_of(maker, whole, pick(maker, 3), 1));
  if (kind == 1) {
    parts[order] = frames_of(maker, whole, 0, cut);
    parts[1 - order] = frames_of(maker, whole, cut, 3 - cut);
  } else {
    parts[1 - order] = frames_of(maker, whole, pick(maker, 3), 1);
    whole = unary(maker, whole); /* which ends here */
    Value first = frames_of(maker, whole, 0, 2), last = frames_of(maker, whole, 1, 2);
    parts[order] = order ? binary(maker, first, last) : binary(maker, last, first);
  }
  for (int i = 0; i < 2; i++)
    if (pick(maker, 2)) parts[i] = unary(maker, parts[i]);
  return graph_concat(maker->graph, parts, 2, AXIS_N);
}

static Value normalised(Maker *maker, Value x) {
  Value whole = graph_broadcast(maker->graph, x, shape_make(3, 1, 4, 2, 4));
  const NormKind kind = pick(maker, 8) ? NORM_RMS : NORM_INSTANCE;
  Value y = graph_norm(maker->graph, whole, NO_VALUE, NO_VALUE, kind, 1, 0.25f);
  return pick(maker, 2) ? graph_leaky_relu(maker->graph, y, 0.2f) : y;
}

/* The output of a norm is read by a padding and by ops beside it, sometimes by others, too. */
static Value padded_norm(Maker *maker, Value x) {
  const Shape before = {{0, 0, pick(maker, 4), pick(maker, 2), 0}}, after = {{0, 0, 3, 1, 0}};
  Value y = normalised(maker, x);
  Value padded = graph_pad(maker->graph, y, before, after, PAD_REFLECT);
  if (pick(maker, 4) == 0) add(maker, y);
  Value way = graph_slice(maker->graph, padded, (Shape){{0, 0, pick(maker, 3), 0, 0}},
                          shape_make(3, 1, 4, 2, 4));
  Value next = pick(maker, 8) ? normalised(maker, way) : unary(maker, way);
  return pick(maker, 2) ? graph_add(maker->graph, next, y) : graph_add(maker->graph, y, next);
}

/* Warped or translated by constants. */
static Value moved(Maker *maker, Value x) {
  Graph *graph = maker->graph;
  Value whole = graph_broadcast(graph, x, shape_make(3, 1, 4, 2, 4));
  if (pick(maker, 2))
    return graph_warp(graph, whole, graph_constant(graph, shape_make(3, 1, 4, 2, 2), 0.25f));
  Value offsets = graph_constant(graph, shape_make(3, 1, 1, 1, 2), (float)pick(maker, 2));
  return graph_translate(graph, whole, offsets);
}

/* x times the Gram matrix of its rows. */
static Value product(Maker *maker, Value x) {
  Graph *graph = maker->graph;
  Value whole = graph_tanh(graph, graph_broadcast(graph, x, shape_make(3, 1, 4, 2, 4)));
  Value gram = graph_affine(graph, graph_matmul(graph, whole, whole, true, false), 0.125f, 0);
  return graph_matmul(graph, whole, gram, false, pick(maker, 2));
}

static void all_reduce(Maker *maker, Value target) {
  if (maker->halving) {
    graph_store(maker->graph, graph_affine(maker->graph, target, 0.5f, 0), target);
  } else {
    graph_all_reduce(maker->graph, target);
  }
}

static bool lies_in_buffer(const Graph *graph, Value value) {
  const Op *producer = graph_producer(graph, value);
  if (producer->kind == OP_RESHAPE || producer->kind == OP_DETACH)
    return lies_in_buffer(graph, producer->inputs[0]);
  return producer->kind == OP_VIEW;
}

static void update(Maker *maker) {
  Value value = any(maker);
  if (lies_in_buffer(maker->graph, value)) return; /* overlapping copies are undefined */
  Value target = any_view(maker, graph_shape(maker->graph, value));
  switch (pick(maker, 5)) {
  case 0:
    graph_store(maker->graph, graph_constant(maker->graph, graph_shape(maker->graph, value), 0.5f),
                target);
    break;
  case 1:
    graph_accumulate(maker->graph, graph_affine(maker->graph, value, 0.5f, 0), target);
    break;
  case 2:
    all_reduce(maker, target);
    break;
  default:
    graph_store(maker->graph, value, target);
  }
}

Graph *random_graph(uint64_t seed, int ops, Buffer *buffer, bool halving) {
  Maker maker = {.graph = graph_new(),
                 .buffer = buffer,
                 .random = random_stream(seed, RANDOM_TEST, 0, 0),
                 .halving = halving};
  add(&maker, any_view(&maker, shape_make(3, 1, 4, 2, 4)));
  for (int i = 0; i < ops; i++) {
    int choice = pick(&maker, 22);
    if (choice < 5) {
      add(&maker, unary(&maker, any(&maker)));
    } else if (choice < 9) {
      Value a = any(&maker), b = any(&maker);
      add(&maker, binary(&maker, a, b));
    } else if (choice == 9) {
      add(&maker, reduced(&maker, any(&maker)));
    } else if (choice == 10) {
      add(&maker, reshaped(&maker, any(&maker)));
    } else if (choice == 11) {
      add(&maker, graph_broadcast(maker.graph, any(&maker), shape_make(3, 1, 4, 2, 4)));
    } else if (choice == 12) {
      add(&maker, graph_constant(maker.graph, any_shape(&maker), 0.25f * (float)pick(&maker, 5)));
    } else if (choice == 13) {
      add(&maker, any_view(&maker, any_shape(&maker)));
    } else if (choice < 16) {
      update(&maker);
    } else if (choice < 18) {
      add(&maker, parted(&maker, any(&maker)));
    } else if (choice < 20) {
      add(&maker, padded_norm(&maker, any(&maker)));
    } else {
      Value x = any(&maker);
      add(&maker, choice == 20 ? moved(&maker, x) : product(&maker, x));
    }
  }
  return maker.graph;
}
