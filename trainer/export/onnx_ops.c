/* Converts the ops of a generator to ONNX operators. */
#include "trainer/export/onnx_walk.h"

#include <string.h>

#include "base/memory.h"

/* The axis in our shapes of each ONNX axis [N,C,T,H,W]. */
static const int OUR_AXES[RANK] = {AXIS_N, AXIS_C, AXIS_T, AXIS_H, AXIS_W};

void *onnx_walk_own(OnnxWalk *walk, void *memory) {
  MEM_PUSH_SLOT(walk->owned, walk->owned_count, walk->owned_capacity);
  return walk->owned[walk->owned_count++] = memory;
}

/* --- Nodes and constants ---------------------------------------------------------------------- */

/* Returns NAME.SUFFIX, for one of the operators or constants that an op becomes. */
static const char *part(OnnxWalk *walk, const char *name, const char *suffix) {
  return onnx_walk_own(walk, mem_format("%s.%s", name, suffix));
}

const char *onnx_walk_integers(OnnxWalk *walk, const char *name, const int64_t *values, int count) {
  int64_t *copy = onnx_walk_own(walk, mem_new((size_t)count, sizeof *copy));
  memcpy(copy, values, (size_t)count * sizeof *copy);
  onnx_initializer(walk->onnx, &(NamedTensor){name, TENSOR_I64, 1, {count}, copy});
  return name;
}

/* Adds a constant [rows,columns,1,1,1] of one value; returns its name. */
static const char *reals(OnnxWalk *walk, const char *name, int64_t rows, int64_t columns,
                         float value) {
  float *copy = onnx_walk_own(walk, mem_new((size_t)(rows * columns), sizeof *copy));
  for (int64_t i = 0; i < rows * columns; i++) copy[i] = value;
  NamedTensor tensor = {name, TENSOR_F32, RANK, {rows, columns, 1, 1, 1}, copy};
  onnx_initializer(walk->onnx, &tensor);
  return name;
}

const char *onnx_walk_node(OnnxWalk *walk, const char *type, const char *a, const char *b,
                           const char *output) {
  onnx_node(walk->onnx, &(OnnxNode){.type = type, .inputs = {a, b}, .output = output});
  return output;
}

void onnx_walk_concat(OnnxWalk *walk, int axis, const char *a, const char *b, const char *output) {
  onnx_node(walk->onnx, &(OnnxNode){.type = "Concat",
                                    .inputs = {a, b},
                                    .output = output,
                                    .attributes = {ONNX_ATTRIBUTE_INT("axis", axis)}});
}

void onnx_walk_pad(OnnxWalk *walk, PadMode mode, const char *x, const char *pads,
                   const char *output) {
  static const char *const MODES[] = {[PAD_ZERO] = "constant", [PAD_REFLECT] = "reflect"};
  onnx_node(walk->onnx, &(OnnxNode){.type = "Pad",
                                    .inputs = {x, pads},
                                    .output = output,
                                    .attributes = {ONNX_ATTRIBUTE_STRING("mode", MODES[mode])}});
}

void onnx_walk_resize(OnnxWalk *walk, ResizeMode mode, float scale, const char *x,
                      const char *output) {
  float *scales = onnx_walk_own(walk, mem_new(RANK, sizeof *scales));
  for (int i = 0; i < RANK; i++) scales[i] = i >= ONNX_H ? scale : 1;
  const char *name = part(walk, output, "scales");
  onnx_initializer(walk->onnx, &(NamedTensor){name, TENSOR_F32, 1, {RANK}, scales});
  bool nearest = mode == RESIZE_NEAREST;
  const char *centres = nearest ? "asymmetric" : "half_pixel";
  onnx_node(walk->onnx,
            &(OnnxNode){.type = "Resize",
                        .inputs = {x, "", name},
                        .output = output,
                        .attributes = {
                            ONNX_ATTRIBUTE_STRING("mode", nearest ? "nearest" : "linear"),
                            ONNX_ATTRIBUTE_STRING("coordinate_transformation_mode", centres),
                            ONNX_ATTRIBUTE_STRING("nearest_mode", "floor"),
                        }});
}

/* Adds the parameter behind a view in PyTorch's layout; returns its name. With `pixelwise` a vector
 * becomes [1,C,1,1,1], to be broadcast over all pixels. */
