/* What an op is, for those who plan, differentiate, print or run ops. Users include graph.h. */
#ifndef CELFORGE_ENGINE_GRAPH_OP_H
#define CELFORGE_ENGINE_GRAPH_OP_H

#include "engine/backend/shared/adam.h"
#include "engine/graph/graph.h"

typedef enum OpKind {
  OP_VIEW,                    /* -> view of a buffer; nothing runs */
  OP_RESHAPE,                 /* x -> same memory, other shape; nothing runs */
  OP_POINTWISE,               /* 0..8 inputs -> 1..4 outputs of one shape, by a small program */
  OP_REDUCE,                  /* 1..8 inputs, pointwise program -> scale * sum over axes, f32 */
  OP_SQUARE_SUMS,             /* x, a vector -> sum of squares of each of its ranges, f32 */
  OP_CONV3D,                  /* x, w, [bias] -> y = activation(conv + bias); zero padding only */
  OP_CONV3D_BACKWARD_DATA,    /* dy, w -> dx; a transposed convolution too */
  OP_CONV3D_BACKWARD_WEIGHTS, /* x, dy -> dw f32, [dbias f32] */
  OP_NORM,          /* x, [gain, bias], [residual] -> y = pad(activation(norm) + residual) */
  OP_NORM_BACKWARD, /* dy, x, [gain, bias] -> dx, [dgain, dbias]; dy is behind the activation */
  OP_CONCAT,        /* 1..8 inputs -> y */
  OP_SLICE,         /* x -> y */
  OP_PAD,           /* x -> y */
  OP_PAD_BACKWARD,  /* dy, [addend] -> dx: the transpose of OP_PAD (reflect, replicate) + addend */
  OP_RESIZE,        /* x -> y = pad(resized) */
  OP_RESIZE_BACKWARD,       /* dy, [addend] -> dx: the transpose + addend */
  OP_AVERAGE_POOL,          /* x -> y */
  OP_AVERAGE_POOL_BACKWARD, /* dy, [addend] -> dx: the transpose + addend */
  OP_MAX_POOL,              /* x, [other] -> y = other (x without one) where x is largest */
  OP_MAX_POOL_BACKWARD,     /* dy, x -> dx: dy (times step(x)) where x is largest, else 0 */
  OP_STORE,                 /* value, target -> ; target = value, or += value */
  OP_FILL,                  /* target -> ; */
  OP_ALL_REDUCE,            /* target -> ; run by the program through the collectives */
  OP_ADAM,                  /* AdamViews in order -> ; */
  OP_KIND_COUNT,
} OpKind;

/* --- Pointwise programs ----------------------------------------------------------------------- */
/* Registers 0 .. inputs-1 hold the inputs as f32, broadcast; instruction k writes register
 * inputs+k. A unary instruction reads a; a binary one a and b; p and q are constants. */
typedef enum PointwiseCode {
  PW_CONSTANT,   /* p */
  PW_COPY,       /* a */
  PW_ADD,        /* a + b */
  PW_SUB,        /* a - b */
  PW_MUL,        /* a * b */
  PW_DIV,        /* a / b */
  PW_AFFINE,     /* p * a + q */
  PW_LEAKY_RELU, /* a > 0 ? a : p * a */
  PW_LEAKY_STEP, /* a > 0 ? 1 : p */
  PW_TANH,
  PW_SIGMOID,
  PW_SOFTPLUS,
  PW_ABS,
  PW_SIGN,
  PW_SQRT,
  PW_SAFE_RECIPROCAL, /* a == 0 ? 0 : 1 / a: for the derivative of sqrt */
  PW_EXP,
  PW_LOG,
  PW_CLAMP,      /* min(max(a, p), q) */
  PW_CLAMP_STEP, /* p < a && a < q ? 1 : 0 */
  PW_CODE_COUNT,
} PointwiseCode;

typedef struct PointwiseInstruction {
  PointwiseCode code;
  int a, b;
  float p, q;
} PointwiseInstruction;

enum { POINTWISE_MAX_INPUTS = 8, POINTWISE_MAX_INSTRUCTIONS = 24, POINTWISE_MAX_OUTPUTS = 4 };

