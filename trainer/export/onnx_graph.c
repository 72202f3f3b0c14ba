/* Builds the generator's graph for a small frame and converts it to ONNX op by op. The file does
 * not depend on that size: batch, height, width and (for clips) frames are dynamic axes. The
 * padding of sides that are no multiples of generator_multiple depends on the size, so it is
 * computed by ONNX operators. */
#include "trainer/export/onnx_graph.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/version.h"
#include "trainer/export/names.h"
#include "trainer/export/onnx_walk.h"

enum { CLIP_FRAMES = 4 }; /* of the clip that the graph is built for */

/* --- Inputs and outputs ----------------------------------------------------------------------- */

/* Returns the layer of an op: "blocks.0.conv1" for "generator.block0.conv1.view". */
static char *layer_name(OnnxWalk *walk, const Op *op) {
  char *name = onnx_walk_own(walk, export_name(strchr(op->name, '.') + 1));
  char *last = strrchr(name, '.');
  if (last) *last = '\0';
  return name;
}

/* The dynamic length of a feature map's side, from its `side` in the small graph:
 * "2*ceil(height/4)". */
static const char *inner_side(OnnxWalk *walk, int64_t side, const char *whole) {
  int64_t factor = side / GENERATOR_MIN_MULTIPLES;
  if (factor == 1)
    return onnx_walk_own(walk, mem_format("ceil(%s/%lld)", whole, (long long)walk->multiple));
  return onnx_walk_own(
      walk, mem_format("%lld*ceil(%s/%lld)", (long long)factor, whole, (long long)walk->multiple));
}

static const char *outer_side(OnnxWalk *walk, const char *side) {
  int64_t scale = walk->model->scale;
  return scale == 1 ? side : onnx_walk_own(walk, mem_format("%lld*%s", (long long)scale, side));
}

/* The axes of a temporal layer's state, which has two frames (convolution) or one (GRU). */
static void state_axes(OnnxWalk *walk, Shape shape, OnnxAxis axes[RANK]) {
  axes[0] = (OnnxAxis){.name = "batch"};
  axes[1] = (OnnxAxis){.length = shape.dim[AXIS_C]};
  axes[2] = (OnnxAxis){.length = shape.dim[AXIS_T]};
  axes[3] = (OnnxAxis){.name = inner_side(walk, shape.dim[AXIS_H], outer_side(walk, "height"))};
  axes[4] = (OnnxAxis){.name = inner_side(walk, shape.dim[AXIS_W], outer_side(walk, "width"))};
}

static void write_view(OnnxWalk *walk, const Op *op) {
  const Buffer *buffer = op->attributes.view.buffer;
  Value value = op->outputs[0];
  OnnxAxis axes[RANK];
  if (buffer == &walk->source)
    walk->names[value.id] = walk->model->config->model.smooth_base ? walk->frames : "source.padded";
  if (buffer == &walk->noise) walk->names[value.id] = "noise.padded";
  for (int i = 0; i < walk->state.count; i++) {
    if (buffer != walk->state.buffers[i]) continue;
    walk->names[value.id] = onnx_walk_own(walk, mem_format("state.%s", layer_name(walk, op)));
    state_axes(walk, graph_shape(walk->graph, value), axes);
    onnx_input(walk->onnx, walk->names[value.id], axes, RANK,
               "the layer's state from the previous frame; zeros before the first");
  }
}

static void write_store(OnnxWalk *walk, const Op *op) {
  const Op *target = walk->producers[op->inputs[1].id];
  OnnxAxis axes[RANK];
  if (target->attributes.view.buffer == &walk->output) {
    onnx_walk_node(walk, "Identity", walk->names[op->inputs[0].id], NULL, "output.padded");
    return;
  }
  const char *name = onnx_walk_own(walk, mem_format("next.%s", layer_name(walk, target)));
  onnx_walk_node(walk, "Identity", walk->names[op->inputs[0].id], NULL, name);
  state_axes(walk, graph_shape(walk->graph, op->inputs[1]), axes);
  onnx_output(walk->onnx, name, axes, RANK, "the state for the next frame");
}

