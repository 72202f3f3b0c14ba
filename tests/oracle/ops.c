/* Runs graphs written as text, so that a test can build any graph of the engine's builders.
 *
 *   ops PROGRAM INPUTS.safetensors OUTPUTS.safetensors [unfused]
 *
 * PROGRAM has a statement a line, words between blanks, and may hold several graphs:
 *
 *   graph NAME                    ends the graph before and begins one
 *   input RESULT                  the array NAME/RESULT of the inputs; its rank must be 5
 *   BUILDER RESULT WORD ...       as in the tables below; words are values, numbers or modes
 *   gradients LOSS WRT ...        results: grad.LOSS.WRT, in one call of graph_gradients
 *   output VALUE                  stores it as the array NAME/VALUE (f32) of the outputs */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/files.h"
#include "base/memory.h"
#include "checkpoints/safetensors.h"
#include "engine/program/program.h"

enum { MAX_WORDS = 40, MAX_NAMES = 256, MAX_BUFFERS = 64, NAME_SIZE = 64, MAX_PROGRAM = 1 << 24 };

typedef struct Name {
  char text[NAME_SIZE];
  Value value;
} Name;

typedef struct Interpreter {
  Backend *backend;
  const Safetensors *inputs;
  bool without_fusion;
  char graph_name[NAME_SIZE];
  Graph *graph; /* NULL: none begun */
  int name_count, buffer_count;
  Name names[MAX_NAMES];
  Buffer buffers[MAX_BUFFERS];             /* inputs and outputs of the graph */
  const NamedTensor *sources[MAX_BUFFERS]; /* NULL: an output */
  Shape shapes[MAX_BUFFERS];
  int output_count, output_capacity; /* of all graphs */
  NamedTensor *outputs;
} Interpreter;

/* One statement: words[0] is the builder, words[1] the result. */
typedef struct Line {
  Interpreter *in;
  int count, number;
  char *words[MAX_WORDS];
  Error *error;
  Status status;
} Line;

static void line_fail(Line *line, const char *what, const char *word) {
  if (line->status == OK)
    line->status =
        error_set(line->error, ERROR_DATA, "line %d: %s \"%s\"", line->number, what, word);
}

static const char *word(Line *line, int index) {
  if (index < line->count) return line->words[index];
  line_fail(line, "too few words for", line->words[0]);
  return "0";
}

static Value value(Line *line, int index) {
  const char *text = word(line, index);
  if (strcmp(text, "-") == 0) return NO_VALUE;
  for (int i = 0; i < line->in->name_count; i++)
    if (strcmp(line->in->names[i].text, text) == 0) return line->in->names[i].value;
  line_fail(line, "no value", text);
  return NO_VALUE;
}

static float real(Line *line, int index) {
  return strtof(word(line, index), NULL);
}

static int integer(Line *line, int index) {
  return (int)strtol(word(line, index), NULL, 10);
}

static Shape shape(Line *line, int index) {
  Shape result;
  for (int i = 0; i < RANK; i++) result.dim[i] = integer(line, index + i);
  return result;
}

static PadMode pad_mode(Line *line, int index) {
  const char *text = word(line, index);
  if (strcmp(text, "zero") == 0) return PAD_ZERO;
  if (strcmp(text, "reflect") == 0) return PAD_REFLECT;
  line_fail(line, "no padding", text);
  return PAD_ZERO;
}

static NormKind norm_kind(Line *line, int index) {
  const char *text = word(line, index);
  if (strcmp(text, "rms") == 0) return NORM_RMS;
  if (strcmp(text, "instance") == 0) return NORM_INSTANCE;
  if (strcmp(text, "group") == 0) return NORM_GROUP;
  line_fail(line, "no norm", text);
  return NORM_RMS;
}

static void define(Line *line, const char *text, Value result) {
  Interpreter *in = line->in;
  if (in->name_count == MAX_NAMES || strlen(text) >= NAME_SIZE) {
    line_fail(line, "no room for the name", text);
    return;
  }
  strcpy(in->names[in->name_count].text, text);
  in->names[in->name_count++].value = result;
}

/* --- Builders --------------------------------------------------------------------------------- */

typedef struct UnaryBuilder {
  const char *name;
  Value (*build)(Graph *graph, Value x);
} UnaryBuilder;
static const UnaryBuilder UNARY[] = {
    {"relu", graph_relu},         {"tanh", graph_tanh}, {"sigmoid", graph_sigmoid},
    {"softplus", graph_softplus}, {"abs", graph_abs},   {"sign", graph_sign},
    {"square", graph_square},     {"sqrt", graph_sqrt}, {"mean", graph_mean},
    {"exp", graph_exp},           {"log", graph_log},   {"detach", graph_detach},
};

