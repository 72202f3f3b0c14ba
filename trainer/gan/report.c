/* What a step costs and how its time goes, in numbers and in words. */
#include "trainer/gan/internal.h"

/* How often a GAN step runs a program, where a share of the steps has R1. */
static double runs_per_step(const Model *model, ProgramKind kind, double regularised) {
  double micro = model->options.micro_batches - 1;
  if (!model->programs[kind]) return 0;
  switch (kind) {
  case PROGRAM_STEP:
  case PROGRAM_D_LAST:
    return 1 - regularised;
  case PROGRAM_STEP_R1:
  case PROGRAM_D_LAST_R1:
    return regularised;
  case PROGRAM_D_MICRO:
    return (1 - regularised) * micro;
  case PROGRAM_D_MICRO_R1:
    return regularised * micro;
  case PROGRAM_G_MICRO:
    return micro;
  case PROGRAM_G_LAST:
  case PROGRAM_D_UPDATE:
  case PROGRAM_G_UPDATE:
    return 1;
  case PROGRAM_WARMUP:
  case PROGRAM_WARMUP_MICRO:
  case PROGRAM_WARMUP_LAST:
  case PROGRAM_KIND_COUNT:
    break;
  }
  return 0;
}

ProgramCost model_cost(const Model *model, double regularised) {
  ProgramCost sum = {0};
  for (ProgramKind kind = 0; kind < PROGRAM_KIND_COUNT; kind++) {
    double runs = runs_per_step(model, kind, regularised);
    if (runs == 0) continue;
    ProgramCost cost = program_cost(model->programs[kind]);
    sum.flops += runs * cost.flops;
    sum.convolution_flops += runs * cost.convolution_flops;
    sum.bytes += runs * cost.bytes;
    if (cost.workspace_bytes > sum.workspace_bytes) sum.workspace_bytes = cost.workspace_bytes;
  }
  sum.arena_bytes = arena_bytes(model->arena);
  return sum;
}

static void print_parameters(const Parameters *parameters, Text *out) {
  if (parameters->total == 0) return;
  int64_t used = 0;
  for (int i = 0; i < parameters->count; i++) used += parameters->items[i].count;
  text_append(out, "%s: %d parameters, ", parameters->network, parameters->count);
  text_append_count(out, (double)used);
  text_append(out, " numbers\n");
  for (int i = 0; i < parameters->count; i++) {
    char shape[SHAPE_TEXT_SIZE];
    const Parameter *item = &parameters->items[i];
    text_append(out, "  %-32s %-18s at %lld\n", item->name, shape_text(item->shape, shape),
                (long long)item->offset);
  }
}

static void print_spectral(const Parameters *parameters, Text *out) {
  const Parameters *spectral = parameters->spectral;
  if (!spectral || spectral->total == 0) return;
  text_append(out, "  spectral norm of %d weights: u, v and sigma, ", spectral->count / 3);
  text_append_count(out, (double)spectral->total);
  text_append(out, " numbers\n");
}

static void print_cost(const ProgramCost *cost, Text *out) {
  text_append_count(out, cost->flops);
  text_append(out, "FLOP, ");
  text_append_bytes_size(out, cost->bytes);
  text_append(out, " moved");
}

void model_print(const Model *model, Text *out) {
  text_append(out, "device: %s\n\n", model->backend->describe(model->backend));
  print_parameters(&model->generator, out);
  print_parameters(&model->discriminator, out);
  print_spectral(&model->discriminator, out);
  print_parameters(&model->perceptual, out);
  for (ProgramKind kind = 0; kind < PROGRAM_KIND_COUNT; kind++) {
    if (!model->programs[kind]) continue;
    text_append(out, "\n");
    program_print(model->programs[kind], out);
  }
  ProgramCost cost = model_cost(model, 0), with = model_cost(model, 1);
  text_append(out, "\none step of this rank: ");
  print_cost(&cost, out);
  if (model->programs[PROGRAM_STEP_R1] || model->programs[PROGRAM_D_LAST_R1]) {
    text_append(out, " (with R1, one in %lld: ", (long long)model->config->loss.r1_interval);
    print_cost(&with, out);
    text_append(out, ")");
  }
  text_append(out, "; arena ");
  text_append_bytes_size(out, (double)cost.arena_bytes);
  text_append(out, "\n");
}

void model_profile(Model *model, bool on) {
  for (int i = 0; i < PROGRAM_KIND_COUNT; i++)
    if (model->programs[i]) program_profile(model->programs[i], on);
}

void model_print_profile(const Model *model, const Ceilings *ceilings, Text *out) {
  for (ProgramKind kind = 0; kind < PROGRAM_KIND_COUNT; kind++)
    if (runs_per_step(model, kind, 0) > 0)
      program_print_profile(model->programs[kind], ceilings, out);
}

ProgramTimes model_times(const Model *model) {
  ProgramTimes sum = {0};
  for (ProgramKind kind = 0; kind < PROGRAM_KIND_COUNT; kind++) {
    if (!model->programs[kind]) continue;
    ProgramTimes times = program_times(model->programs[kind]);
    sum.convolutions += times.convolutions;
    sum.others += times.others;
    sum.waiting += times.waiting;
    sum.runs += times.runs;
  }
  return sum;
}
