/* Writes ONNX models: a graph of operators on named tensors, in one file.
 *
 * Format: the messages of onnx.proto (https://github.com/onnx/onnx, IR version 8) in protobuf's
 * wire format (https://protobuf.dev/programming-guides/encoding). Operators and their attributes
 * are those of operator set 17 (https://onnx.ai/onnx/operators).
 *
 * A model is built call by call and written once. Strings are copied. The data of initializers are
 * not: they must stay valid until the model is written. */
#ifndef CELFORGE_CHECKPOINTS_ONNX_H
#define CELFORGE_CHECKPOINTS_ONNX_H

#include "checkpoints/safetensors.h"

enum { ONNX_IR_VERSION = 8, ONNX_OPERATOR_SET = 17, ONNX_MAX_INPUTS = 8, ONNX_MAX_ATTRIBUTES = 6 };

typedef struct OnnxModel OnnxModel;

/* `graph` is the graph's name, `producer` and `version` are the program's, `description` is free
 * text. */
OnnxModel *onnx_new(const char *graph, const char *producer, const char *version,
                    const char *description);
void onnx_free(OnnxModel *model); /* NULL is allowed */
/* Adds an entry to metadata_props. */
void onnx_property(OnnxModel *model, const char *key, const char *value);

/* An axis of an input or output: fixed length, or a named dynamic length. */
typedef struct OnnxAxis {
  const char *name; /* NULL: fixed length */
  int64_t length;
} OnnxAxis;
/* Add f32 inputs and outputs. */
void onnx_input(OnnxModel *model, const char *name, const OnnxAxis *axes, int rank,
                const char *description);
void onnx_output(OnnxModel *model, const char *name, const OnnxAxis *axes, int rank,
                 const char *description);
/* Adds a constant, TENSOR_F32 or TENSOR_I64. */
void onnx_initializer(OnnxModel *model, const NamedTensor *tensor);

typedef struct OnnxAttribute {
  const char *name; /* NULL ends the list of a node */
  enum { ONNX_INT, ONNX_STRING, ONNX_INTS } kind;
  int64_t integer;
  const char *string;
  const int64_t *integers;
  int count; /* of integers */
} OnnxAttribute;
#define ONNX_ATTRIBUTE_INT(label, value)                                                           \
  { .name = (label), .kind = ONNX_INT, .integer = (value) }
#define ONNX_ATTRIBUTE_STRING(label, value)                                                        \
  { .name = (label), .kind = ONNX_STRING, .string = (value) }
#define ONNX_ATTRIBUTE_INTS(label, values, length)                                                 \
  { .name = (label), .kind = ONNX_INTS, .integers = (values), .count = (length) }

/* One operator call. Inputs end at the first NULL; "" omits an optional input. Nodes must be added
 * in topological order: each input before the node that reads it. */
typedef struct OnnxNode {
  const char *type; /* the operator: "Conv" */
  const char *inputs[ONNX_MAX_INPUTS];
  const char *output; /* also the node's name */
  OnnxAttribute attributes[ONNX_MAX_ATTRIBUTES];
} OnnxNode;
void onnx_node(OnnxModel *model, const OnnxNode *node);

/* Writes the model atomically. ERROR_USAGE if it exceeds the size limit of protobuf (2 GiB). */
Status onnx_write(const OnnxModel *model, const char *path, Error *error);

#endif
