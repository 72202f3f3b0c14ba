#include "engine/program/program.h"

#include <stdlib.h>

#include "base/memory.h"
#include "base/thread.h"
#include "engine/ops/rules.h"
#include "engine/planner/arena.h"
#include "engine/program/internal.h"

/* --- Planning --------------------------------------------------------------------------------- */

static Tensor describe(const Plan *plan, Value value) {
  if (value.id < 0) return (Tensor){0};
  const PlanValue *info = plan_value(plan, value);
  return (Tensor){.shape = info->shape, .dtype = info->dtype, .buffer = info->buffer};
}

static void add_written(Step *step, Buffer *buffer) {
  for (int i = 0; i < step->written_count; i++) {
    if (step->written[i] == buffer) return;
  }
  step->written[step->written_count++] = buffer;
}

static void count_cost(Step *step, const Op *op) {
  Shape inputs[OP_MAX_INPUTS] = {0}, outputs[OP_MAX_OUTPUTS] = {0};
  for (int i = 0; i < op->input_count; i++) {
    const Tensor *tensor = &step->inputs[i];
    inputs[i] = tensor->shape;
    step->bytes += (double)shape_count(tensor->shape) * (double)dtype_size(tensor->dtype);
  }
  for (int i = 0; i < op->output_count; i++) {
    const Tensor *tensor = &step->outputs[i];
    outputs[i] = tensor->shape;
    step->bytes += (double)shape_count(tensor->shape) * (double)dtype_size(tensor->dtype);
  }
  const OpRule *rule = op_rule(op->kind);
  if (rule->flops) step->flops = rule->flops(op, inputs, outputs);
}

/* Sets everything of a step but its kernel and its addresses. */
static void describe_step(const Plan *plan, const Op *op, Step *step) {
  unsigned written = op_written_inputs(op);
  for (int i = 0; i < op->input_count; i++) {
    step->inputs[i] = describe(plan, op->inputs[i]);
    if (written >> i & 1) add_written(step, step->inputs[i].buffer);
  }
  for (int i = 0; i < op->output_count; i++) {
    step->outputs[i] = describe(plan, op->outputs[i]);
    if (step->outputs[i].buffer) add_written(step, step->outputs[i].buffer);
  }
  if (op->kind != OP_ALL_REDUCE) count_cost(step, op);
}

static void describe_steps(Program *program) {
  const Plan *plan = program->plan;
  bool *waits = mem_new((size_t)plan->op_count, sizeof *waits);
  program->steps = mem_new((size_t)plan->op_count, sizeof *program->steps);
  program->step_count = plan->op_count;
  plan_collective_waits(plan, waits);
  for (int i = 0; i < plan->op_count; i++) {
    describe_step(plan, &plan->ops[i], &program->steps[i]);
    program->steps[i].waits = waits[i];
  }
  free(waits);
}

static void prepare_kernels(const Program *program) {
  const Plan *plan = program->plan;
  Backend *backend = program->backend;
  if (!backend->prepare) return;
  KernelRequest *requests = mem_new((size_t)plan->op_count, sizeof *requests);
  int count = 0;
  for (int i = 0; i < plan->op_count; i++) {
    const Step *step = &program->steps[i];
    if (plan->ops[i].kind == OP_ALL_REDUCE) continue;
    requests[count++] = (KernelRequest){&plan->ops[i], step->inputs, step->outputs};
  }
  backend->prepare(backend, requests, count);
  free(requests);
}

static Status make_kernels(Program *program, Error *error) {
  Backend *backend = program->backend;
  prepare_kernels(program);
  for (int i = 0; i < program->step_count; i++) {
    const Op *op = &program->plan->ops[i];
    Step *step = &program->steps[i];
    if (op->kind == OP_ALL_REDUCE) continue;
    if (backend->kernel_new(backend, op, step->inputs, step->outputs, &step->kernel, error) != OK)
      return error_context(error, "program %s, op %s (%s)", program->name, op->name,
                           op_kind_name(op->kind));
  }
  return OK;
}

/* Values and workspaces share the arena; the lifetime of a workspace is its op. */
static void assign_memory(Program *program) {
  const Plan *plan = program->plan;
  program->lifetime_of = mem_new((size_t)plan->value_count, sizeof *program->lifetime_of);
  Lifetime *items = NULL;
  int values = plan_lifetimes(plan, &items, program->lifetime_of), count = values;
  items = mem_resize(items, (size_t)(values + program->step_count), sizeof *items);
  for (int i = 0; i < program->step_count; i++) {
    const Kernel *kernel = program->steps[i].kernel;
    if (!kernel || kernel->workspace == 0) continue;
    items[count++] = (Lifetime){.first = i, .last = i, .bytes = kernel->workspace};
    if (kernel->workspace > program->cost.workspace_bytes) {
      program->cost.workspace_bytes = kernel->workspace;
    }
  }
  program->cost.arena_bytes = arena_assign_offsets(items, count);
  for (int i = values; i < count; i++) {
    program->steps[items[i].first].workspace_offset = items[i].offset;
  }
  program->lifetimes = items;
}

