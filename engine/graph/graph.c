#include "engine/graph/graph.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "engine/graph/internal.h"

Graph *graph_new(void) {
  return mem_new(1, sizeof(Graph));
}

void graph_free(Graph *graph) {
  if (graph == NULL) return;
  for (int i = 0; i < graph->op_count; i++) free(graph->ops[i].name);
  free(graph->ops);
  free(graph->values);
  free(graph->scope_lengths);
  text_free(&graph->scope);
  free(graph);
}

/* --- Errors and scopes ------------------------------------------------------------------------ */

Status graph_status(const Graph *graph, Error *error) {
  if (graph->error.status == OK) return OK;
  return error_set(error, graph->error.status, "%s", graph->error.message);
}

void graph_fail(Graph *graph, const char *format, ...) {
  if (graph->error.status != OK) return;
  char message[ERROR_MESSAGE_SIZE];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  const char *scope = graph_scope(graph);
  error_set(&graph->error, ERROR_USAGE, "%s%s%s", scope, *scope ? ": " : "", message);
}

const char *graph_scope(const Graph *graph) {
  return graph->scope.data == NULL ? "" : graph->scope.data;
}

void graph_scope_push(Graph *graph, const char *format, ...) {
  char part[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(part, sizeof part, format, arguments);
  va_end(arguments);
  MEM_PUSH_SLOT(graph->scope_lengths, graph->scope_depth, graph->scope_capacity);
  graph->scope_lengths[graph->scope_depth++] = graph->scope.length;
  text_append(&graph->scope, "%s%s", graph->scope.length > 0 ? "." : "", part);
}

void graph_scope_pop(Graph *graph) {
  if (graph->scope_depth == 0) {
    graph_fail(graph, "scope: popped more often than pushed");
    return;
  }
  graph->scope.length = graph->scope_lengths[--graph->scope_depth];
  graph->scope.data[graph->scope.length] = '\0';
}

/* --- Values ----------------------------------------------------------------------------------- */

static bool is_value(const Graph *graph, Value value) {
  return value.id >= 0 && value.id < graph->value_count;
}

Shape graph_shape(const Graph *graph, Value value) {
  return is_value(graph, value) ? graph->values[value.id].shape : (Shape){{0}};
}

DType graph_dtype(const Graph *graph, Value value) {
  return is_value(graph, value) ? graph->values[value.id].dtype : DTYPE_F32;
}

bool graph_usable(const Graph *graph, const Value *values, int count) {
  if (graph->error.status != OK) return false;
  for (int i = 0; i < count; i++) {
    if (!is_value(graph, values[i])) return false;
  }
  return true;
}

const Op *graph_producer(const Graph *graph, Value value) {
  return &graph->ops[graph->values[value.id].producer];
}

int graph_op_count(const Graph *graph) {
  return graph->op_count;
}

const Op *graph_op(const Graph *graph, int index) {
  return &graph->ops[index];
}

/* --- Appending -------------------------------------------------------------------------------- */

const Op *graph_append(Graph *graph, const Op *op, const char *label, const Shape *shapes,
                       const DType *dtypes) {
  if (graph->error.status != OK) return NULL;
  if (label == NULL) label = op_kind_name(op->kind);
  for (int i = 0; i < op->output_count; i++) {
    char text[SHAPE_TEXT_SIZE];
    if (shape_is_countable(shapes[i])) continue;
    graph_fail(graph,
               "%s: the result would be %s; every axis must be at least 1, their product "
               "below 2^59",
               label, shape_text(shapes[i], text));
    return NULL;
  }
  Op copy = *op; /* `op` may point into the list, which is reallocated below */
  const char *scope = graph_scope(graph);
  copy.is_gradient = graph->differentiating;
  copy.name = mem_format("%s%s%s", scope, *scope ? "." : "", label);
  for (int i = 0; i < copy.output_count; i++) {
    MEM_PUSH_SLOT(graph->values, graph->value_count, graph->value_capacity);
    graph->values[graph->value_count] = (ValueInfo){shapes[i], dtypes[i], graph->op_count};
    copy.outputs[i].id = graph->value_count++;
  }
  MEM_PUSH_SLOT(graph->ops, graph->op_count, graph->op_capacity);
  graph->ops[graph->op_count] = copy;
  return &graph->ops[graph->op_count++];
}

/* The existing view of this range. One range of a buffer is one Value of the graph, so that a
 * gradient with respect to it sums over all its uses. */
static Value find_view(const Graph *graph, const Buffer *buffer, int64_t offset, Shape shape) {
  for (int i = 0; i < graph->op_count; i++) {
    const Op *op = &graph->ops[i];
    if (op->kind == OP_VIEW && op->attributes.view.buffer == buffer &&
        op->attributes.view.offset == offset &&
        shape_equal(graph_shape(graph, op->outputs[0]), shape))
      return op->outputs[0];
  }
  return NO_VALUE;
}

Value graph_view(Graph *graph, Buffer *buffer, int64_t offset, Shape shape) {
  if (!graph_usable(graph, NULL, 0)) return NO_VALUE;
  char text[SHAPE_TEXT_SIZE];
  if (!shape_is_countable(shape)) {
    graph_fail(graph,
               "view: %s of buffer %s; every axis must be at least 1, their product below "
               "2^59",
               shape_text(shape, text), buffer->name);
    return NO_VALUE;
  }
  if (offset < 0 || offset > buffer->count || shape_count(shape) > buffer->count - offset) {
    graph_fail(graph, "view: %s at element %lld of buffer %s, which holds %lld",
               shape_text(shape, text), (long long)offset, buffer->name, (long long)buffer->count);
    return NO_VALUE;
  }
  Value found = find_view(graph, buffer, offset, shape);
  if (found.id >= 0) return found;
  Op op = {.kind = OP_VIEW, .output_count = 1};
  op.attributes.view.buffer = buffer;
  op.attributes.view.offset = offset;
  const Op *appended = graph_append(graph, &op, NULL, &shape, &buffer->dtype);
  return appended == NULL ? NO_VALUE : appended->outputs[0];
}
