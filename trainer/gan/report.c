/* The cost and the profile of a step, as numbers and as text. */
#include "trainer/gan/internal.h"

/* The average number of runs of a program per GAN step, where the fraction `r1` of the steps has
 * R1. */
static double runs_per_step(const Gan *gan, ProgramKind kind, double r1) {
  double micro = gan->options.micro_batches - 1;
  if (!gan->programs[kind]) return 0;
  switch (kind) {
  case PROGRAM_STEP:
  case PROGRAM_D_LAST:
    return 1 - r1;
  case PROGRAM_STEP_R1:
  case PROGRAM_D_LAST_R1:
    return r1;
  case PROGRAM_D_MICRO:
    return (1 - r1) * micro;
  case PROGRAM_D_MICRO_R1:
    return r1 * micro;
  case PROGRAM_G_MICRO:
    return micro;
  case PROGRAM_G_LAST:
  case PROGRAM_D_UPDATE:
  case PROGRAM_G_UPDATE:
    return 1;
  case PROGRAM_PRETRAIN:
  case PROGRAM_PRETRAIN_MICRO:
  case PROGRAM_PRETRAIN_LAST:
  case PROGRAM_PRETRAIN_UPDATE:
  case PROGRAM_KIND_COUNT:
    break;
  }
  return 0;
}

ProgramCost gan_cost(const Gan *gan, double r1) {
  ProgramCost sum = {0};
  for (ProgramKind kind = 0; kind < PROGRAM_KIND_COUNT; kind++) {
    double runs = runs_per_step(gan, kind, r1);
    if (runs == 0) continue;
    ProgramCost cost = program_cost(gan->programs[kind]);
    sum.flops += runs * cost.flops;
    sum.convolution_flops += runs * cost.convolution_flops;
    sum.bytes += runs * cost.bytes;
    if (cost.workspace_bytes > sum.workspace_bytes) sum.workspace_bytes = cost.workspace_bytes;
  }
  sum.arena_bytes = arena_bytes(gan->arena);
  return sum;
}

static void print_parameters(const Parameters *parameters, Text *out) {
  if (parameters->total == 0) return;
  int64_t used = 0;
  for (int i = 0; i < parameters->count; i++) used += parameters->items[i].count;
  text_append(out, "%s: %d parameters, ", parameters->network, parameters->count);
  text_append_count(out, (double)used);
  text_append(out, " values\n");
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
  text_append(out, " values\n");
}

static void print_cost(const ProgramCost *cost, Text *out) {
  text_append_count(out, cost->flops);
  text_append(out, "FLOP, ");
  text_append_size(out, cost->bytes);
  text_append(out, " moved");
}

void gan_print_plan(const Gan *gan, Text *out) {
  text_append(out, "device: %s\n\n", gan->backend->describe(gan->backend));
  print_parameters(&gan->generator, out);
  print_parameters(&gan->discriminator, out);
  print_spectral(&gan->discriminator, out);
  print_parameters(&gan->projection, out);
  print_parameters(&gan->perceptual, out);
  for (ProgramKind kind = 0; kind < PROGRAM_KIND_COUNT; kind++) {
    if (!gan->programs[kind]) continue;
    text_append(out, "\n");
    program_print(gan->programs[kind], out);
  }
  ProgramCost cost = gan_cost(gan, 0), cost_with_r1 = gan_cost(gan, 1);
  text_append(out, "\none step of this rank: ");
  print_cost(&cost, out);
  if (gan->programs[PROGRAM_STEP_R1] || gan->programs[PROGRAM_D_LAST_R1]) {
    text_append(out, " (with R1, every %lld steps: ", (long long)gan->config->loss.r1_interval);
    print_cost(&cost_with_r1, out);
    text_append(out, ")");
  }
  text_append(out, "; arena ");
  text_append_size(out, (double)cost.arena_bytes);
  text_append(out, "\n");
}

void gan_profile(Gan *gan, bool on) {
  for (int i = 0; i < PROGRAM_KIND_COUNT; i++)
    if (gan->programs[i]) program_profile(gan->programs[i], on);
}

void gan_print_profile(const Gan *gan, const DevicePeaks *peaks, Text *out) {
  for (ProgramKind kind = 0; kind < PROGRAM_KIND_COUNT; kind++)
    if (runs_per_step(gan, kind, 0) > 0) program_print_profile(gan->programs[kind], peaks, out);
}

ProgramTimes gan_times(const Gan *gan) {
  ProgramTimes sum = {0};
  for (ProgramKind kind = 0; kind < PROGRAM_KIND_COUNT; kind++) {
    if (!gan->programs[kind]) continue;
    ProgramTimes times = program_times(gan->programs[kind]);
    sum.convolutions += times.convolutions;
    sum.others += times.others;
    sum.waiting += times.waiting;
    sum.runs += times.runs;
  }
  return sum;
}