static void sum_costs(Program *program) {
  ProgramCost *cost = &program->cost;
  cost->ops = program->step_count;
  for (int i = 0; i < program->step_count; i++) {
    const Step *step = &program->steps[i];
    cost->flops += step->flops;
    cost->bytes += step->bytes;
    if (is_convolution(program->plan->ops[i].kind)) cost->convolution_flops += step->flops;
  }
}

Status program_plan(const Graph *graph, Backend *backend, const ProgramOptions *options,
                    Program **out, Error *error) {
  Status status = OK;
  Program *program = mem_new(1, sizeof *program);
  *out = NULL;
  program->name = mem_string(options->name);
  program->backend = backend;
  program->arena = options->arena;
  program->has_collectives = options->collectives != NULL;
  if (options->collectives) program->collectives = *options->collectives;
  TRY(graph_status(graph, error));
  program->plan = plan_new(graph);
  program->cost.ops_before_fusion = plan_remove_dead(program->plan);
  if (!options->without_fusion) plan_fuse(program->plan);
  plan_schedule_collectives(program->plan);
  if (options->rematerialize) plan_rematerialize(program->plan);
  if (!options->without_fusion) plan_alias_views(program->plan);
  describe_steps(program);
  TRY(make_kernels(program, error));
  assign_memory(program);
  sum_costs(program);
  TRY(arena_reserve(program->arena, backend, program->cost.arena_bytes, error));
  *out = program;
  program = NULL;
done:
  program_free(program);
  return status;
}

void program_release_capture(Program *program) {
  if (program->captured) program->backend->capture_free(program->backend, program->captured);
  program->captured = NULL;
}

void program_free(Program *program) {
  if (!program) return;
  program_release_capture(program);
  for (int i = 0; i < program->step_count; i++) {
    Kernel *kernel = program->steps[i].kernel;
    if (kernel) kernel->free(kernel);
  }
  plan_free(program->plan);
  free(program->steps);
  free(program->lifetimes);
  free(program->lifetime_of);
  free(program->name);
  free(program);
}

/* --- Binding ---------------------------------------------------------------------------------- */

static Status bind_tensor(const Program *program, const Op *op, Value value, Tensor *tensor,
                          Error *error) {
  if (value.id < 0) return OK;
  const PlanValue *info = plan_value(program->plan, value);
  if (info->buffer) {
    if (!info->buffer->data) {
      return error_set(error, ERROR_INTERNAL, "program %s, op %s: buffer %s is not allocated",
                       program->name, op->name, info->buffer->name);
    }
    tensor->data =
        (char *)info->buffer->data + (size_t)info->offset * dtype_size(info->buffer->dtype);
    return OK;
  }
  int lifetime = program->lifetime_of[value.id];
  if (lifetime < 0) {
    return error_set(error, ERROR_INTERNAL, "program %s, op %s: value %d has no producer",
                     program->name, op->name, (int)value.id);
  }
  tensor->data = (char *)program->bound + program->lifetimes[lifetime].offset +
                 (size_t)info->offset * dtype_size(info->dtype);
  return OK;
}

Status program_bind(Program *program, Error *error) {
  Status status = OK;
  program_release_capture(program);
  program->is_bound = false;
  TRY(arena_memory(program->arena, &program->bound, error));
  for (int i = 0; i < program->step_count; i++) {
    const Op *op = &program->plan->ops[i];
    Step *step = &program->steps[i];
    for (int j = 0; j < op->input_count; j++) {
      TRY(bind_tensor(program, op, op->inputs[j], &step->inputs[j], error));
    }
    for (int j = 0; j < op->output_count; j++) {
      TRY(bind_tensor(program, op, op->outputs[j], &step->outputs[j], error));
    }
  }
  program->is_bound = true;
done:
  return status;
}

/* --- Running ---------------------------------------------------------------------------------- */

static void count_writes(const Step *step) {
  for (int i = 0; i < step->written_count; i++) step->written[i]->version++;
}

/* Waits for the all-reduces among steps [first, end), the ones that may still be running. */
static Status wait_for_collectives(Program *program, int first, int end, Error *error) {
  double begin = clock_seconds();
  const Collectives *collectives = &program->collectives;
  Status status =
      collectives->all_reduce_wait(collectives->context, program->backend->stream, error);
  program->waiting += clock_seconds() - begin;
  if (status != OK) return error_context(error, "program %s", program->name);
  for (int i = first; i < end; i++) {
    if (!program->steps[i].kernel) count_writes(&program->steps[i]);
  }
  return OK;
}

static Status start_collective(const Program *program, const Step *step, const Op *op,
                               Error *error) {
  const Collectives *collectives = &program->collectives;
  const Tensor *target = &step->inputs[0];
  Status status =
      collectives->all_reduce_start(collectives->context, target->data, shape_count(target->shape),
                                    target->dtype, program->backend->stream, error);
  if (status != OK) return error_context(error, "program %s, op %s", program->name, op->name);
  return OK;
}

/* While profiling, each kernel is enclosed by two timing events. */
static int begin_event(int index) {
  return 2 * index;
}
static int end_event(int index) {
  return 2 * index + 1;
}

