#include <math.h>

#include "trainer/gan/gan.h"

static double rate_factor(const Config *config, int64_t step) {
  const OptimConfig *optim = &config->optim;
  double total = (double)config->train.steps, from = optim->lr_decay_start * total;
  double factor = 1;
  if (optim->lr_warmup_steps > 0 && step < optim->lr_warmup_steps)
    factor = (double)(step + 1) / (double)optim->lr_warmup_steps;
  if (optim->lr_schedule == SCHEDULE_CONSTANT || (double)step < from || total <= from)
    return factor;
  double done = fmin(1, ((double)step - from) / (total - from));
  double left = optim->lr_schedule == SCHEDULE_LINEAR ? 1 - done : 0.5 * (1 + cos(acos(-1) * done));
  return factor * (optim->lr_min + (1 - optim->lr_min) * left);
}

/* Now and then, with steps without R1 between; on the steps that metrics are likely to be of. */
static bool regularises(const Config *config, int64_t since_warmup) {
  const LossConfig *loss = &config->loss;
  return loss->r1 > 0 && loss->r1_interval > 1 && (since_warmup + 1) % loss->r1_interval == 0;
}

StepControls schedule_at(const Config *config, int64_t step) {
  const OptimConfig *optim = &config->optim;
  double factor = rate_factor(config, step), fade = 1;
  int64_t since = step - optim->pretrain_steps;
  if (optim->adversarial_ramp_steps > 0 && since < optim->adversarial_ramp_steps)
    fade = fmax(0, (double)(since + 1)) / (double)optim->adversarial_ramp_steps;
  return (StepControls){
      .kind = since < 0 ? STEP_WARMUP : STEP_GAN,
      .regularise = since >= 0 && regularises(config, since),
      .generator_lr = (float)(optim->generator_lr * factor),
      .discriminator_lr = (float)(optim->discriminator_lr * factor),
      .adversarial_weight = (float)(config->loss.adversarial_weight * fade),
  };
}

double schedule_regularised(const Config *config, int64_t begin, int64_t end) {
  int64_t count = 0;
  for (int64_t step = begin; step < end; step++) count += schedule_at(config, step).regularise;
  return end > begin ? (double)count / (double)(end - begin) : 0;
}