typedef struct BinaryBuilder {
  const char *name;
  Value (*build)(Graph *graph, Value a, Value b);
} BinaryBuilder;
static const BinaryBuilder BINARY[] = {{"add", graph_add},   {"sub", graph_sub},
                                       {"mul", graph_mul},   {"div", graph_div},
                                       {"warp", graph_warp}, {"translate", graph_translate}};

static ConvSpec conv_spec(Line *line) {
  ConvSpec spec = {.mode = PAD_ZERO};
  for (int i = 0; i < 3; i++) {
    spec.stride[i] = integer(line, 5 + i);
    spec.before[i] = integer(line, 8 + i);
    spec.after[i] = integer(line, 11 + i);
  }
  return spec;
}

/* conv3d RESULT X WEIGHT BIAS|- STRIDE x3 BEFORE x3 AFTER x3 MODE */
static Value build_conv3d(Line *line, Graph *graph) {
  ConvSpec spec = conv_spec(line);
  spec.mode = pad_mode(line, 14);
  return graph_conv3d(graph, value(line, 2), value(line, 3), value(line, 4), spec);
}

/* conv3d_transpose RESULT X WEIGHT BIAS|- STRIDE x3 BEFORE x3 AFTER x3 OUTPUT_PADDING x3 */
static Value build_conv3d_transpose(Line *line, Graph *graph) {
  const int extra[] = {integer(line, 14), integer(line, 15), integer(line, 16)};
  return graph_conv3d_transpose(graph, value(line, 2), value(line, 3), value(line, 4),
                                conv_spec(line), extra);
}

/* norm RESULT X GAIN|- BIAS|- KIND GROUPS EPSILON */
static Value build_norm(Line *line, Graph *graph) {
  return graph_norm(graph, value(line, 2), value(line, 3), value(line, 4), norm_kind(line, 5),
                    integer(line, 6), real(line, 7));
}

/* matmul RESULT A B TRANSPOSE_A TRANSPOSE_B, each 0 or 1 */
static Value build_matmul(Line *line, Graph *graph) {
  return graph_matmul(graph, value(line, 2), value(line, 3), integer(line, 4) != 0,
                      integer(line, 5) != 0);
}

/* concat RESULT AXIS X ... */
static Value build_concat(Line *line, Graph *graph) {
  Value values[MAX_WORDS];
  for (int i = 3; i < line->count; i++) values[i - 3] = value(line, i);
  return graph_concat(graph, values, line->count - 3, integer(line, 2));
}

static Value build_resize(Line *line, Graph *graph) {
  bool nearest = strcmp(word(line, 5), "nearest") == 0;
  return graph_resize(graph, value(line, 2), integer(line, 3), integer(line, 4),
                      nearest ? RESIZE_NEAREST : RESIZE_BILINEAR);
}

