/* Shared by the tests of graphs: a graph with buffers to view, checks of shapes and errors. */
#ifndef CELFORGE_TESTS_GRAPH_CHECKS_H
#define CELFORGE_TESTS_GRAPH_CHECKS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "engine/graph/internal.h"

/* One buffer for each dtype, large enough; views at distinct offsets are distinct values. */
typedef struct Fixture {
  Graph *graph;
  Buffer buffers[4]; /* by DType */
  int64_t used;
} Fixture;

static inline Fixture fixture_new(void) {
  return (Fixture){.graph = graph_new(),
                   .buffers = {buffer_describe("floats", DTYPE_F32, 1 << 20),
                               buffer_describe("halves", DTYPE_BF16, 1 << 20),
                               buffer_describe("bytes", DTYPE_U8, 1 << 20),
                               buffer_describe("integers", DTYPE_I64, 1 << 20)}};
}

static inline Value source(Fixture *fixture, DType dtype, Shape shape) {
  int64_t offset = fixture->used;
  fixture->used += shape_count(shape);
  return graph_view(fixture->graph, &fixture->buffers[dtype], offset, shape);
}

static inline void check_value(const Graph *graph, Value value, DType dtype, Shape shape) {
  char found[SHAPE_TEXT_SIZE], wanted[SHAPE_TEXT_SIZE];
  Error error = {0};
  graph_status(graph, &error);
  assert_string_equal(error.message, "");
  assert_string_equal(shape_text(graph_shape(graph, value), found), shape_text(shape, wanted));
  assert_string_equal(dtype_name(graph_dtype(graph, value)), dtype_name(dtype));
}

static inline void check_error(const Graph *graph, const char *message) {
  Error error = {0};
  assert_int_equal(graph_status(graph, &error), ERROR_USAGE);
  assert_string_equal(error.message, message);
}

static inline int count_kind(const Graph *graph, OpKind kind) {
  int count = 0;
  for (int i = 0; i < graph->op_count; i++) count += graph->ops[i].kind == kind;
  return count;
}

#endif
