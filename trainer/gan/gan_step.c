/* Runs a planned step: uploads the inputs and runs the programs of each micro-batch. */
#include "trainer/gan/internal.h"

static Status upload_controls(Gan *gan, const StepControls *controls, Error *error) {
  const OptimConfig *optim = &gan->config->optim;
  float clip = (float)optim->clip;
  const float values[CONTROL_COUNT] = {
      [CONTROL_GENERATOR] = controls->generator_lr,
      [CONTROL_GENERATOR + 1] = clip,
      [CONTROL_GENERATOR + 2] = (float)optim->ema,
      [CONTROL_GENERATOR + 3] = controls->generator_max_norm,
      [CONTROL_DISCRIMINATOR] = controls->discriminator_lr,
      [CONTROL_DISCRIMINATOR + 1] = clip,
      [CONTROL_DISCRIMINATOR + 3] = controls->discriminator_max_norm,
      [CONTROL_ADVERSARIAL_WEIGHT] = controls->adversarial_weight,
  };
  static const float zeros[METRIC_COUNT];
  Status status = buffer_upload(&gan->controls, 0, values, CONTROL_COUNT, error);
  if (status != OK) return status;
  return buffer_upload(&gan->metrics, 0, zeros, METRIC_COUNT, error);
}

static Status upload_batch(Gan *gan, const StepControls *controls, const MicroBatch *batch,
                           Error *error) {
  Status status = OK;
  TRY(buffer_upload(&gan->source, 0, batch->source, gan->source.count, error));
  TRY(buffer_upload(&gan->target, 0, batch->target, gan->target.count, error));
  if (gan->smoothed.count > 0)
    TRY(buffer_upload(&gan->smoothed, 0, batch->smoothed, gan->smoothed.count, error));
  if (gan->flow.count > 0) {
    TRY(buffer_upload(&gan->flow, 0, batch->flow, gan->flow.count, error));
    TRY(buffer_upload(&gan->flow_mask, 0, batch->flow_mask, gan->flow_mask.count, error));
  }
  TRY(step_inputs_upload(gan, batch->samples, (double)controls->augment_probability, error));
done:
  return status;
}

/* One half of a step: its programs, and the accumulation trees of the networks it updates. */
typedef struct NetworkPass {
  ProgramKind micro, last, update;
  AccumulationTree *trees[2]; /* the second may be NULL */
} NetworkPass;

/* Adds the gradients of micro-batch `index` to the trees. Like a binary counter: adding 1 to the
 * index carries into level ctz(index + 1). */
static Status accumulate(const NetworkPass *pass, int index, Error *error) {
  Status status = OK;
  int level = __builtin_ctz((unsigned)index + 1);
  for (int i = 0; i < 2; i++)
    if (pass->trees[i]) TRY(program_run(pass->trees[i]->merge[level], error));
done:
  return status;
}

static Status run_pass(Gan *gan, const NetworkPass *pass, const StepControls *controls,
                       const MicroBatch *batches, Error *error) {
  Status status = OK;
  int count = gan->options.micro_batches;
  for (int i = 0; i < count; i++) {
    bool last = i == count - 1;
    TRY(upload_batch(gan, controls, &batches[i], error));
    TRY(program_run(gan->programs[last ? pass->last : pass->micro], error));
    if (!last) TRY(accumulate(pass, i, error));
  }
  TRY(program_run(gan->programs[pass->update], error));
done:
  return status;
}

Status gan_step(Gan *gan, const StepControls *controls, const MicroBatch *batches, Error *error) {
  Status status = OK;
  bool pretrain = controls->kind == STEP_PRETRAIN;
  bool projects = !pretrain && gan->projection.total > 0;
  TRY(upload_controls(gan, controls, error));
  if (gan->options.micro_batches == 1) {
    TRY(upload_batch(gan, controls, &batches[0], error));
    ProgramKind kind = controls->apply_r1 ? PROGRAM_STEP_R1 : PROGRAM_STEP;
    TRY(program_run(gan->programs[pretrain ? PROGRAM_PRETRAIN : kind], error));
    return result_readback_start(gan, controls, error);
  }
  NetworkPass discriminator = {controls->apply_r1 ? PROGRAM_D_MICRO_R1 : PROGRAM_D_MICRO,
                               controls->apply_r1 ? PROGRAM_D_LAST_R1 : PROGRAM_D_LAST,
                               PROGRAM_D_UPDATE,
                               {&gan->discriminator_accumulation, NULL}};
  NetworkPass generator = {
      pretrain ? PROGRAM_PRETRAIN_MICRO : PROGRAM_G_MICRO,
      pretrain ? PROGRAM_PRETRAIN_LAST : PROGRAM_G_LAST,
      pretrain ? PROGRAM_PRETRAIN_UPDATE : PROGRAM_G_UPDATE,
      {&gan->generator_accumulation, projects ? &gan->projection_accumulation : NULL}};
  if (gan->adversarial && !pretrain) TRY(run_pass(gan, &discriminator, controls, batches, error));
  TRY(run_pass(gan, &generator, controls, batches, error));
  TRY(result_readback_start(gan, controls, error));
done:
  return status;
}
