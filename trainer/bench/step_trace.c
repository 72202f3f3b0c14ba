#include "trainer/bench/step_trace.h"

#include <math.h>
#include <stdio.h>

#include "trainer/gan/internal.h"

/* Appends the ops of a program. All-reduces that are still pending at its end are waited for before
 * the first op of the next program. */
static void append_program(const Gan *gan, const Program *program, StepTrace *trace) {
  bool halves = gan->config->comm.gradients == PRECISION_BF16, pending = false;
  if (!program) return;
  int count = program_op_count(program);
  for (int i = 0; i < count; i++) {
    ProgramOp op = program_op(program, i);
    TraceOp out = {.seconds = op.seconds,
                   .flops = op.flops,
                   .bytes = op.bytes,
                   .reduces = halves ? op.all_reduce_bytes / 2 : op.all_reduce_bytes,
                   .waits = op.waits};
    snprintf(out.name, sizeof out.name, "%s", op.name);
    pending = (pending && !op.waits) || op.all_reduce_bytes > 0;
    step_trace_append(trace, &out);
  }
  if (!pending) return;
  TraceOp end = {.name = "end of program", .waits = true};
  step_trace_append(trace, &end);
}

/* As trainer/gan/gan_step.c runs one half of a step in micro-batches. */
static void append_half(const Gan *gan, ProgramKind micro, ProgramKind last, ProgramKind update,
                        const AccumulationTree *const trees[2], StepTrace *trace) {
  for (int i = 0; i < gan->options.micro_batches - 1; i++) {
    append_program(gan, gan->programs[micro], trace);
    for (int k = 0; k < 2; k++)
      if (trees[k]) append_program(gan, trees[k]->merge[__builtin_ctz((unsigned)i + 1)], trace);
  }
  append_program(gan, gan->programs[last], trace);
  append_program(gan, gan->programs[update], trace);
}

/* Master weights, both moments; the generator's average. */
static double state_bytes(const Gan *gan) {
  double generator = (double)gan->generator.total;
  double discriminator = (double)gan->discriminator.total;
  double projection = (double)gan->projection.total;
  return (4 * generator + 3 * discriminator + 3 * projection) * sizeof(float);
}

void step_trace_of_model(const Gan *gan, StepTrace *trace) {
  const Config *config = gan->config;
  const ClipShape *shape = &gan->options.shape;
  int micro_batches = gan->options.micro_batches;
  *trace = (StepTrace){
      .bf16 = config->train.precision == PRECISION_BF16,
      .clips = config->train.micro_batch * micro_batches,
      .threads = config->train.threads > 0 ? config->train.threads : 1,
      .clip_bytes = (double)(clip_source_bytes(shape) + clip_target_bytes(shape)),
      .state_bytes = state_bytes(gan),
      .batches_ahead = fmax(1, (double)config->data.prefetch / micro_batches),
      .checkpoint_every = (double)config->checkpoint.every,
      .overlap = config->comm.overlap,
  };
  /* With R1 every N steps, the trace is that of a step without it. */
  if (micro_batches == 1) {
    append_program(gan, gan->programs[PROGRAM_STEP], trace);
  } else {
    if (gan->adversarial)
      append_half(gan, PROGRAM_D_MICRO, PROGRAM_D_LAST, PROGRAM_D_UPDATE,
                  (const AccumulationTree *[]){&gan->discriminator_accumulation, NULL}, trace);
    append_half(gan, PROGRAM_G_MICRO, PROGRAM_G_LAST, PROGRAM_G_UPDATE,
                (const AccumulationTree *[]){
                    &gan->generator_accumulation,
                    gan->projection.total > 0 ? &gan->projection_accumulation : NULL},
                trace);
  }
  for (int i = 0; i < trace->count; i++)
    trace->measured = trace->measured || trace->ops[i].seconds > 0;
}
