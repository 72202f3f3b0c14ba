/* Reports of a program: the table of the plan and the profile. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "engine/program/internal.h"

/* --- Cells ------------------------------------------------------------------------------------ */

typedef enum Unit { UNIT_BYTES, UNIT_COUNT } Unit;

/* A number in human units, right-aligned; "-" for 0. */
static void append_number(Text *out, int width, double value, Unit unit) {
  Text cell = {0};
  if (value == 0) {
    text_append(&cell, "-");
  } else if (unit == UNIT_BYTES) {
    text_append_size(&cell, value);
  } else {
    text_append_count(&cell, value);
  }
  text_append(out, " %*s", width, cell.data);
  text_free(&cell);
}

/* The kind, with what was fused into it: "conv3d +bias +leaky_relu", "pointwise (5)". */
static void append_kind(Text *cell, const Op *op) {
  const OpAttributes *attributes = &op->attributes;
  Activation activation = ACTIVATION_NONE;
  text_append(cell, "%s", op_kind_name(op->kind));
  if (op->kind == OP_POINTWISE) {
    text_append(cell, " (%d)", attributes->pointwise.instruction_count);
  } else if (op->kind == OP_REDUCE && attributes->reduce.program.instruction_count > 0) {
    text_append(cell, " (%d)", attributes->reduce.program.instruction_count);
  } else if (op->kind == OP_CONV3D) {
    activation = attributes->conv.activation;
    if (op->input_count > 2 && op->inputs[2].id >= 0) text_append(cell, " +bias");
  } else if (op->kind == OP_CONV3D_BACKWARD_WEIGHTS) {
    if (op->output_count > 1 && op->outputs[1].id >= 0) text_append(cell, " +bias");
  } else if (op->kind == OP_NORM || op->kind == OP_NORM_BACKWARD) {
    activation = attributes->norm.activation;
  } else if (op->kind == OP_MATMUL) {
    if (attributes->matmul.transpose_a) text_append(cell, " +transpose_a");
    if (attributes->matmul.transpose_b) text_append(cell, " +transpose_b");
  } else if (op->kind == OP_MAX_POOL_BACKWARD) {
    activation = attributes->max_pool.activation;
  }
  if (activation == ACTIVATION_LEAKY_RELU) text_append(cell, " +leaky_relu");
  if (activation == ACTIVATION_TANH) text_append(cell, " +tanh");
  if (op->kind == OP_NORM && op->input_count > 3 && op->inputs[3].id >= 0) {
    text_append(cell, " +residual");
  }
  if (op_fused_pad(op)) text_append(cell, " +pad");
  if (op_has_addend(op)) text_append(cell, " +addend");
}

static int widen(int width, const char *text) {
  int length = (int)strlen(text);
  return length > width ? length : width;
}

typedef struct Widths {
  int name, kind, shape;
} Widths;

/* A report shows the first output of an op, or the target of an update. */
static int shown_target(const Op *op) {
  return op->kind == OP_STORE ? 1 : 0;
}

static const Tensor *shown_tensor(const Op *op, const Step *step) {
  return op->output_count > 0 ? &step->outputs[0] : &step->inputs[shown_target(op)];
}

static Value shown_value(const Op *op) {
  return op->output_count > 0 ? op->outputs[0] : op->inputs[shown_target(op)];
}

static Widths find_widths(const Program *program) {
  Widths widths = {2, 4, 6};
  char shape[SHAPE_TEXT_SIZE];
  Text kind = {0};
  for (int i = 0; i < program->step_count; i++) {
    const Op *op = &program->plan->ops[i];
    text_clear(&kind);
    append_kind(&kind, op);
    widths.name = widen(widths.name, op->name);
    widths.kind = widen(widths.kind, kind.data);
    shape_text(shown_tensor(op, &program->steps[i])->shape, shape);
    widths.shape = widen(widths.shape, shape);
  }
  text_free(&kind);
  return widths;
}

/* --- The plan --------------------------------------------------------------------------------- */

static void append_place(Text *out, const Program *program, Value shown) {
  const PlanValue *value = plan_value(program->plan, shown);
  if (value->buffer) {
    text_append(out, "  %s+%lld\n", value->buffer->name, (long long)value->offset);
  } else {
    int lifetime = program->lifetime_of[shown.id];
    size_t begin = lifetime < 0 ? 0 : program->lifetimes[lifetime].offset;
    text_append(out, "  arena+%zu\n", begin + (size_t)value->offset * dtype_size(value->dtype));
  }
}

