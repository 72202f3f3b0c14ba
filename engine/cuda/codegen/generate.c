#include "engine/cuda/codegen/generate.h"

#include <stdio.h>

#include "engine/cuda/codegen/templates.h"
#include "engine/graph/pointwise.h"

/* --- Parameters ------------------------------------------------------------------------------- */

static bool is_scalar(const Tensor *tensor) {
  return shape_count(tensor->shape) == 1;
}

/* Elements per thread and access. */
static int vector_size(KernelTemplate kind, const Op *op, const Tensor *inputs,
                       const Tensor *outputs) {
  if (kind == TEMPLATE_REDUCE_SCATTER) return 1;
  for (int i = 0; i < op->input_count; i++) {
    if (!is_scalar(&inputs[i]) && inputs[i].dtype != DTYPE_F32) return 8;
  }
  for (int i = 0; i < op->output_count; i++) {
    if (outputs && outputs[i].dtype == DTYPE_BF16) return 8;
  }
  return 4;
}

static int64_t greatest_common_divisor(int64_t a, int64_t b) {
  while (b != 0) {
    const int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

int periodic_active_threads(int64_t lanes, int vector) {
  const int64_t unit = lanes / greatest_common_divisor(lanes, vector);
  return unit > GENERATED_THREADS ? 0 : (int)(GENERATED_THREADS / unit * unit);
}

KernelTemplate reduction_template(const Op *op, const Tensor *inputs) {
  const Reduction r = reduction_of(op->attributes.reduce.full, op->attributes.reduce.axes);
  if (r.form == REDUCTION_SCATTER) return TEMPLATE_REDUCE_SCATTER;
  if (r.form == REDUCTION_ROWS) return TEMPLATE_REDUCE_ROWS;
  const int vector = vector_size(TEMPLATE_REDUCE_PERIODIC, op, inputs, NULL);
  return periodic_active_threads(r.lanes, vector) > 0 ? TEMPLATE_REDUCE_PERIODIC
                                                      : TEMPLATE_REDUCE_BLOCKED;
}

static bool is_read(const PointwiseProgram *program, int outputs, int input) {
  for (int k = 0; k < program->instruction_count; k++) {
    const PointwiseInstruction *i = &program->instructions[k];
    const int operands = pointwise_operands(i->code);
    if ((operands > 0 && i->a == input) || (operands > 1 && i->b == input)) return true;
  }
  for (int k = 0; k < outputs; k++) {
    if (program->outputs[k] == input) return true;
  }
  return false;
}

static InputMode input_mode(const Tensor *tensor, Shape full, const Broadcast *axes, int vector) {
  if (is_scalar(tensor)) return INPUT_SCALAR;
  if (shape_equal(tensor->shape, full)) return INPUT_FULL;
  if (axes->length[axes->groups - 1] % vector != 0) return INPUT_GATHER;
  return axes->stride[axes->groups - 1] == 0 ? INPUT_REPEAT : INPUT_ROW;
}

static Status plan_inputs(GeneratedSource *source, const Op *op, const PointwiseProgram *program,
                          const Tensor *inputs, Shape full, Broadcast *axes, Error *error) {
  Status status = OK;
  char have[SHAPE_TEXT_SIZE], want[SHAPE_TEXT_SIZE];
  for (int i = 0; i < op->input_count; i++) {
    if (!broadcast_join(inputs[i].shape, full, &axes[i])) {
      FAIL(error, ERROR_INTERNAL, "%s: cuda: input %d: shape %s does not broadcast to %s", op->name,
           i, shape_text(inputs[i].shape, have), shape_text(full, want));
    }
    if (!is_read(program, source->output_count, i)) continue;
    source->mode[i] = input_mode(&inputs[i], full, &axes[i], source->vector);
    for (int g = 0; g < axes[i].groups; g++) {
      source->launch.inputs[i].length[g] = fast_divisor(axes[i].length[g]);
      source->launch.inputs[i].stride[g] = axes[i].stride[g];
    }
  }
done:
  return status;
}

/* --- Text ------------------------------------------------------------------------------------- */

static const char *type_name(DType dtype) {
  return dtype == DTYPE_F32 ? "float" : dtype == DTYPE_BF16 ? "Bf16" : "unsigned char";
}

static bool has_index(InputMode mode) {
  return mode == INPUT_ROW || mode == INPUT_REPEAT || mode == INPUT_GATHER;
}

/* Generates Index atK(p, rest): the index in input K of element `rest` of the full shape. */
static void append_index(Text *text, int input, const Broadcast *axes) {
  text_append(text,
              "DEVICE Index at%d(const ProgramLaunch &p, Index rest) {\n"
              "  Index at = 0;\n",
              input);
  for (int g = axes->groups - 1; g >= 0; g--) {
    char axis[64], stride[64] = "";
    snprintf(axis, sizeof axis, "p.inputs[%d].length[%d]", input, g);
    if (axes->stride[g] > 1) {
      snprintf(stride, sizeof stride, " * (Index)p.inputs[%d].stride[%d]", input, g);
    }
    if (g == 0) {
      if (axes->stride[g] != 0) text_append(text, "  at += rest%s;\n", stride);
      break;
    }
    text_append(text, "  const Index next%d = divide(rest, %s);\n", g, axis);
    if (axes->stride[g] != 0) {
      text_append(text, "  at += (rest - next%d * (Index)%s.value)%s;\n", g, axis, stride);
    }
    text_append(text, "  rest = next%d;\n", g);
  }
  text_append(text, "  return at;\n}\n");
}

static void append_load(Text *text, int i, InputMode mode, DType dtype) {
  char data[64];
  snprintf(data, sizeof data, "((const %s *)p.inputs[%d].data)", type_name(dtype), i);
  if (mode == INPUT_SCALAR) {
    text_append(text, "  const float in%d = to_float(%s[0]);\n", i, data);
  } else if (mode == INPUT_REPEAT) {
    text_append(text, "  const float in%d = to_float(%s[at%d(p, first)]);\n", i, data, i);
  } else if (mode == INPUT_GATHER) {
    text_append(text,
                "  float in%d[VECTOR];\n  UNROLL for (int j = 0; j < VECTOR; j++) "
                "in%d[j] = j < n ? to_float(%s[at%d(p, first + (Index)j)]) : 0.0f;\n",
                i, i, data, i);
  } else if (mode != INPUT_UNUSED) {
    char at[24] = "first";
    if (mode == INPUT_ROW) snprintf(at, sizeof at, "at%d(p, first)", i);
    text_append(text, "  float in%d[VECTOR];\n  load(%s + %s, n, vectorized, in%d);\n", i, data, at,
                i);
  }
}

/* Every instruction is a function of two registers and its two constants (templates.c). */
static void append_instruction(Text *text, const PointwiseInstruction *i, int k, int inputs) {
  char a[16] = "0.0f", b[16] = "0.0f";
  if (pointwise_operands(i->code) > 0) snprintf(a, sizeof a, "r%d", i->a);
  if (pointwise_operands(i->code) > 1) snprintf(b, sizeof b, "r%d", i->b);
  text_append(text,
              "    const float r%d = pw_%s(%s, %s, p.constants[%d][0], p.constants[%d][1]);\n",
              inputs + k, pointwise_name(i->code), a, b, k, k);
}

/* Generates evaluate(p, first, n, vectorized, out0, ...), which computes the program for elements
 * [first, first + n), n at most VECTOR. The remaining elements of outK are computed from zeros. */
static void append_evaluate(GeneratedSource *source, const Tensor *inputs,
                            const PointwiseProgram *program) {
  Text *text = &source->text;
  text_append(text, "DEVICE void evaluate(const ProgramLaunch &p, "
                    "const Index first, const int n, const bool vectorized");
  for (int k = 0; k < source->output_count; k++) text_append(text, ", float (&out%d)[VECTOR]", k);
  text_append(text, ") {\n  (void)p, (void)first, (void)n, (void)vectorized;\n");
  for (int i = 0; i < source->input_count; i++) {
    append_load(text, i, source->mode[i], inputs[i].dtype);
  }
  text_append(text, "  UNROLL for (int j = 0; j < VECTOR; j++) {\n");
  for (int i = 0; i < source->input_count; i++) {
    const InputMode mode = source->mode[i];
    if (mode == INPUT_UNUSED) continue;
    const bool is_one = mode == INPUT_SCALAR || mode == INPUT_REPEAT;
    text_append(text, "    const float r%d = in%d%s;\n", i, i, is_one ? "" : "[j]");
  }
  for (int k = 0; k < program->instruction_count; k++) {
    append_instruction(text, &program->instructions[k], k, source->input_count);
  }
  for (int k = 0; k < source->output_count; k++) {
    text_append(text, "    out%d[j] = r%d;\n", k, program->outputs[k]);
  }
  text_append(text, "  }\n}\n");
}

static void append_pointwise_kernel(GeneratedSource *source, const Tensor *outputs) {
  Text *text = &source->text;
  text_append(text, "%s\n", template_pointwise_begin);
  for (int k = 0; k < source->output_count; k++) text_append(text, "  float out%d[VECTOR];\n", k);
  text_append(text, "  evaluate(p, first, n, vectorized");
  for (int k = 0; k < source->output_count; k++) text_append(text, ", out%d", k);
  text_append(text, ");\n");
  for (int k = 0; k < source->output_count; k++) {
    text_append(text, "  store((%s *)p.outputs[%d] + first, n, vectorized, out%d);\n",
                type_name(outputs[k].dtype), k, k);
  }
  text_append(text, "%s\n", template_pointwise_end);
}

static void append_source(GeneratedSource *source, KernelTemplate kind,
                          const PointwiseProgram *program, const Tensor *inputs,
                          const Tensor *outputs, const Broadcast *axes, bool index_32_bit) {
  static const char *const names[] = {"pointwise", "reduce_rows", "reduce_periodic",
                                      "reduce_blocked", "reduce_scatter"};
  Text *text = &source->text;
  source->name = names[kind];
  text_append(text, "typedef unsigned%s Index;\nenum { VECTOR = %d, THREADS = %d };\n",
              index_32_bit ? "" : " long long", source->vector, GENERATED_THREADS);
  text_append(text, "%s\n%s\n%s\n%s\n", fast_divisor_source, launch_struct_source, template_macros,
              template_functions);
  text_append(text, "%s\n", index_32_bit ? template_divide_32 : template_divide_64);
  for (int i = 0; i < source->input_count; i++) {
    if (has_index(source->mode[i])) append_index(text, i, &axes[i]);
  }
  append_evaluate(source, inputs, program);
  if (kind == TEMPLATE_POINTWISE) {
    append_pointwise_kernel(source, outputs);
  } else {
    text_append(text, "%s\n%s\n", template_sums, template_reductions[kind]);
  }
}

Status generated_source_new(GeneratedSource *source, KernelTemplate kind, const Op *op,
                            const PointwiseProgram *program, const Tensor *inputs,
                            const Tensor *outputs, Shape full, Error *error) {
  Status status = OK;
  Broadcast axes[POINTWISE_MAX_INPUTS] = {0};
  *source = (GeneratedSource){.input_count = op->input_count, .output_count = op->output_count};
  if (!pointwise_well_formed(program, op->input_count, op->output_count)) {
    FAIL(error, ERROR_INTERNAL, "%s: cuda: invalid pointwise program", op->name);
  }
  source->vector = vector_size(kind, op, inputs, outputs);
  TRY(plan_inputs(source, op, program, inputs, full, axes, error));
  for (int k = 0; k < program->instruction_count; k++) {
    source->launch.constants[k][0] = program->instructions[k].p;
    source->launch.constants[k][1] = program->instructions[k].q;
  }
  source->launch.count = shape_count(full);
  append_source(source, kind, program, inputs, outputs, axes,
                source->launch.count < INT64_C(1) << 31);
done:
  return status;
}

void generated_source_free(GeneratedSource *source) {
  text_free(&source->text);
}

/* --- Addresses -------------------------------------------------------------------------------- */

static bool is_aligned(const Tensor *tensor, int vector) {
  const size_t access = (size_t)vector * dtype_size(tensor->dtype);
  return (uintptr_t)tensor->data % (access < 16 ? access : 16) == 0;
}

void generated_source_bind(const GeneratedSource *source, struct ProgramLaunch *launch,
                           const Tensor *inputs, const Tensor *outputs) {
  bool vectorized = launch->vectorized;
  for (int i = 0; i < source->input_count; i++) {
    const InputMode mode = source->mode[i];
    launch->inputs[i].data = inputs[i].data;
    if (mode == INPUT_FULL || mode == INPUT_ROW)
      vectorized = vectorized && is_aligned(&inputs[i], source->vector);
  }
  for (int k = 0; k < source->output_count; k++) {
    launch->outputs[k] = outputs[k].data;
    vectorized = vectorized && is_aligned(&outputs[k], source->vector);
  }
  launch->vectorized = vectorized;
}
