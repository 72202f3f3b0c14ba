#include "trainer/run/augment_control.h"

#include <math.h>

bool augment_control_is_due(const Config *config, int64_t steps) {
  return config->augment.mode == AUGMENT_ADAPTIVE && steps % AUGMENT_CONTROL_INTERVAL == 0;
}

double augment_control_initial(const Config *config) {
  const AugmentConfig *augment = &config->augment;
  if (augment->mode != AUGMENT_ADAPTIVE) return augment->probability;
  return fmin(augment->probability, augment->max_probability);
}

double augment_control_adapt(const Config *config, double probability, double real_sign) {
  /* The mean of signs is rounded otherwise on another number of ranks. */
  static const double ROUNDING = 1e-5;
  double clips = AUGMENT_CONTROL_INTERVAL * (double)config->train.global_batch;
  double change = clips / (double)config->augment.ramp_clips;
  if (!isfinite(real_sign)) return probability;
  if (real_sign > config->augment.target + ROUNDING) probability += change;
  if (real_sign < config->augment.target - ROUNDING) probability -= change;
  return fmin(fmax(probability, 0), config->augment.max_probability);
}
