/* The generator's graph, walked op by op and written as ONNX operators.
 *
 * It is built once, for a small picture, and nothing of that size goes into the file: batch,
 * heights, widths and (of clips) frames stay open. What the network does to sides that do not
 * come out even depends on the size, so it is done here, by operators that look at it. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/version.h"
#include "trainer/export/onnx_walk.h"

/* The frames of the clip that it is built for. */
enum { CLIP_FRAMES = 4 };

/* --- What comes in and goes out --------------------------------------------------------------- */

/* The layer an op belongs to: "generator.block0.conv1.view" is of "blocks.0.conv1". */
static char *layer_name(Walk *walk, const Op *op) {
  char *name = walk_keep(walk, export_name(strchr(op->name, '.') + 1));
  char *last = strrchr(name, '.');
  if (last) *last = '\0';
  return name;
}

/* A side of the small picture, or of a part of it, in one that has been padded:
 * "2*ceil(height/4)". */
static const char *inner_side(Walk *walk, int64_t side, const char *whole) {
  int64_t times = side / GENERATOR_ROOM;
  if (times == 1)
    return walk_keep(walk, mem_format("ceil(%s/%lld)", whole, (long long)walk->multiple));
  return walk_keep(
      walk, mem_format("%lld*ceil(%s/%lld)", (long long)times, whole, (long long)walk->multiple));
}

static const char *outer_side(Walk *walk, const char *side) {
  int64_t scale = walk->source->scale;
  return scale == 1 ? side : walk_keep(walk, mem_format("%lld*%s", (long long)scale, side));
}

/* What a layer remembers: the last two frames that it saw, or its state. */
static void state_axes(Walk *walk, Shape shape, OnnxAxis axes[RANK]) {
  axes[0] = (OnnxAxis){.name = "batch"};
  axes[1] = (OnnxAxis){.length = shape.dim[AXIS_C]};
  axes[2] = (OnnxAxis){.length = shape.dim[AXIS_T]};
  axes[3] = (OnnxAxis){.name = inner_side(walk, shape.dim[AXIS_H], outer_side(walk, "height"))};
  axes[4] = (OnnxAxis){.name = inner_side(walk, shape.dim[AXIS_W], outer_side(walk, "width"))};
}

static void write_view(Walk *walk, const Op *op) {
  const Buffer *buffer = op->attributes.view.buffer;
  Value value = op->outputs[0];
  OnnxAxis axes[RANK];
  if (buffer == &walk->film) walk->names[value.id] = "film";
  if (buffer == &walk->noise) walk->names[value.id] = "noise.even";
  for (int i = 0; i < walk->state.count; i++) {
    if (buffer != walk->state.buffers[i]) continue;
    walk->names[value.id] = walk_keep(walk, mem_format("state.%s", layer_name(walk, op)));
    state_axes(walk, graph_shape(walk->graph, value), axes);
    onnx_input(walk->onnx, walk->names[value.id], axes, RANK,
               "what this layer remembers of the frames before; zeros before the first");
  }
}

static void write_store(Walk *walk, const Op *op) {
  const Op *target = walk->makers[op->inputs[1].id];
  OnnxAxis axes[RANK];
  if (target->attributes.view.buffer == &walk->output) {
    walk_apply(walk, "Identity", walk->names[op->inputs[0].id], NULL, "output.even");
    return;
  }
  const char *name = walk_keep(walk, mem_format("next.%s", layer_name(walk, target)));
  walk_apply(walk, "Identity", walk->names[op->inputs[0].id], NULL, name);
  state_axes(walk, graph_shape(walk->graph, op->inputs[1]), axes);
  onnx_output(walk->onnx, name, axes, RANK, "the state for the next frame");
}

static Status write_op(Walk *walk, const Op *op, Error *error) {
  for (int i = 0; i < op->output_count; i++) walk->makers[op->outputs[i].id] = op;
  if (op->kind == OP_VIEW) {
    write_view(walk, op);
    return OK;
  }
  if (op->kind == OP_STORE) {
    write_store(walk, op);
    return OK;
  }
  int id = op->outputs[0].id;
  walk->names[id] = walk_keep(walk, mem_format("%s_%d", strchr(op->name, '.') + 1, id));
  if (walk_op(walk, op, walk->names[id])) return OK;
  return error_set(error, ERROR_INTERNAL, "%s: this op (%s) has no form in ONNX here", op->name,
                   op_kind_name(op->kind));
}

/* Clips, or single frames, of the source's size or the output's. */
static void frames_axes(Walk *walk, int64_t channels, bool source_size, OnnxAxis axes[RANK]) {
  axes[0] = (OnnxAxis){.name = "batch"};
  axes[1] = (OnnxAxis){.length = channels};
  axes[2] = walk->stream ? (OnnxAxis){.length = 1} : (OnnxAxis){.name = "frames"};
  axes[3] = (OnnxAxis){.name = source_size ? "height" : outer_side(walk, "height")};
  axes[4] = (OnnxAxis){.name = source_size ? "width" : outer_side(walk, "width")};
}

static void declare(Walk *walk) {
  const ExportedModel *source = walk->source;
  int64_t noise_channels = source->config->model.noise_channels;
  OnnxAxis axes[RANK];
  frames_axes(walk, source->source_channels, true, axes);
  onnx_input(walk->onnx, "source", axes, RANK, "RGB frames in [-1, 1], stacked inputs on C");
  frames_axes(walk, noise_channels, false, axes);
  if (noise_channels > 0)
    onnx_input(walk->onnx, "noise", axes, RANK, "drawn from the normal distribution N(0, 1)");
  frames_axes(walk, 3, false, axes);
  onnx_output(walk->onnx, "output", axes, RANK, "RGB frames in about [-1, 1], not clamped");
}