/* A smooth base is filtered at the frames' own size, as its means exclude pixels outside of them.
 * It and the source are padded where they become the network's input, at the first concat. */
static void pad_base(OnnxWalk *walk, const Op *op) {
  int base = op->inputs[1].id;
  const char *padded = onnx_walk_own(walk, mem_format("%s.padded", walk->names[base]));
  onnx_walk_pad(walk, PAD_REFLECT, walk->names[base], "padding", padded);
  walk->names[base] = padded;
  walk->names[op->inputs[0].id] = "source.padded";
  walk->base_is_padded = true;
}

static Status write_op(OnnxWalk *walk, const Op *op, Error *error) {
  if (op->kind == OP_CONCAT && walk->model->config->model.smooth_base && !walk->base_is_padded)
    pad_base(walk, op);
  for (int i = 0; i < op->output_count; i++) walk->producers[op->outputs[i].id] = op;
  if (op->kind == OP_VIEW) {
    write_view(walk, op);
    return OK;
  }
  if (op->kind == OP_STORE) {
    write_store(walk, op);
    return OK;
  }
  int id = op->outputs[0].id;
  walk->names[id] = onnx_walk_own(walk, mem_format("%s_%d", strchr(op->name, '.') + 1, id));
  if (onnx_walk_op(walk, op, walk->names[id])) return OK;
  return error_set(error, ERROR_INTERNAL, "%s: op %s cannot be exported to ONNX", op->name,
                   op_kind_name(op->kind));
}

/* The axes of clips or single frames, of the source's or the output's size. */
static void frames_axes(OnnxWalk *walk, int64_t channels, bool source_size, OnnxAxis axes[RANK]) {
  axes[0] = (OnnxAxis){.name = "batch"};
  axes[1] = (OnnxAxis){.length = channels};
  axes[2] = walk->stream ? (OnnxAxis){.length = 1} : (OnnxAxis){.name = "frames"};
  axes[3] = (OnnxAxis){.name = source_size ? "height" : outer_side(walk, "height")};
  axes[4] = (OnnxAxis){.name = source_size ? "width" : outer_side(walk, "width")};
}

static void declare(OnnxWalk *walk) {
  const ExportedModel *model = walk->model;
  int64_t noise_channels = model->config->model.noise_channels;
  OnnxAxis axes[RANK];
  frames_axes(walk, model->source_channels, true, axes);
  onnx_input(walk->onnx, "source", axes, RANK, "RGB frames in [-1, 1], stacked inputs on C");
  frames_axes(walk, noise_channels, false, axes);
  if (noise_channels > 0) onnx_input(walk->onnx, "noise", axes, RANK, "standard normal noise");
  frames_axes(walk, 3, false, axes);
  onnx_output(walk->onnx, "output", axes, RANK, "RGB frames in about [-1, 1], not clamped");
}

/* Upsamples the source to the output's size and pads source and noise to the generator's multiple.
 */
static void write_prelude(OnnxWalk *walk) {
  const char *frames = walk->frames = walk->model->scale > 1 ? "source.upsampled" : "source";
  if (walk->model->scale > 1)
    onnx_walk_resize(walk, RESIZE_BILINEAR, (float)walk->model->scale, "source", frames);
  onnx_walk_node(walk, "Shape", frames, NULL, "shape");
  const char *start = onnx_walk_integers(walk, "size.start", (int64_t[]){ONNX_H}, 1);
  const char *end = onnx_walk_integers(walk, "size.end", (int64_t[]){RANK}, 1);
  onnx_node(walk->onnx,
            &(OnnxNode){.type = "Slice", .inputs = {"shape", start, end}, .output = "size"});
  onnx_walk_node(walk, "Neg", "size", NULL, "size.negative"); /* Mod takes the divisor's sign */
  const char *multiple = onnx_walk_integers(walk, "size.multiple", (int64_t[]){walk->multiple}, 1);
  onnx_walk_node(walk, "Mod", "size.negative", multiple, "size.missing");
  enum { OTHERS = 2 * RANK - 2 };
  const char *others = onnx_walk_integers(walk, "padding.others", (int64_t[OTHERS]){0}, OTHERS);
  onnx_walk_concat(walk, 0, others, "size.missing", "padding");
  onnx_walk_pad(walk, PAD_REFLECT, frames, "padding", "source.padded");
  if (walk->model->config->model.noise_channels > 0)
    onnx_walk_pad(walk, PAD_REFLECT, "noise", "padding", "noise.padded");
}