typedef struct PointwiseProgram {
  int instruction_count;
  PointwiseInstruction instructions[POINTWISE_MAX_INSTRUCTIONS];
  int outputs[POINTWISE_MAX_OUTPUTS]; /* the register each output is (of OP_REDUCE: one) */
} PointwiseProgram;

/* --- Attributes ------------------------------------------------------------------------------- */
typedef enum Activation { ACTIVATION_NONE, ACTIVATION_LEAKY_RELU, ACTIVATION_TANH } Activation;

typedef struct ConvAttributes {
  int stride[3], before[3], after[3]; /* zero padding */
  Activation activation;              /* of OP_CONV3D, set by fusion */
  float slope;
} ConvAttributes;

typedef struct PadAttributes {
  Shape before, after;
  PadMode mode;
} PadAttributes;

typedef struct NormAttributes {
  NormKind kind;
  int groups;
  float epsilon;
  Activation activation; /* none or leaky ReLU, by fusion; backward its sign is found from x */
  float slope;
  /* By fusion, of RMS norm: by reflection, in H and W; else nothing. */
  PadAttributes pad;          /* of y; backward: dy is that of padded y */
  PadAttributes residual_pad; /* the residual is what lies inside of a tensor padded so */
} NormAttributes;

typedef struct OpAttributes {
  union {
    struct {
      Buffer *buffer;
      int64_t offset;
    } view;
    PointwiseProgram pointwise;
    struct {
      PointwiseProgram program; /* instruction_count 0: outputs[0] is register 0 */
      unsigned axes;
      float scale;
      Shape full; /* the shape that is reduced: inputs broadcast to it */
    } reduce;
    struct {
      const int64_t *borders; /* [ranges + 1], ascending; the graph's builder keeps them */
      int ranges;
    } square_sums;
    ConvAttributes conv;
    NormAttributes norm;
    struct {
      int axis;
    } concat;
    struct {
      Shape begin;
    } slice;
    PadAttributes pad;
    struct {
      ResizeMode mode;
      PadAttributes pad; /* of what is resized, by fusion; else nothing */
    } resize;
    struct {
      int size, stride, pad;
    } pool;
    struct {
      int size;
      Activation
          activation; /* of what made x, backward by fusion: none or leaky ReLU, whose step */
      float slope;    /* at the largest number multiplies dy */
    } max_pool;
    struct {
      bool accumulate;
    } store;
    struct {
      float value;
    } fill;
    AdamConstants adam;
  };
} OpAttributes;

/* The inputs of OP_ADAM: AdamViews in order. */
typedef enum AdamInput {
  ADAM_PARAMETERS,
  ADAM_GRADIENTS,
  ADAM_MOMENT1,
  ADAM_MOMENT2,
  ADAM_EMA,
  ADAM_COMPUTE,
  ADAM_NORM,
  ADAM_CONTROLS,
  ADAM_COUNTERS,
  ADAM_INPUTS,
} AdamInput;

enum { OP_MAX_INPUTS = 9, OP_MAX_OUTPUTS = 4 };

/* Optional inputs and outputs that are absent are NO_VALUE; places do not shift, except that counts
 * may end before absent trailing ones. */
typedef struct Op {
  OpKind kind;
  char *name;       /* "generator.block3.conv1" */
  bool is_gradient; /* appended by differentiation */
  int input_count, output_count;
  Value inputs[OP_MAX_INPUTS];
  Value outputs[OP_MAX_OUTPUTS];
  OpAttributes attributes;
} Op;

/* The graph's ops in program order, for those who write it down in another form. */
int graph_op_count(const Graph *graph);
const Op *graph_op(const Graph *graph, int index);

/* The inputs (a bit each) that the op writes to: they are views. */
unsigned op_written_inputs(const Op *op);
/* The padding that is part of a resize, a norm, or the transpose of one; NULL: none. */
const PadAttributes *op_fused_pad(const Op *op);
/* Whether the op is the transpose of a padding, a resize or a pool, and adds its second input. */
bool op_map_adds(const Op *op);
const char *op_kind_name(OpKind kind); /* "conv3d_backward_data" */

#endif