/* Source and noise at the output's size, padded such that all halvings come out even. */
static void write_prelude(Walk *walk) {
  const char *film = "source";
  if (walk->source->scale > 1) {
    film = "source.enlarged";
    walk_resize(walk, RESIZE_BILINEAR, (float)walk->source->scale, "source", film);
  }
  walk_apply(walk, "Shape", film, NULL, "shape");
  const char *start = walk_integers(walk, "size.start", (int64_t[]){ONNX_H}, 1);
  const char *end = walk_integers(walk, "size.end", (int64_t[]){RANK}, 1);
  onnx_node(walk->onnx,
            &(OnnxNode){.type = "Slice", .inputs = {"shape", start, end}, .output = "size"});
  walk_apply(walk, "Neg", "size", NULL,
             "size.negative"); /* the remainder takes the divisor's sign */
  const char *multiple = walk_integers(walk, "size.multiple", (int64_t[]){walk->multiple}, 1);
  walk_apply(walk, "Mod", "size.negative", multiple, "size.missing");
  enum { OTHERS = 2 * RANK - 2 };
  const char *others = walk_integers(walk, "even.others", (int64_t[OTHERS]){0}, OTHERS);
  walk_concat(walk, 0, others, "size.missing", "even.pads");
  walk_pad(walk, PAD_REFLECT, film, "even.pads", "film");
  if (walk->source->config->model.noise_channels > 0)
    walk_pad(walk, PAD_REFLECT, "noise", "even.pads", "noise.even");
}

/* Cuts off what the prelude has padded. */
static void write_output(Walk *walk) {
  const char *starts = walk_integers(walk, "output.starts", (int64_t[]){0, 0}, 2);
  const char *axes = walk_integers(walk, "output.axes", (int64_t[]){ONNX_H, ONNX_W}, 2);
  onnx_node(walk->onnx, &(OnnxNode){.type = "Slice",
                                    .inputs = {"output.even", starts, "size", axes},
                                    .output = "output"});
}

/* --- The whole -------------------------------------------------------------------------------- */

static void build(Walk *walk) {
  const ModelConfig *config = &walk->source->config->model;
  int64_t frames = walk->stream ? 1 : CLIP_FRAMES, side = GENERATOR_ROOM * walk->multiple;
  int64_t pixels = frames * side * side;
  Shape shape = shape_make(1, frames, side, side, walk->source->source_channels);
  walk->film = buffer_describe("film", DTYPE_F32, shape_count(shape));
  walk->noise = buffer_describe("noise", DTYPE_F32, pixels * config->noise_channels);
  walk->output = buffer_describe("output", DTYPE_F32, pixels * 3);
  walk->graph = graph_new();
  Value film = graph_view(walk->graph, &walk->film, 0, shape), noise = NO_VALUE;
  if (config->noise_channels > 0) {
    shape.dim[AXIS_C] = config->noise_channels;
    noise = graph_view(walk->graph, &walk->noise, 0, shape);
  }
  Value output = generator_build(walk->graph, walk->source->parameters, READ_MASTER, config, film,
                                 noise, walk->stream ? &walk->state : NULL);
  shape.dim[AXIS_C] = 3;
  graph_store(walk->graph, output, graph_view(walk->graph, &walk->output, 0, shape));
}

static int count_values(const Graph *graph) {
  int count = 0;
  for (int i = 0; i < graph_op_count(graph); i++) count += graph_op(graph, i)->output_count;
  return count;
}

static OnnxModel *begin(const Walk *walk) {
  const char *key;
  json_t *value;
  OnnxModel *onnx = onnx_new(
      walk->stream ? "generator.frame" : "generator.clip", "celforge", CELFORGE_VERSION,
      walk->stream ? "Turns film into cartoon frame by frame: each frame's next.* are the next "
                     "one's state.*, which are zeros before the first."
                   : "Turns clips of film into cartoon clips of the same length.");
  json_object_foreach(walk->source->properties, key, value)
      onnx_property(onnx, key, json_string_value(value));
  return onnx;
}

Status export_onnx(const ExportedModel *model, bool stream, const char *path, Error *error) {
  Status status = OK;
  Walk walk = {
      .source = model, .stream = stream, .multiple = generator_multiple(&model->config->model)};
  if (!stream && model->config->model.temporal == TEMPORAL_CONVGRU)
    return error_set(error, ERROR_USAGE,
                     "%s: a recurrent model (model.temporal: convgru) is exported frame by frame: "
                     "add --stream",
                     path);
  build(&walk);
  TRY(graph_status(walk.graph, error));
  size_t values = (size_t)count_values(walk.graph);
  walk.names = mem_new(values, sizeof *walk.names);
  walk.makers = mem_new(values, sizeof *walk.makers);
  walk.onnx = begin(&walk);
  declare(&walk);
  write_prelude(&walk);
  for (int i = 0; i < graph_op_count(walk.graph); i++)
    TRY(write_op(&walk, graph_op(walk.graph, i), error));
  write_output(&walk);
  TRY(onnx_write(walk.onnx, path, error));
done:
  for (int i = 0; i < walk.kept_count; i++) free(walk.kept[i]);
  free(walk.kept);
  free(walk.names);
  free(walk.makers);
  onnx_free(walk.onnx);
  stream_state_free(&walk.state);
  graph_free(walk.graph);
  return status;
}
