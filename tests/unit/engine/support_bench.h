/* A bench for rewrites of plans: builds a small graph, plans it on a backend that runs nothing, and
 * counts its ops. */
#ifndef CELFORGE_TESTS_ENGINE_SUPPORT_BENCH_H
#define CELFORGE_TESTS_ENGINE_SUPPORT_BENCH_H

#include "support_plan.h"

/* A graph under construction over two f32 buffers, one that is read and one that is written. */
typedef struct Bench {
  FakeBackend fake;
  Buffer in, out;
  int64_t read, written;
  Graph *graph;
  Planned planned;
} Bench;

static inline Bench bench_new(void) {
  return (Bench){.fake = fake_backend(),
                 .in = buffer_describe("in", DTYPE_F32, 1 << 16),
                 .out = buffer_describe("out", DTYPE_F32, 1 << 16),
                 .graph = graph_new()};
}

static inline Value source(Bench *bench, Shape shape) {
  Value view = graph_view(bench->graph, &bench->in, bench->read, shape);
  bench->read += (shape_count(shape) + 15) / 16 * 16;
  return view;
}

/* At an unaligned offset, so that no value can be bound to the buffer. */
static inline void keep(Bench *bench, Value value) {
  Shape shape = graph_shape(bench->graph, value);
  graph_store(bench->graph, graph_cast(bench->graph, value, DTYPE_F32),
              graph_view(bench->graph, &bench->out, bench->written + 1, shape));
  bench->written += (shape_count(shape) + 31) / 16 * 16;
}

static inline const Program *bench_plan(Bench *bench) {
  bench->planned = plan_for(&bench->fake.backend, bench->graph, false, NULL);
  return bench->planned.program;
}

static inline void bench_free(Bench *bench) {
  planned_free(&bench->planned);
  graph_free(bench->graph);
}

static inline int count(const Bench *bench, OpKind kind) {
  return count_ops(bench->planned.program, kind);
}

static inline const Op *only(const Bench *bench, OpKind kind) {
  return op_at(bench->planned.program, only_op(bench->planned.program, kind));
}

#endif
