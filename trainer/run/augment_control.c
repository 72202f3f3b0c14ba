#include "trainer/run/augment_control.h"

#include <math.h>

bool augment_control_is_due(const Config *config, int64_t steps) {
  return config->augment.mode == AUGMENT_ADAPTIVE && steps % AUGMENT_CONTROL_INTERVAL == 0;
}

double augment_control_adapt(const Config *config, double probability, double real_sign) {
  double clips = AUGMENT_CONTROL_INTERVAL * (double)config->train.global_batch;
  double change = clips / (double)config->augment.ramp_clips;
  if (!isfinite(real_sign)) return probability;
  if (real_sign > config->augment.target) probability += change;
  if (real_sign < config->augment.target) probability -= change;
  return fmin(fmax(probability, 0), config->augment.max_probability);
}