static const char *parameter(OnnxWalk *walk, Value view, bool pixelwise) {
  if (walk->names[view.id]) return walk->names[view.id];
  const Parameters *parameters = walk->model->parameters;
  int64_t offset = walk->producers[view.id]->attributes.view.offset;
  int p = 0;
  while (parameters->items[p].offset != offset) p++;
  NamedTensor tensor = walk->model->tensors[p];
  if (pixelwise) {
    tensor.rank = RANK;
    int64_t channels = tensor.shape[0];
    for (int i = 0; i < RANK; i++) tensor.shape[i] = i == ONNX_C ? channels : 1;
  }
  onnx_initializer(walk->onnx, &tensor);
  return walk->names[view.id] = onnx_walk_own(walk, mem_string(tensor.name));
}

/* --- Ops -------------------------------------------------------------------------------------- */

/* The tensor of an input: a computed value, or a parameter broadcast over the pixels. */
static const char *input(OnnxWalk *walk, const Op *op, int index) {
  return parameter(walk, op->inputs[index], true);
}

static void conv_lengths(const ConvAttributes *conv, int64_t strides[3], int64_t pads[6]) {
  for (int i = 0; i < 3; i++) {
    strides[i] = conv->stride[i];
    pads[i] = conv->before[i];
    pads[3 + i] = conv->after[i];
  }
}

static void write_conv(OnnxWalk *walk, const Op *op, const char *name) {
  int64_t strides[3], pads[6];
  conv_lengths(&op->attributes.conv, strides, pads);
  const char *weight = parameter(walk, op->inputs[1], false);
  const char *bias = op->input_count > 2 ? parameter(walk, op->inputs[2], false) : NULL;
  onnx_node(walk->onnx, &(OnnxNode){.type = "Conv",
                                    .inputs = {input(walk, op, 0), weight, bias},
                                    .output = name,
                                    .attributes = {ONNX_ATTRIBUTE_INTS("strides", strides, 3),
                                                   ONNX_ATTRIBUTE_INTS("pads", pads, 6)}});
}

/* A transposed convolution, which the graph represents as a convolution's backward-data op. */
static void write_conv_transpose(OnnxWalk *walk, const Op *op, const char *name) {
  Shape x = graph_shape(walk->graph, op->inputs[0]), w = graph_shape(walk->graph, op->inputs[1]);
  Shape y = graph_shape(walk->graph, op->outputs[0]);
  int64_t strides[3], pads[6], output_padding[3];
  conv_lengths(&op->attributes.conv, strides, pads);
  for (int i = 0; i < 3; i++)
    output_padding[i] =
        y.dim[1 + i] + pads[i] + pads[3 + i] - w.dim[1 + i] - (x.dim[1 + i] - 1) * strides[i];
  onnx_node(walk->onnx,
            &(OnnxNode){.type = "ConvTranspose",
                        .inputs = {input(walk, op, 0), parameter(walk, op->inputs[1], false)},
                        .output = name,
                        .attributes = {ONNX_ATTRIBUTE_INTS("strides", strides, 3),
                                       ONNX_ATTRIBUTE_INTS("pads", pads, 6),
                                       ONNX_ATTRIBUTE_INTS("output_padding", output_padding, 3)}});
}

/* The mean that a norm takes: over a pixel's channels (rms) or over a frame's pixels. Group norm
 * then averages a group's channels by a convolution, since a reshape would need the size. */
static const char *norm_mean(OnnxWalk *walk, const Op *op, const char *x, const char *output) {
  static const int64_t CHANNELS[] = {ONNX_C}, PIXELS[] = {ONNX_H, ONNX_W};
  const NormAttributes *norm = &op->attributes.norm;
  bool rms = norm->kind == NORM_RMS, group = norm->kind == NORM_GROUP;
  const char *mean = group ? part(walk, output, "of_channels") : output;
  onnx_node(walk->onnx, &(OnnxNode){.type = "ReduceMean",
                                    .inputs = {x},
                                    .output = mean,
                                    .attributes = {ONNX_ATTRIBUTE_INTS(
                                        "axes", rms ? CHANNELS : PIXELS, rms ? 1 : 2)}});
  if (!group) return mean;
  int64_t channels = graph_shape(walk->graph, op->outputs[0]).dim[AXIS_C];
  int64_t each = channels / norm->groups;
  const char *average = reals(walk, part(walk, output, "average"), channels, each, 1 / (float)each);
  onnx_node(walk->onnx, &(OnnxNode){.type = "Conv",
                                    .inputs = {mean, average},
                                    .output = output,
                                    .attributes = {ONNX_ATTRIBUTE_INT("group", norm->groups)}});
  return output;
}

