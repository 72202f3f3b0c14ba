/* Ops: kinds, attributes, operands. For code that plans, differentiates, prints or runs ops; code
 * that builds graphs needs graph.h alone. */
#ifndef CELFORGE_ENGINE_GRAPH_OP_H
#define CELFORGE_ENGINE_GRAPH_OP_H

#include "engine/backend/shared/adam.h"
#include "engine/graph/graph.h"

/* Inputs -> outputs; optional ones are in brackets. */
typedef enum OpKind {
  OP_VIEW,                    /* -> view of a buffer; runs no kernel */
  OP_RESHAPE,                 /* x -> same memory, other shape; runs no kernel */
  OP_DETACH,                  /* x -> same memory, derivative 0; a reshape once planned */
  OP_POINTWISE,               /* 0..8 inputs -> 1..4 outputs of one shape, by a pointwise program */
  OP_REDUCE,                  /* 1..8 inputs -> scale * sum of a pointwise program over axes, f32 */
  OP_SEGMENT_SQUARED_NORM,    /* x, an f32 vector -> squared L2 norm of each segment, f32 */
  OP_CONV3D,                  /* x, w, [bias] -> y = activation(conv + bias); zero padding only */
  OP_CONV3D_BACKWARD_DATA,    /* dy, w -> dx; also serves as the transposed convolution */
  OP_CONV3D_BACKWARD_WEIGHTS, /* x, dy -> dw f32, [dbias f32] */
  OP_MATMUL,                  /* a, b -> op(a) op(b), f32; see graph_matmul */
  OP_NORM,            /* x, [gain, bias], [residual] -> y = pad(activation(norm) + residual) */
  OP_NORM_BACKWARD,   /* dy, x, [gain, bias] -> dx, [dgain, dbias]; dy: after the activation */
  OP_CONCAT,          /* 1..8 inputs -> y */
  OP_SLICE,           /* x -> y */
  OP_PAD,             /* x -> y */
  OP_PAD_BACKWARD,    /* dy, [addend] -> dx = transpose of a reflecting OP_PAD + addend */
  OP_RESIZE,          /* x -> y = pad(resize) */
  OP_RESIZE_BACKWARD, /* dy, [addend] -> dx = transpose + addend */
  OP_AVERAGE_POOL,    /* x -> y */
  OP_AVERAGE_POOL_BACKWARD, /* dy, [addend] -> dx = transpose + addend */
  OP_MAX_POOL,              /* x, [values] -> y = values (x itself without) at each argmax of x */
  OP_MAX_POOL_BACKWARD, /* dy, x -> dx = dy (times activation'(x)) at each argmax of x, else 0 */
  OP_WARP,              /* x, flow -> y; see graph_warp */
  OP_TRANSLATE,         /* x, offsets -> y; see graph_translate */
  OP_STORE,             /* value, target -> ; target = value, or += value */
  OP_ALL_REDUCE,        /* target -> ; run by the program through its collectives */
  OP_ADAM,              /* AdamViews in order -> ; */
  OP_KIND_COUNT,
} OpKind;

/* --- Pointwise programs ----------------------------------------------------------------------- */
/* Registers 0 .. inputs-1 hold the inputs, converted to f32 and broadcast; instruction k writes
 * register inputs+k. Unary instructions read register a, binary ones a and b; p and q are
 * constants. */
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
  PW_CLAMP,           /* min(max(a, p), q) */
  PW_CLAMP_STEP,      /* p < a && a < q ? 1 : 0 */
  PW_EXP,
  PW_LOG,        /* natural; -infinity at 0, NaN below */
  PW_ROUND_BF16, /* a rounded to bf16, to nearest even; appended by fusion */
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
  int outputs[POINTWISE_MAX_OUTPUTS]; /* register of each output (OP_REDUCE has one) */
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
  Activation activation; /* none or leaky ReLU, by fusion; backward recomputes its sign from x */
  float slope;
  /* Set by fusion, for RMS norm alone: reflecting, in H and W; else zero. */
  PadAttributes pad;          /* of y; backward: dy is the gradient of the padded y */
  PadAttributes residual_pad; /* the residual is the interior of a tensor with this padding */
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
      Shape full; /* shape that is reduced; inputs broadcast to it */
    } reduce;
    struct {
      const int64_t *offsets; /* [segments + 1], ascending; owned by the graph's builder */
      int segments;
    } segment_norm;
    ConvAttributes conv;
    struct {
      bool transpose_a, transpose_b;
    } matmul;
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
      PadAttributes pad; /* of the resized frame, set by fusion; else zero */
    } resize;
    struct {
      int size, stride, pad;
    } pool;
    struct {
      int size;
      /* Backward, set by fusion: the activation whose output is x, none or leaky ReLU. Its
       * derivative at the maximum multiplies dy. */
      Activation activation;
      float slope;
    } max_pool;
    struct {
      bool negated; /* translates by the negated offsets */
    } translate;
    struct {
      bool accumulate;
    } store;
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

/* An absent optional input or output is NO_VALUE and keeps its position; the counts may stop before
 * absent trailing ones. */
typedef struct Op {
  OpKind kind;
  char *name;       /* "generator.block3.conv1" */
  bool is_gradient; /* appended by differentiation */
  int input_count, output_count;
  Value inputs[OP_MAX_INPUTS];
  Value outputs[OP_MAX_OUTPUTS];
  OpAttributes attributes;
} Op;

/* The ops of a graph in program order. */
int graph_op_count(const Graph *graph);
const Op *graph_op(const Graph *graph, int index);

const char *op_kind_name(OpKind kind); /* "conv3d_backward_data" */
/* The inputs (a bit each) that the op writes to; all of them are views. */
unsigned op_written_inputs(const Op *op);
/* The padding fused into a resize, a norm or the backward op of one; NULL if there is none. */
const PadAttributes *op_fused_pad(const Op *op);
/* True if the op is the transpose of a padding, a resize or a pool and adds its second input. */
bool op_has_addend(const Op *op);

/* The required name, dtype and length of an input of OP_ADAM, for `count` parameters. */
typedef struct AdamInputSpec {
  const char *name; /* "moment1" */
  DType dtype;
  int64_t count;
  bool optional;
} AdamInputSpec;
AdamInputSpec adam_input_spec(AdamInput input, int64_t count);

#endif
