#include "checkpoints/onnx.h"

#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "base/protobuf.h"

/* Field numbers of onnx.proto. */
enum ModelField {
  MODEL_IR_VERSION = 1,
  MODEL_PRODUCER_NAME = 2,
  MODEL_PRODUCER_VERSION = 3,
  MODEL_DOC_STRING = 6,
  MODEL_GRAPH = 7,
  MODEL_OPSET_IMPORT = 8,
  MODEL_METADATA_PROPS = 14,
};
enum { OPSET_VERSION = 2, PROPERTY_KEY = 1, PROPERTY_VALUE = 2 };
enum GraphField {
  GRAPH_NODE = 1,
  GRAPH_NAME = 2,
  GRAPH_INITIALIZER = 5,
  GRAPH_INPUT = 11,
  GRAPH_OUTPUT = 12,
};
enum { NODE_INPUT = 1, NODE_OUTPUT = 2, NODE_NAME = 3, NODE_OP_TYPE = 4, NODE_ATTRIBUTE = 5 };
enum AttributeField {
  ATTRIBUTE_NAME = 1,
  ATTRIBUTE_I = 3,
  ATTRIBUTE_S = 4,
  ATTRIBUTE_INTS = 8,
  ATTRIBUTE_TYPE = 20,
};
enum { TENSOR_DIMS = 1, TENSOR_DATA_TYPE = 2, TENSOR_NAME = 8, TENSOR_RAW_DATA = 9 };
enum { VALUE_NAME = 1, VALUE_TYPE = 2, VALUE_DOC_STRING = 3 };
enum { TYPE_TENSOR = 1, TENSOR_TYPE_ELEMENT = 1, TENSOR_TYPE_SHAPE = 2 };
enum { SHAPE_DIM = 1, DIMENSION_VALUE = 1, DIMENSION_PARAM = 2 };
/* Element types (TensorProto.DataType) and attribute types (AttributeProto.AttributeType). */
enum { ELEMENT_FLOAT = 1, ELEMENT_INT64 = 7 };
static const int ATTRIBUTE_TYPES[] = {[ONNX_INT] = 2, [ONNX_STRING] = 3, [ONNX_INTS] = 7};

static const uint64_t MAX_MESSAGE_BYTES = INT32_MAX; /* the limit of protobuf */

/* An encoded TensorProto without its data, which are written straight from the caller's memory. */
typedef struct Initializer {
  Text head;
  const void *data;
  size_t size;
} Initializer;

struct OnnxModel {
  Text head;  /* the encoded model without its graph */
  Text graph; /* the encoded graph without its initializers */
  int initializer_count, initializer_capacity;
  Initializer *initializers;
};

/* --- Building a model ------------------------------------------------------------------------- */

OnnxModel *onnx_new(const char *graph, const char *producer, const char *version,
                    const char *description) {
  OnnxModel *model = mem_new(1, sizeof *model);
  Text operators = {0};
  protobuf_integer(&operators, OPSET_VERSION, ONNX_OPERATOR_SET);
  protobuf_integer(&model->head, MODEL_IR_VERSION, ONNX_IR_VERSION);
  protobuf_string(&model->head, MODEL_PRODUCER_NAME, producer);
  protobuf_string(&model->head, MODEL_PRODUCER_VERSION, version);
  protobuf_string(&model->head, MODEL_DOC_STRING, description);
  protobuf_message(&model->head, MODEL_OPSET_IMPORT, &operators);
  protobuf_string(&model->graph, GRAPH_NAME, graph);
  return model;
}

void onnx_free(OnnxModel *model) {
  if (!model) return;
  for (int i = 0; i < model->initializer_count; i++) text_free(&model->initializers[i].head);
  free(model->initializers);
  text_free(&model->head);
  text_free(&model->graph);
  free(model);
}

void onnx_property(OnnxModel *model, const char *key, const char *value) {
  Text property = {0};
  protobuf_string(&property, PROPERTY_KEY, key);
  protobuf_string(&property, PROPERTY_VALUE, value);
  protobuf_message(&model->head, MODEL_METADATA_PROPS, &property);
}

static void put_value(OnnxModel *model, int field, const char *name, const OnnxAxis *axes, int rank,
                      const char *description) {
  Text value = {0}, type = {0}, tensor = {0}, shape = {0};
  for (int i = 0; i < rank; i++) {
    Text dimension = {0};
    if (axes[i].name)
      protobuf_string(&dimension, DIMENSION_PARAM, axes[i].name);
    else
      protobuf_integer(&dimension, DIMENSION_VALUE, axes[i].length);
    protobuf_message(&shape, SHAPE_DIM, &dimension);
  }
  protobuf_integer(&tensor, TENSOR_TYPE_ELEMENT, ELEMENT_FLOAT);
  protobuf_message(&tensor, TENSOR_TYPE_SHAPE, &shape);
  protobuf_message(&type, TYPE_TENSOR, &tensor);
  protobuf_string(&value, VALUE_NAME, name);
  protobuf_message(&value, VALUE_TYPE, &type);
  protobuf_string(&value, VALUE_DOC_STRING, description);
  protobuf_message(&model->graph, field, &value);
}

