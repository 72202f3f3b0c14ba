/* The graph interpreter of the reference. */
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/memory.h"
#include "support_reference.h"

typedef struct BufferCopy {
  const Buffer *buffer;
  double *data;
} BufferCopy;

struct Reference {
  const Graph *graph;
  int buffer_count, buffer_capacity;
  BufferCopy *buffers;
  double **values; /* by Value.id; views and reshapes point into others */
  bool *owned;
};

static double *copy_buffer(const Buffer *buffer) {
  const size_t count = (size_t)buffer->count;
  double *data = mem_new(count, sizeof *data);
  char *content = mem_new(count, dtype_size(buffer->dtype));
  Error error;
  if (buffer->data && buffer_download(buffer, 0, content, buffer->count, &error) != OK) abort();
  for (size_t i = 0; i < count; i++) {
    if (buffer->dtype == DTYPE_F32) data[i] = (double)((const float *)(void *)content)[i];
    if (buffer->dtype == DTYPE_BF16) {
      data[i] = (double)bf16_to_f32(((const uint16_t *)(void *)content)[i]);
    }
    if (buffer->dtype == DTYPE_I64) data[i] = (double)((const int64_t *)(void *)content)[i];
    if (buffer->dtype == DTYPE_U8) data[i] = ((const uint8_t *)content)[i];
  }
  free(content);
  return data;
}

double *reference_buffer(Reference *reference, const Buffer *buffer) {
  for (int i = 0; i < reference->buffer_count; i++) {
    if (reference->buffers[i].buffer == buffer) return reference->buffers[i].data;
  }
  MEM_PUSH_SLOT(reference->buffers, reference->buffer_count, reference->buffer_capacity);
  BufferCopy *copy = &reference->buffers[reference->buffer_count++];
  *copy = (BufferCopy){buffer, copy_buffer(buffer)};
  return copy->data;
}

Reference *reference_new(const Graph *graph) {
  Reference *reference = mem_new(1, sizeof *reference);
  reference->graph = graph;
  reference->values = mem_new((size_t)graph->value_count + 1, sizeof *reference->values);
  reference->owned = mem_new((size_t)graph->value_count + 1, sizeof *reference->owned);
  for (int k = 0; k < graph->op_count; k++) {
    const Op *op = &graph->ops[k];
    for (int i = 0; i < op->output_count; i++) {
      if (op->outputs[i].id < 0) continue;
      double **value = &reference->values[op->outputs[i].id];
      if (op->kind == OP_VIEW) {
        *value =
            reference_buffer(reference, op->attributes.view.buffer) + op->attributes.view.offset;
      } else if (op->kind == OP_RESHAPE || op->kind == OP_DETACH) {
        *value = reference->values[op->inputs[0].id];
      } else {
        *value = mem_new((size_t)shape_count(graph_shape(graph, op->outputs[i])), sizeof **value);
        reference->owned[op->outputs[i].id] = true;
      }
    }
  }
  return reference;
}

void reference_free(Reference *reference) {
  for (int i = 0; i < reference->graph->value_count; i++) {
    if (reference->owned[i]) free(reference->values[i]);
  }
  for (int i = 0; i < reference->buffer_count; i++) free(reference->buffers[i].data);
  free(reference->buffers);
  free(reference->values);
  free(reference->owned);
  free(reference);
}

static Array array_of(const Reference *reference, Value value) {
  if (value.id < 0) return (Array){0};
  return (Array){graph_shape(reference->graph, value), reference->values[value.id]};
}

void reference_evaluate(Reference *reference) {
  for (int k = 0; k < reference->graph->op_count; k++) {
    const Op *op = &reference->graph->ops[k];
    Array inputs[OP_MAX_INPUTS] = {0}, outputs[OP_MAX_OUTPUTS] = {0};
    if (op->kind == OP_VIEW || op->kind == OP_RESHAPE || op->kind == OP_DETACH ||
        op->kind == OP_ALL_REDUCE)
      continue;
    for (int i = 0; i < op->input_count; i++) inputs[i] = array_of(reference, op->inputs[i]);
    for (int i = 0; i < op->output_count; i++) outputs[i] = array_of(reference, op->outputs[i]);
    reference_run(op, inputs, outputs);
  }
}

const double *reference_value(const Reference *reference, Value value) {
  return reference->values[value.id];
}