static void append_op(Text *out, const Program *program, int index, const Widths *widths) {
  const Op *op = &program->plan->ops[index];
  const Step *step = &program->steps[index];
  const Tensor *shown = shown_tensor(op, step);
  char shape[SHAPE_TEXT_SIZE];
  Text kind = {0};
  append_kind(&kind, op);
  text_append(out, "%5d  %-*s  %-*s  %-*s %-4s", index, widths->name, op->name, widths->kind,
              kind.data, widths->shape, shape_text(shown->shape, shape), dtype_name(shown->dtype));
  append_number(out, 9, step->flops, UNIT_COUNT);
  append_number(out, 11, step->bytes, UNIT_BYTES);
  append_number(out, 11, step->kernel ? (double)step->kernel->workspace : 0, UNIT_BYTES);
  append_place(out, program, shown_value(op));
  text_free(&kind);
}

static int waiting_op(const Program *program, int all_reduce) {
  int op = all_reduce + 1;
  while (op < program->step_count && !program->steps[op].waits) op++;
  return op;
}

static void append_buckets(Text *out, const Program *program) {
  int count = 0;
  for (int i = 0; i < program->step_count; i++) {
    const Op *op = &program->plan->ops[i];
    if (op->kind != OP_ALL_REDUCE) continue;
    if (count++ == 0) text_append(out, "\nall-reduce buckets\n");
    const Tensor *target = &program->steps[i].inputs[0];
    BufferRange range = plan_buffer_range(program->plan, op->inputs[0]);
    int wait = waiting_op(program, i);
    text_append(out, "%5d  %s[%lld:%lld] %s", i, target->buffer->name, (long long)range.begin,
                (long long)range.end, dtype_name(target->dtype));
    append_number(out, 0, (double)(range.end - range.begin) * (double)dtype_size(target->dtype),
                  UNIT_BYTES);
    if (wait < program->step_count) {
      text_append(out, ", waited for by op %d (%s)\n", wait, program->plan->ops[wait].name);
    } else {
      text_append(out, ", waited for at the end\n");
    }
  }
}

static void append_totals(Text *out, const Program *program) {
  const ProgramCost *cost = &program->cost;
  text_append(out, "\ntotals per run\n  ops       %d (%d before fusion)\n", cost->ops,
              cost->ops_before_fusion);
  text_append(out, "  FLOPs    ");
  append_number(out, 0, cost->flops, UNIT_COUNT);
  if (cost->flops > 0) {
    text_append(out, ", %.1f %% in convolutions", 100 * cost->convolution_flops / cost->flops);
  }
  text_append(out, "\n  traffic  ");
  append_number(out, 0, cost->bytes, UNIT_BYTES);
  text_append(out, "\n  arena    ");
  append_number(out, 0, (double)cost->arena_bytes, UNIT_BYTES);
  text_append(out, ", largest workspace");
  append_number(out, 0, (double)cost->workspace_bytes, UNIT_BYTES);
  text_append(out, "\n");
}

void program_print(const Program *program, Text *out) {
  Widths widths = find_widths(program);
  text_append(out, "program %s on %s\n\n", program->name, program->backend->name);
  text_append(out, "%5s  %-*s  %-*s  %-*s %-4s %9s %11s %11s  %s\n", "#", widths.name, "op",
              widths.kind, "kind", widths.shape, "output", "type", "FLOPs", "traffic", "workspace",
              "place");
  for (int i = 0; i < program->step_count; i++) append_op(out, program, i, &widths);
  append_buckets(out, program);
  append_totals(out, program);
}

/* --- The profile ------------------------------------------------------------------------------ */

enum { PROFILE_ROWS = 40 };

typedef struct Row {
  double seconds, flops, bytes;
  double bound;     /* roofline bound of a run, seconds; 0: unknown */
  int count, index; /* number of ops; index of the op or kind */
} Row;

/* Input of all tables of a profile. */
typedef struct Profile {
  const Program *program;
  const DevicePeaks *peaks; /* NULL: unknown */
  double total, runs;
} Profile;

static int slowest_first(const void *a, const void *b) {
  const Row *x = a, *y = b;
  if (x->seconds < y->seconds) return 1;
  if (x->seconds > y->seconds) return -1;
  return (x->index > y->index) - (x->index < y->index);
}

/* The roofline model of Williams, Waterman, Patterson 2009: an op takes at least the time of its
 * FLOPs and of its bytes at peak throughput. */