/* Crops the padding off. */
static void write_output(OnnxWalk *walk) {
  const char *starts = onnx_walk_integers(walk, "output.starts", (int64_t[]){0, 0}, 2);
  const char *axes = onnx_walk_integers(walk, "output.axes", (int64_t[]){ONNX_H, ONNX_W}, 2);
  onnx_node(walk->onnx, &(OnnxNode){.type = "Slice",
                                    .inputs = {"output.padded", starts, "size", axes},
                                    .output = "output"});
}

/* --- Conversion ------------------------------------------------------------------------------- */

static void build(OnnxWalk *walk) {
  const ModelConfig *config = &walk->model->config->model;
  int64_t frames = walk->stream ? 1 : CLIP_FRAMES, side = GENERATOR_MIN_MULTIPLES * walk->multiple;
  int64_t pixels = frames * side * side;
  Shape shape = shape_make(1, frames, side, side, walk->model->source_channels);
  walk->source = buffer_describe("source", DTYPE_F32, shape_count(shape));
  walk->noise = buffer_describe("noise", DTYPE_F32, pixels * config->noise_channels);
  walk->output = buffer_describe("output", DTYPE_F32, pixels * 3);
  walk->graph = graph_new();
  Value source = graph_view(walk->graph, &walk->source, 0, shape), noise = NO_VALUE;
  if (config->noise_channels > 0) {
    shape.dim[AXIS_C] = config->noise_channels;
    noise = graph_view(walk->graph, &walk->noise, 0, shape);
  }
  Value output = generator_build(walk->graph, walk->model->parameters, READ_MASTER, config, source,
                                 noise, walk->stream ? &walk->state : NULL);
  shape.dim[AXIS_C] = 3;
  graph_store(walk->graph, output, graph_view(walk->graph, &walk->output, 0, shape));
}

static int count_values(const Graph *graph) {
  int count = 0;
  for (int i = 0; i < graph_op_count(graph); i++) count += graph_op(graph, i)->output_count;
  return count;
}

static OnnxModel *begin(const OnnxWalk *walk) {
  const char *key;
  json_t *value;
  OnnxModel *onnx = onnx_new(
      walk->stream ? "generator.frame" : "generator.clip", "celforge", CELFORGE_VERSION,
      walk->stream ? "Translates a clip frame by frame: feed each frame's next.* as the state.* of "
                     "the next frame; zeros for the first."
                   : "Translates clips, keeping their length.");
  json_object_foreach(walk->model->properties, key, value)
      onnx_property(onnx, key, json_string_value(value));
  return onnx;
}

Status export_onnx(const ExportedModel *model, bool stream, const char *path, Error *error) {
  Status status = OK;
  OnnxWalk walk = {
      .model = model, .stream = stream, .multiple = generator_multiple(&model->config->model)};
  if (!stream && model->config->model.temporal == TEMPORAL_CONVGRU)
    return error_set(
        error, ERROR_USAGE,
        "%s: a recurrent generator (model.temporal: convgru) can only be exported frame "
        "by frame; add --stream",
        path);
  build(&walk);
  TRY(graph_status(walk.graph, error));
  size_t values = (size_t)count_values(walk.graph);
  walk.names = mem_new(values, sizeof *walk.names);
  walk.producers = mem_new(values, sizeof *walk.producers);
  walk.onnx = begin(&walk);
  declare(&walk);
  write_prelude(&walk);
  for (int i = 0; i < graph_op_count(walk.graph); i++)
    TRY(write_op(&walk, graph_op(walk.graph, i), error));
  write_output(&walk);
  TRY(onnx_write(walk.onnx, path, error));
done:
  for (int i = 0; i < walk.owned_count; i++) free(walk.owned[i]);
  free(walk.owned);
  free(walk.names);
  free(walk.producers);
  onnx_free(walk.onnx);
  stream_state_free(&walk.state);
  graph_free(walk.graph);
  return status;
}