/* gain * (x - mean) / sqrt(var + eps) + bias, or without gain and bias; RMS norm subtracts no mean.
 */
static void write_norm(OnnxWalk *walk, const Op *op, const char *name) {
  const NormAttributes *norm = &op->attributes.norm;
  const char *x = input(walk, op, 0);
  if (norm->kind != NORM_RMS) {
    const char *mean = norm_mean(walk, op, x, part(walk, name, "mean"));
    x = onnx_walk_node(walk, "Sub", x, mean, part(walk, name, "centred"));
  }
  const char *square = onnx_walk_node(walk, "Mul", x, x, part(walk, name, "square"));
  const char *variance = norm_mean(walk, op, square, part(walk, name, "variance"));
  const char *epsilon = reals(walk, part(walk, name, "epsilon"), 1, 1, norm->epsilon);
  const char *sum = onnx_walk_node(walk, "Add", variance, epsilon, part(walk, name, "above_zero"));
  const char *deviation = onnx_walk_node(walk, "Sqrt", sum, NULL, part(walk, name, "deviation"));
  bool affine = op->input_count > 1;
  const char *unit =
      onnx_walk_node(walk, "Div", x, deviation, affine ? part(walk, name, "unit") : name);
  if (!affine) return;
  const char *gain = parameter(walk, op->inputs[1], true);
  const char *scaled = onnx_walk_node(walk, "Mul", unit, gain, part(walk, name, "scaled"));
  onnx_walk_node(walk, "Add", scaled, parameter(walk, op->inputs[2], true), name);
}

static void write_slice(OnnxWalk *walk, const Op *op, const char *name) {
  Shape begin = op->attributes.slice.begin, size = graph_shape(walk->graph, op->outputs[0]);
  Shape from = graph_shape(walk->graph, op->inputs[0]);
  int64_t starts[RANK], ends[RANK], axes[RANK];
  int count = 0;
  for (int i = 0; i < RANK; i++) {
    int axis = OUR_AXES[i];
    if (size.dim[axis] == from.dim[axis]) continue;
    starts[count] = begin.dim[axis];
    ends[count] = begin.dim[axis] + size.dim[axis];
    axes[count++] = i;
  }
  if (count == 0) {
    onnx_walk_node(walk, "Identity", input(walk, op, 0), NULL, name);
    return;
  }
  onnx_node(
      walk->onnx,
      &(OnnxNode){.type = "Slice",
                  .inputs = {input(walk, op, 0),
                             onnx_walk_integers(walk, part(walk, name, "starts"), starts, count),
                             onnx_walk_integers(walk, part(walk, name, "ends"), ends, count),
                             onnx_walk_integers(walk, part(walk, name, "axes"), axes, count)},
                  .output = name});
}

static void write_pad(OnnxWalk *walk, const Op *op, const char *name) {
  int64_t pads[2 * RANK];
  for (int i = 0; i < RANK; i++) {
    pads[i] = op->attributes.pad.before.dim[OUR_AXES[i]];
    pads[RANK + i] = op->attributes.pad.after.dim[OUR_AXES[i]];
  }
  onnx_walk_pad(walk, op->attributes.pad.mode, input(walk, op, 0),
                onnx_walk_integers(walk, part(walk, name, "pads"), pads, 2 * RANK), name);
}

static void write_concat(OnnxWalk *walk, const Op *op, const char *name) {
  int axis = 0;
  while (OUR_AXES[axis] != op->attributes.concat.axis) axis++;
  OnnxNode node = {
      .type = "Concat", .output = name, .attributes = {ONNX_ATTRIBUTE_INT("axis", axis)}};
  for (int i = 0; i < op->input_count; i++) node.inputs[i] = input(walk, op, i);
  onnx_node(walk->onnx, &node);
}

