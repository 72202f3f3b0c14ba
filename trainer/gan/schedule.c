#include <math.h>

#include "trainer/gan/gan.h"

static double lr_factor(const Config *config, int64_t step) {
  const OptimConfig *optim = &config->optim;
  double total = (double)config->train.steps, start = optim->lr_decay_start * total;
  double factor = 1;
  if (optim->lr_warmup_steps > 0 && step < optim->lr_warmup_steps)
    factor = (double)(step + 1) / (double)optim->lr_warmup_steps;
  if (optim->lr_schedule == SCHEDULE_CONSTANT || (double)step < start || total <= start)
    return factor;
  double progress = fmin(1, ((double)step - start) / (total - start));
  double remaining =
      optim->lr_schedule == SCHEDULE_LINEAR ? 1 - progress : 0.5 * (1 + cos(acos(-1) * progress));
  return factor * (optim->lr_min + (1 - optim->lr_min) * remaining);
}

/* Lazy R1 falls on the last step of each interval, where metrics are likely to be logged too. */
static bool applies_r1(const Config *config, int64_t gan_step) {
  const LossConfig *loss = &config->loss;
  return loss->r1 > 0 && loss->r1_interval > 1 && (gan_step + 1) % loss->r1_interval == 0;
}

StepControls schedule_at(const Config *config, int64_t step) {
  const OptimConfig *optim = &config->optim;
  double factor = lr_factor(config, step), ramp = 1;
  int64_t gan_step = step - optim->pretrain_steps;
  if (optim->adversarial_ramp_steps > 0 && gan_step < optim->adversarial_ramp_steps)
    ramp = fmax(0, (double)(gan_step + 1)) / (double)optim->adversarial_ramp_steps;
  return (StepControls){
      .kind = gan_step < 0 ? STEP_PRETRAIN : STEP_GAN,
      .apply_r1 = gan_step >= 0 && applies_r1(config, gan_step),
      .generator_lr = (float)(optim->generator_lr * factor),
      .discriminator_lr = (float)(optim->discriminator_lr * factor),
      .adversarial_weight = (float)(config->loss.adversarial_weight * ramp),
      .augment_probability = (float)config->augment.probability,
  };
}

double schedule_r1_fraction(const Config *config, int64_t begin, int64_t end) {
  int64_t count = 0;
  for (int64_t step = begin; step < end; step++) count += schedule_at(config, step).apply_r1;
  return end > begin ? (double)count / (double)(end - begin) : 0;
}