void onnx_input(OnnxModel *model, const char *name, const OnnxAxis *axes, int rank,
                const char *description) {
  put_value(model, GRAPH_INPUT, name, axes, rank, description);
}

void onnx_output(OnnxModel *model, const char *name, const OnnxAxis *axes, int rank,
                 const char *description) {
  put_value(model, GRAPH_OUTPUT, name, axes, rank, description);
}

void onnx_initializer(OnnxModel *model, const NamedTensor *tensor) {
  MEM_PUSH_SLOT(model->initializers, model->initializer_count, model->initializer_capacity);
  Initializer *initializer = &model->initializers[model->initializer_count++];
  *initializer = (Initializer){.data = tensor->data, .size = named_tensor_bytes(tensor)};
  for (int i = 0; i < tensor->rank; i++)
    protobuf_integer(&initializer->head, TENSOR_DIMS, tensor->shape[i]);
  protobuf_integer(&initializer->head, TENSOR_DATA_TYPE,
                   tensor->type == TENSOR_I64 ? ELEMENT_INT64 : ELEMENT_FLOAT);
  protobuf_string(&initializer->head, TENSOR_NAME, tensor->name);
  protobuf_length_prefix(&initializer->head, TENSOR_RAW_DATA, initializer->size);
}

static void put_attribute(Text *out, const OnnxAttribute *attribute) {
  Text message = {0};
  protobuf_string(&message, ATTRIBUTE_NAME, attribute->name);
  protobuf_integer(&message, ATTRIBUTE_TYPE, ATTRIBUTE_TYPES[attribute->kind]);
  switch (attribute->kind) {
  case ONNX_INT:
    protobuf_integer(&message, ATTRIBUTE_I, attribute->integer);
    break;
  case ONNX_STRING:
    protobuf_string(&message, ATTRIBUTE_S, attribute->string);
    break;
  case ONNX_INTS:
    for (int i = 0; i < attribute->count; i++)
      protobuf_integer(&message, ATTRIBUTE_INTS, attribute->integers[i]);
    break;
  }
  protobuf_message(out, NODE_ATTRIBUTE, &message);
}

void onnx_node(OnnxModel *model, const OnnxNode *node) {
  Text message = {0};
  for (int i = 0; i < ONNX_MAX_INPUTS && node->inputs[i]; i++)
    protobuf_string(&message, NODE_INPUT, node->inputs[i]);
  protobuf_string(&message, NODE_OUTPUT, node->output);
  protobuf_string(&message, NODE_NAME, node->output);
  protobuf_string(&message, NODE_OP_TYPE, node->type);
  for (int i = 0; i < ONNX_MAX_ATTRIBUTES && node->attributes[i].name; i++)
    put_attribute(&message, &node->attributes[i]);
  protobuf_message(&model->graph, GRAPH_NODE, &message);
}

/* --- Writing ---------------------------------------------------------------------------------- */

static uint64_t graph_bytes(const OnnxModel *model) {
  uint64_t bytes = model->graph.length;
  for (int i = 0; i < model->initializer_count; i++) {
    const Initializer *initializer = &model->initializers[i];
    Text head = {0};
    uint64_t size = initializer->head.length + initializer->size;
    protobuf_length_prefix(&head, GRAPH_INITIALIZER, size);
    bytes += head.length + size;
    text_free(&head);
  }
  return bytes;
}

static Status write_graph(const OnnxModel *model, AtomicFile *file, Error *error) {
  Status status = OK;
  Text head = {0};
  TRY(atomic_file_write(file, model->graph.data, model->graph.length, error));
  for (int i = 0; i < model->initializer_count; i++) {
    const Initializer *initializer = &model->initializers[i];
    text_clear(&head);
    protobuf_length_prefix(&head, GRAPH_INITIALIZER, initializer->head.length + initializer->size);
    text_append_bytes(&head, initializer->head.data, initializer->head.length);
    TRY(atomic_file_write(file, head.data, head.length, error));
    TRY(atomic_file_write(file, initializer->data, initializer->size, error));
  }
done:
  text_free(&head);
  return status;
}

Status onnx_write(const OnnxModel *model, const char *path, Error *error) {
  Status status = OK;
  AtomicFile file = {0};
  Text head = {0};
  uint64_t graph = graph_bytes(model);
  text_append_bytes(&head, model->head.data, model->head.length);
  protobuf_length_prefix(&head, MODEL_GRAPH, graph);
  if (head.length + graph > MAX_MESSAGE_BYTES)
    FAIL(error, ERROR_USAGE,
         "%s: an ONNX file holds at most %llu bytes, this model takes %llu; export safetensors",
         path, (unsigned long long)MAX_MESSAGE_BYTES, (unsigned long long)(head.length + graph));
  TRY(atomic_file_open(path, &file, error));
  TRY(atomic_file_write(&file, head.data, head.length, error));
  TRY(write_graph(model, &file, error));
  TRY(atomic_file_commit(&file, error));
done:
  atomic_file_abort(&file);
  text_free(&head);
  return status;
}
