/* ONNX models: a graph of operators over named tensors, in one file.
 *
 * Format: the messages of onnx.proto (https://github.com/onnx/onnx, IR version 8) in protobuf's
 * wire format (https://protobuf.dev/programming-guides/encoding). Operators and their attributes
 * are those of operator set 17 (https://onnx.ai/onnx/operators).
 *
 * A model is put together call by call and written once. Texts are copied; an initializer's data
 * are not, and must live until the model is written. */
#ifndef CELFORGE_CHECKPOINTS_ONNX_H
#define CELFORGE_CHECKPOINTS_ONNX_H

#include "checkpoints/safetensors.h"

enum { ONNX_IR_VERSION = 8, ONNX_OPERATOR_SET = 17, ONNX_MAX_INPUTS = 8, ONNX_MAX_ATTRIBUTES = 6 };

typedef struct OnnxModel OnnxModel;

/* `graph` names the graph, `producer` and `version` the program; `description` is for people. */
OnnxModel *onnx_new(const char *graph, const char *producer, const char *version,
                    const char *description);
void onnx_free(OnnxModel *model); /* NULL is allowed */
/* A property of the model, for programs that read it. */
void onnx_property(OnnxModel *model, const char *key, const char *value);

/* An axis of an input or output: of a fixed length, or with a name where any length will do. */
typedef struct OnnxAxis {
  const char *name; /* NULL: fixed */
  int64_t length;
} OnnxAxis;
/* f32 tensors that the model takes and gives. */
void onnx_input(OnnxModel *model, const char *name, const OnnxAxis *axes, int rank,
                const char *description);
void onnx_output(OnnxModel *model, const char *name, const OnnxAxis *axes, int rank,
                 const char *description);
/* A constant: TENSOR_F32 or TENSOR_I64. */
void onnx_initializer(OnnxModel *model, const NamedTensor *tensor);

typedef struct OnnxAttribute {
  const char *name; /* NULL: none, and none behind it */
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

/* One application of an operator. Inputs end at the first NULL; "" is an optional one left out.
 * Nodes are added in an order in which every input is known before. */
typedef struct OnnxNode {
  const char *type; /* the operator: "Conv" */
  const char *inputs[ONNX_MAX_INPUTS];
  const char *output; /* also the node's name */
  OnnxAttribute attributes[ONNX_MAX_ATTRIBUTES];
} OnnxNode;
void onnx_node(OnnxModel *model, const OnnxNode *node);

/* Writes the model, whole or not at all. ERROR_USAGE where it is larger than a protobuf message may
 * be (2 GiB). */
Status onnx_write(const OnnxModel *model, const char *path, Error *error);

#endif
