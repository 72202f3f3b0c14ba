#include <math.h>

#include "trainer/gan/gan.h"

static double rate_factor(const Config *config, int64_t step) {
  const OptimConfig *optim = &config->optim;
  double total = (double)config->train.steps, from = optim->decay_from * total;
  double factor = 1;
  if (optim->rate_warmup > 0 && step < optim->rate_warmup)
    factor = (double)(step + 1) / (double)optim->rate_warmup;
  if (optim->schedule == SCHEDULE_CONSTANT || (double)step < from || total <= from) return factor;
  double done = fmin(1, ((double)step - from) / (total - from));
  double left = optim->schedule == SCHEDULE_LINEAR ? 1 - done : 0.5 * (1 + cos(acos(-1) * done));
  return factor * (optim->rate_floor + (1 - optim->rate_floor) * left);
}

/* Now and then, with steps without R1 between; on the steps that metrics are likely to be of. */
static bool regularises(const Config *config, int64_t since_warmup) {
  const LossConfig *loss = &config->loss;
  return loss->r1 > 0 && loss->r1_every > 1 && (since_warmup + 1) % loss->r1_every == 0;
}

StepControls schedule_at(const Config *config, int64_t step) {
  const OptimConfig *optim = &config->optim;
  double factor = rate_factor(config, step), fade = 1;
  int64_t since = step - optim->l1_warmup;
  if (optim->fade_in > 0 && since < optim->fade_in)
    fade = fmax(0, (double)(since + 1)) / (double)optim->fade_in;
  return (StepControls){
      .kind = since < 0 ? STEP_WARMUP : STEP_GAN,
      .regularise = since >= 0 && regularises(config, since),
      .generator_rate = (float)(optim->generator_rate * factor),
      .discriminator_rate = (float)(optim->discriminator_rate * factor),
      .adversarial_weight = (float)(config->loss.adversarial_weight * fade),
  };
}

double schedule_regularised(const Config *config, int64_t begin, int64_t end) {
  int64_t count = 0;
  for (int64_t step = begin; step < end; step++) count += schedule_at(config, step).regularise;
  return end > begin ? (double)count / (double)(end - begin) : 0;
}