/* Builders of one value and numbers. */
static Value build_parametric(Line *line, Graph *graph, const char *name) {
  Value x = value(line, 2);
  if (strcmp(name, "affine") == 0) return graph_affine(graph, x, real(line, 3), real(line, 4));
  if (strcmp(name, "leaky_relu") == 0) return graph_leaky_relu(graph, x, real(line, 3));
  if (strcmp(name, "leaky_step") == 0) return graph_leaky_step(graph, x, real(line, 3));
  if (strcmp(name, "clamp") == 0) return graph_clamp(graph, x, real(line, 3), real(line, 4));
  if (strcmp(name, "broadcast") == 0) return graph_broadcast(graph, x, shape(line, 3));
  if (strcmp(name, "reshape") == 0) return graph_reshape(graph, x, shape(line, 3));
  if (strcmp(name, "slice") == 0) return graph_slice(graph, x, shape(line, 3), shape(line, 8));
  if (strcmp(name, "reduce_sum") == 0)
    return graph_reduce_sum(graph, x, (unsigned)integer(line, 3), real(line, 4));
  if (strcmp(name, "pad") == 0)
    return graph_pad(graph, x, shape(line, 3), shape(line, 8), pad_mode(line, 13));
  if (strcmp(name, "average_pool") == 0)
    return graph_average_pool(graph, x, integer(line, 3), integer(line, 4), integer(line, 5));
  if (strcmp(name, "max_pool") == 0) return graph_max_pool(graph, x, integer(line, 3));
  if (strcmp(name, "cast") == 0)
    return graph_cast(graph, x, strcmp(word(line, 3), "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32);
  line_fail(line, "no builder", name);
  return NO_VALUE;
}

static Value build(Line *line) {
  Graph *graph = line->in->graph;
  const char *name = line->words[0];
  for (size_t i = 0; i < sizeof UNARY / sizeof *UNARY; i++)
    if (strcmp(name, UNARY[i].name) == 0) return UNARY[i].build(graph, value(line, 2));
  for (size_t i = 0; i < sizeof BINARY / sizeof *BINARY; i++)
    if (strcmp(name, BINARY[i].name) == 0)
      return BINARY[i].build(graph, value(line, 2), value(line, 3));
  if (strcmp(name, "constant") == 0) return graph_constant(graph, shape(line, 2), real(line, 7));
  if (strcmp(name, "conv3d") == 0) return build_conv3d(line, graph);
  if (strcmp(name, "conv3d_transpose") == 0) return build_conv3d_transpose(line, graph);
  if (strcmp(name, "matmul") == 0) return build_matmul(line, graph);
  if (strcmp(name, "norm") == 0) return build_norm(line, graph);
  if (strcmp(name, "concat") == 0) return build_concat(line, graph);
  if (strcmp(name, "resize") == 0) return build_resize(line, graph);
  return build_parametric(line, graph, name);
}

/* --- Inputs, outputs, gradients --------------------------------------------------------------- */

static Value append_buffer(Line *line, Shape size, const NamedTensor *source) {
  Interpreter *in = line->in;
  if (in->buffer_count == MAX_BUFFERS) {
    line_fail(line, "too many inputs and outputs at", line->words[1]);
    return NO_VALUE;
  }
  int index = in->buffer_count++;
  in->buffers[index] = buffer_describe("array", DTYPE_F32, shape_count(size));
  in->sources[index] = source;
  in->shapes[index] = size;
  return graph_view(in->graph, &in->buffers[index], 0, size);
}

static void add_input(Line *line) {
  const char *result = word(line, 1);
  char *key = mem_format("%s/%s", line->in->graph_name, result);
  const NamedTensor *array = safetensors_find(line->in->inputs, key);
  if (!array || array->rank != RANK || array->type != TENSOR_F32) {
    line_fail(line, "no f32 array of rank 5 for", key);
  } else {
    Shape size;
    memcpy(size.dim, array->shape, sizeof size.dim);
    define(line, result, append_buffer(line, size, array));
  }
  free(key);
}

static void add_output(Line *line) {
  Interpreter *in = line->in;
  Value result = value(line, 1);
  if (line->status != OK || graph_status(in->graph, NULL) != OK) return;
  Shape size = graph_shape(in->graph, result);
  graph_store(in->graph, graph_cast(in->graph, result, DTYPE_F32), append_buffer(line, size, NULL));
  MEM_PUSH_SLOT(in->outputs, in->output_count, in->output_capacity);
  NamedTensor *output = &in->outputs[in->output_count++];
  *output = (NamedTensor){.name = mem_format("%s/%s", in->graph_name, line->words[1]),
                          .type = TENSOR_F32,
                          .rank = RANK};
  memcpy(output->shape, size.dim, sizeof size.dim);
}

static void add_gradients(Line *line) {
  Value wrt[MAX_WORDS], gradients[MAX_WORDS];
  int count = line->count - 2;
  Value loss = value(line, 1);
  for (int i = 0; i < count; i++) wrt[i] = value(line, 2 + i);
  if (line->status != OK || count < 1) return;
  graph_gradients(line->in->graph, loss, wrt, count, gradients);
  for (int i = 0; i < count; i++) {
    char *name = mem_format("grad.%s.%s", line->words[1], line->words[2 + i]);
    define(line, name, gradients[i]);
    free(name);
  }
}

/* --- Running ---------------------------------------------------------------------------------- */

static Status upload_inputs(Interpreter *in, Error *error) {
  Status status = OK;
  for (int i = 0; i < in->buffer_count; i++) {
    TRY(buffer_allocate(&in->buffers[i], in->backend, error));
    if (in->sources[i])
      TRY(buffer_upload(&in->buffers[i], 0, in->sources[i]->data, in->buffers[i].count, error));
  }
done:
  return status;
}

/* The last outputs of the list are this graph's, in the order of its output buffers. */
static Status download_outputs(Interpreter *in, Error *error) {
  Status status = OK;
  int outputs = 0;
  for (int i = 0; i < in->buffer_count; i++) outputs += in->sources[i] == NULL;
  NamedTensor *output = in->outputs + in->output_count - outputs;
  for (int i = 0; i < in->buffer_count; i++) {
    if (in->sources[i]) continue;
    float *data = NULL;
    TRY(mem_bulk((size_t)in->buffers[i].count * sizeof *data, "an output", (void **)&data, error));
    (output++)->data = data;
    TRY(buffer_download(&in->buffers[i], 0, data, in->buffers[i].count, error));
  }
done:
  return status;
}

static void forget_graph(Interpreter *in) {
  for (int i = 0; i < in->buffer_count; i++) buffer_free(&in->buffers[i]);
  graph_free(in->graph);
  in->graph = NULL;
  in->buffer_count = in->name_count = 0;
}

static Status run_graph(Interpreter *in, Error *error) {
  Status status = OK;
  Program *program = NULL;
  Arena *arena = arena_new();
  ProgramOptions options = {
      .name = in->graph_name, .arena = arena, .without_fusion = in->without_fusion};
  if (!in->graph) goto done;
  TRY(graph_status(in->graph, error));
  TRY(program_plan(in->graph, in->backend, &options, &program, error));
  TRY(upload_inputs(in, error));
  TRY(program_run(program, error));
  TRY(download_outputs(in, error));
done:
  program_free(program);
  arena_free(arena);
  if (status != OK) error_context(error, "graph %s", in->graph_name);
  forget_graph(in);
  return status;
}

static Status run_line(Interpreter *in, Line *line) {
  const char *name = line->words[0];
  if (strcmp(name, "graph") == 0) {
    Status status = run_graph(in, line->error);
    if (status != OK) return status;
    snprintf(in->graph_name, sizeof in->graph_name, "%s", word(line, 1));
    in->graph = graph_new();
  } else if (!in->graph) {
    line_fail(line, "outside a graph:", name);
  } else if (strcmp(name, "input") == 0) {
    add_input(line);
  } else if (strcmp(name, "output") == 0) {
    add_output(line);
  } else if (strcmp(name, "gradients") == 0) {
    add_gradients(line);
  } else {
    define(line, word(line, 1), build(line));
  }
  return line->status;
}

static Status interpret(Interpreter *in, char *text, Error *error) {
  Status status = OK;
  char *next_line = text, *statement;
  int number = 0;
  while ((statement = strsep(&next_line, "\n")) != NULL) {
    Line line = {.in = in, .number = ++number, .error = error};
    char *w, *next_word = statement;
    while ((w = strsep(&next_word, " ")) != NULL)
      if (*w && line.count < MAX_WORDS) line.words[line.count++] = w;
    if (line.count > 0) TRY(run_line(in, &line));
  }
  TRY(run_graph(in, error));
done:
  return status;
}

static Status run(char **arguments, bool without_fusion, Error *error) {
  Status status = OK;
  char *text = NULL;
  size_t size = 0;
  Safetensors *inputs = NULL;
  Interpreter *in = mem_new(1, sizeof *in);
  in->without_fusion = without_fusion;
  TRY(file_read(arguments[1], MAX_PROGRAM, &text, &size, error));
  TRY(safetensors_open(arguments[2], &inputs, error));
  in->inputs = inputs;
  TRY(backend_cpu_new(0, &in->backend, error));
  TRY(interpret(in, text, error));
  TRY(safetensors_write(arguments[3], in->outputs, in->output_count, NULL, NULL, NULL, error));
done:
  forget_graph(in);
  for (int i = 0; i < in->output_count; i++) {
    free((void *)(uintptr_t)in->outputs[i].name);
    free((void *)(uintptr_t)in->outputs[i].data);
  }
  free(in->outputs);
  if (in->backend) in->backend->free(in->backend);
  free(in);
  safetensors_close(inputs);
  free(text);
  return status;
}

int main(int argc, char **argv) {
  Error error = {0};
  if (argc < 4) {
    fprintf(stderr, "ops PROGRAM INPUTS.safetensors OUTPUTS.safetensors [unfused]\n");
    return ERROR_USAGE;
  }
  Status status = run(argv, argc > 4 && strcmp(argv[4], "unfused") == 0, &error);
  if (status != OK) fprintf(stderr, "ops: %s\n", error.message);
  return (int)status;
}