static void write_resize(OnnxWalk *walk, const Op *op, const char *name) {
  int64_t from = graph_shape(walk->graph, op->inputs[0]).dim[AXIS_H];
  int64_t to = graph_shape(walk->graph, op->outputs[0]).dim[AXIS_H];
  onnx_walk_resize(walk, op->attributes.resize.mode, (float)to / (float)from, input(walk, op, 0),
                   name);
}

/* Averages exclude the padding, which is ONNX's default too. */
static void write_average_pool(OnnxWalk *walk, const Op *op, const char *name) {
  int64_t size = op->attributes.pool.size, stride = op->attributes.pool.stride;
  int64_t pad = op->attributes.pool.pad;
  const int64_t sizes[] = {1, size, size}, strides[] = {1, stride, stride};
  const int64_t pads[] = {0, pad, pad, 0, pad, pad};
  onnx_node(walk->onnx, &(OnnxNode){.type = "AveragePool",
                                    .inputs = {input(walk, op, 0)},
                                    .output = name,
                                    .attributes = {ONNX_ATTRIBUTE_INTS("kernel_shape", sizes, 3),
                                                   ONNX_ATTRIBUTE_INTS("strides", strides, 3),
                                                   ONNX_ATTRIBUTE_INTS("pads", pads, 6)}});
}

/* p x + q */
static void write_affine(OnnxWalk *walk, const Op *op, const char *name) {
  const PointwiseInstruction *instruction = &op->attributes.pointwise.instructions[0];
  const char *factor = reals(walk, part(walk, name, "factor"), 1, 1, instruction->p);
  const char *shift = reals(walk, part(walk, name, "shift"), 1, 1, instruction->q);
  const char *scaled =
      onnx_walk_node(walk, "Mul", input(walk, op, 0), factor, part(walk, name, "scaled"));
  onnx_walk_node(walk, "Add", scaled, shift, name);
}

/* The pointwise ops that generators use. */
static bool write_pointwise(OnnxWalk *walk, const Op *op, const char *name) {
  static const struct {
    const char *type;
    bool binary;
  } TYPES[PW_CODE_COUNT] = {[PW_ADD] = {"Add", true},
                            [PW_SUB] = {"Sub", true},
                            [PW_MUL] = {"Mul", true},
                            [PW_DIV] = {"Div", true},
                            [PW_TANH] = {"Tanh", false},
                            [PW_SIGMOID] = {"Sigmoid", false},
                            [PW_LEAKY_RELU] = {"Relu", false},
                            /* a broadcast, which ONNX's operators do by themselves */
                            [PW_COPY] = {"Identity", false}};
  const PointwiseProgram *program = &op->attributes.pointwise;
  const PointwiseInstruction *instruction = &program->instructions[0];
  if (program->instruction_count != 1) return false;
  if (instruction->code == PW_AFFINE) {
    write_affine(walk, op, name);
    return true;
  }
  bool leaks = instruction->code == PW_LEAKY_RELU && instruction->p != 0;
  if (!TYPES[instruction->code].type || leaks) return false;
  bool binary = TYPES[instruction->code].binary; /* a square has one input, which is a and b */
  onnx_walk_node(walk, TYPES[instruction->code].type, input(walk, op, instruction->a),
                 binary ? input(walk, op, instruction->b) : NULL, name);
  return true;
}

bool onnx_walk_op(OnnxWalk *walk, const Op *op, const char *name) {
  switch (op->kind) {
  case OP_CONV3D:
    write_conv(walk, op, name);
    return true;
  case OP_CONV3D_BACKWARD_DATA:
    write_conv_transpose(walk, op, name);
    return true;
  case OP_AVERAGE_POOL:
    write_average_pool(walk, op, name);
    return true;
  case OP_NORM:
    write_norm(walk, op, name);
    return true;
  case OP_SLICE:
    write_slice(walk, op, name);
    return true;
  case OP_PAD:
    write_pad(walk, op, name);
    return true;
  case OP_CONCAT:
    write_concat(walk, op, name);
    return true;
  case OP_RESIZE:
    write_resize(walk, op, name);
    return true;
  case OP_POINTWISE:
    return write_pointwise(walk, op, name);
  default:
    return false;
  }
}
