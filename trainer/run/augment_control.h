/* The probability of the discriminators' augmentation: fixed, or adapted to how far they overfit
 * (ADA: Karras, Aittala, Hellsten, Laine, Lehtinen, Aila 2020, "Training Generative Adversarial
 * Networks with Limited Data", section 3). */
#ifndef CELFORGE_TRAINER_RUN_AUGMENT_CONTROL_H
#define CELFORGE_TRAINER_RUN_AUGMENT_CONTROL_H

#include "trainer/config/config.h"

enum { AUGMENT_CONTROL_INTERVAL = 4 }; /* steps between adaptations */

/* Returns the probability of the first step. */
double augment_control_initial(const Config *config);
/* True if the probability is adapted after this many steps of the run. */
bool augment_control_is_due(const Config *config, int64_t steps);
/* Returns the probability after an adaptation: towards more augmentation where `real_sign`, the
 * mean sign of the discriminators' output on targets, is above augment.target, else towards less;
 * at least 0, at most augment.max_probability. Unchanged if `real_sign` is not finite (a skipped or
 * a pretraining step), or equals augment.target up to rounding: all numbers of ranks adapt alike.
 */
double augment_control_adapt(const Config *config, double probability, double real_sign);

#endif