static double roofline_bound(const Step *step, const DevicePeaks *peaks) {
  if (!peaks) return 0;
  double computing = peaks->flops > 0 ? step->flops / peaks->flops : 0;
  double moving = peaks->bytes > 0 ? step->bytes / peaks->bytes : 0;
  return computing > moving ? computing : moving;
}

static void append_heading(Text *out, const Profile *profile) {
  text_append(out, "%10s %8s %9s %9s", "ms", "share", "GF/s", "GB/s");
  if (profile->peaks) text_append(out, " %10s %9s", "bound ms", "of bound");
}

/* Milliseconds per run, share of the total, FLOP and byte rates, the bound and its share of the
 * time. */
static void append_rates(Text *out, const Row *row, const Profile *profile) {
  double rate = row->seconds > 0 ? profile->runs / row->seconds / 1e9 : 0;
  text_append(out, "%10.3f %6.1f %% %9.1f %9.1f", 1e3 * row->seconds / profile->runs,
              profile->total > 0 ? 100 * row->seconds / profile->total : 0, row->flops * rate,
              row->bytes * rate);
  if (profile->peaks)
    text_append(out, " %10.3f %7.1f %%", 1e3 * row->bound, 100e9 * row->bound * rate);
}

static void append_slowest_ops(Text *out, const Profile *profile) {
  const Program *program = profile->program;
  Row *rows = mem_new((size_t)program->step_count, sizeof *rows);
  Widths widths = find_widths(program);
  char shape[SHAPE_TEXT_SIZE];
  Text kind = {0};
  for (int i = 0; i < program->step_count; i++) {
    const Step *step = &program->steps[i];
    rows[i] =
        (Row){step->seconds, step->flops, step->bytes, roofline_bound(step, profile->peaks), 1, i};
  }
  qsort(rows, (size_t)program->step_count, sizeof *rows, slowest_first);
  append_heading(out, profile);
  text_append(out, "  %-*s  %-*s  %s\n", widths.name, "op", widths.kind, "kind", "output");
  for (int i = 0; i < program->step_count && i < PROFILE_ROWS; i++) {
    const Op *op = &program->plan->ops[rows[i].index];
    text_clear(&kind);
    append_kind(&kind, op);
    append_rates(out, &rows[i], profile);
    text_append(out, "  %-*s  %-*s  %s\n", widths.name, op->name, widths.kind, kind.data,
                shape_text(shown_tensor(op, &program->steps[rows[i].index])->shape, shape));
  }
  if (program->step_count > PROFILE_ROWS) {
    text_append(out, "  ... and %d faster ones\n", program->step_count - PROFILE_ROWS);
  }
  text_free(&kind);
  free(rows);
}

static void append_kinds(Text *out, const Profile *profile) {
  const Program *program = profile->program;
  Row rows[OP_KIND_COUNT] = {0};
  for (int i = 0; i < OP_KIND_COUNT; i++) rows[i].index = i;
  for (int i = 0; i < program->step_count; i++) {
    const Step *step = &program->steps[i];
    if (!step->kernel) continue;
    Row *row = &rows[program->plan->ops[i].kind];
    row->seconds += step->seconds;
    row->flops += step->flops;
    row->bytes += step->bytes;
    row->bound += roofline_bound(step, profile->peaks);
    row->count++;
  }
  qsort(rows, OP_KIND_COUNT, sizeof *rows, slowest_first);
  text_append(out, "\n");
  append_heading(out, profile);
  text_append(out, " %6s  %s\n", "ops", "kind");
  for (int i = 0; i < OP_KIND_COUNT; i++) {
    if (rows[i].count == 0) continue;
    append_rates(out, &rows[i], profile);
    text_append(out, " %6d  %s\n", rows[i].count, op_kind_name((OpKind)rows[i].index));
  }
}

void program_print_profile(const Program *program, const DevicePeaks *peaks, Text *out) {
  ProgramTimes times = program_times(program);
  if (times.runs == 0) {
    text_append(out, "program %s: no profiled runs\n", program->name);
    return;
  }
  double runs = (double)times.runs, total = times.convolutions + times.others;
  text_append(out, "program %s on %s: mean of %lld runs\n\n", program->name, program->backend->name,
              (long long)times.runs);
  Profile profile = {program, peaks, total, runs};
  append_slowest_ops(out, &profile);
  append_kinds(out, &profile);
  text_append(
      out, "\nconvolutions %.3f ms (%.1f %%), other ops %.3f ms, waiting for all-reduces %.3f ms\n",
      1e3 * times.convolutions / runs, total > 0 ? 100 * times.convolutions / total : 0,
      1e3 * times.others / runs, 1e3 * times.waiting / runs);
}