static Status add_profiled_times(Program *program, Error *error) {
  Backend *backend = program->backend;
  for (int i = 0; i < program->step_count; i++) {
    Step *step = &program->steps[i];
    double seconds = 0;
    if (!step->kernel) continue;
    Status status = backend->event_seconds(backend, begin_event(i), end_event(i), &seconds, error);
    if (status != OK) return error_context(error, "program %s", program->name);
    step->seconds += seconds;
  }
  program->profiled_runs++;
  return OK;
}

static Status run_kernel(Program *program, Step *step, const Op *op, Error *error) {
  Status status = OK;
  Backend *backend = program->backend;
  const int index = (int)(step - program->steps);
  void *workspace =
      step->kernel->workspace > 0 ? (char *)program->bound + step->workspace_offset : NULL;
  if (program->profiling) TRY(backend->record_event(backend, begin_event(index), error));
  TRY(step->kernel->run(step->kernel, step->inputs, step->outputs, workspace, error));
  if (program->profiling) TRY(backend->record_event(backend, end_event(index), error));
  count_writes(step);
done:
  if (status != OK) return error_context(error, "program %s, op %s", program->name, op->name);
  return OK;
}

static Status run_steps(Program *program, Error *error) {
  Status status = OK;
  int first_pending = -1; /* the oldest running all-reduce; -1: none */
  for (int i = 0; i < program->step_count; i++) {
    Step *step = &program->steps[i];
    const Op *op = &program->plan->ops[i];
    if (step->waits && first_pending >= 0) {
      TRY(wait_for_collectives(program, first_pending, i, error));
      first_pending = -1;
    }
    if (step->kernel) {
      TRY(run_kernel(program, step, op, error));
    } else if (program->has_collectives) {
      TRY(start_collective(program, step, op, error));
      if (first_pending < 0) first_pending = i;
    }
  }
  if (first_pending >= 0) {
    TRY(wait_for_collectives(program, first_pending, program->step_count, error));
  }
done:
  return status;
}

/* --- Capturing -------------------------------------------------------------------------------- */

/* The first run is not captured: libraries load modules then, which a capture must not contain. */
static bool should_capture(const Program *program) {
  bool collectives_allow = !program->has_collectives || program->collectives.capturable;
  return program->backend->capture_begin && collectives_allow && program->has_run;
}

static Status capture(Program *program, Error *error) {
  Backend *backend = program->backend;
  Error late = {0};
  Status status = backend->capture_begin(backend, error);
  if (status != OK) return error_context(error, "program %s", program->name);
  status = run_steps(program, error);
  Status ended = backend->capture_end(backend, &program->captured, status == OK ? error : &late);
  if (status == OK && ended != OK) return error_context(error, "program %s", program->name);
  if (status != OK) program_release_capture(program);
  return status;
}

static Status run_captured(Program *program, Error *error) {
  Status status = OK;
  if (!program->captured) TRY(capture(program, error));
  TRY(program->backend->capture_run(program->backend, program->captured, error));
  for (int i = 0; i < program->step_count; i++) count_writes(&program->steps[i]);
done:
  return status;
}

Status program_run(Program *program, Error *error) {
  Status status = OK;
  void *memory = NULL;
  TRY(arena_memory(program->arena, &memory, error));
  if (!program->is_bound || memory != program->bound) TRY(program_bind(program, error));
  if (should_capture(program)) {
    TRY(run_captured(program, error));
  } else {
    TRY(run_steps(program, error));
    program->has_run = true;
  }
  if (program->profiling) TRY(add_profiled_times(program, error));
done:
  return status;
}

/* --- Costs and times -------------------------------------------------------------------------- */

ProgramCost program_cost(const Program *program) {
  return program->cost;
}

void program_profile(Program *program, bool on) {
  if (on != program->profiling) program_release_capture(program);
  program->profiling = on;
  if (!on) return;
  program->profiled_runs = 0;
  program->waiting = 0;
  for (int i = 0; i < program->step_count; i++) program->steps[i].seconds = 0;
}

ProgramTimes program_times(const Program *program) {
  ProgramTimes times = {.waiting = program->waiting, .runs = program->profiled_runs};
  for (int i = 0; i < program->step_count; i++) {
    double *group =
        is_convolution(program->plan->ops[i].kind) ? &times.convolutions : &times.others;
    *group += program->steps[i].seconds;
  }
  return times;
}

int program_op_count(const Program *program) {
  return program->step_count;
}

ProgramOp program_op(const Program *program, int index) {
  const Step *step = &program->steps[index];
  const Op *op = &program->plan->ops[index];
  double runs = program->profiled_runs > 0 ? (double)program->profiled_runs : 1;
  const Tensor *target = &step->inputs[0];
  return (ProgramOp){
      .name = op->name,
      .flops = step->flops,
      .bytes = step->bytes,
      .seconds = step->seconds / runs,
      .all_reduce_bytes =
          step->kernel ? 0 : (double)shape_count(target->shape) * (double)dtype_size(target->dtype),
      .waits = step->waits,
  };
}
