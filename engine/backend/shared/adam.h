/* The arithmetic of an Adam step, once per step and once per element; graph_adam in
 * engine/graph/graph.h has the formulas and their sources. */
#ifndef CELFORGE_ENGINE_BACKEND_SHARED_ADAM_H
#define CELFORGE_ENGINE_BACKEND_SHARED_ADAM_H

#include <math.h>
#include <stdint.h>

#include "base/host_device.h"

typedef struct AdamConstants {
  float beta1, beta2, epsilon, weight_decay;
} AdamConstants;

/* The memory of the op's views of the same names: their elements in order. */
typedef struct AdamControls {
  float rate;     /* learning rate */
  float clip;     /* largest norm of the gradients that are applied; 0: no clipping */
  float decay;    /* of the EMA */
  float max_norm; /* a step with a larger norm of the gradients is skipped; 0: no limit */
} AdamControls;
typedef struct AdamCounters {
  int64_t applied, skipped, skipped_in_a_row; /* updates */
} AdamCounters;
enum {
  ADAM_CONTROL_COUNT = sizeof(AdamControls) / sizeof(float),
  ADAM_COUNTER_COUNT = sizeof(AdamCounters) / sizeof(int64_t),
};

/* Values that all elements of a step share. */
typedef struct AdamStep {
  float gradient_scale;     /* s: factor of the gradients, 1 without clipping */
  float keep;               /* 1 - lr * weight_decay: factor of the parameters */
  float step_size;          /* lr / (1 - beta1^t) */
  float inverse_root_bias2; /* 1 / sqrt(1 - beta2^t) */
  float ema;                /* d */
} AdamStep;

/* True if a step whose gradients have this global norm is applied, false if it is skipped. */
HOST_DEVICE int adam_applies(float norm, AdamControls controls) {
  return isfinite(norm) && !(controls.max_norm > 0.0f && norm > controls.max_norm);
}

HOST_DEVICE AdamCounters adam_count(AdamCounters counters, int applies) {
  if (applies) {
    counters.applied++;
    counters.skipped_in_a_row = 0;
  } else {
    counters.skipped++;
    counters.skipped_in_a_row++;
  }
  return counters;
}

/* `applied` is the number of updates before this one. In double: exact up to 2^53 of them. */
HOST_DEVICE AdamStep adam_step(AdamConstants constants, float norm, AdamControls controls,
                               int64_t applied) {
  const double rate = (double)controls.rate, clip = (double)controls.clip;
  const double t = (double)applied + 1.0;
  const double scale = clip > 0.0 ? clip / ((double)norm + 1e-6) : 1.0;
  AdamStep step;
  step.gradient_scale = (float)(scale < 1.0 ? scale : 1.0);
  step.keep = (float)(1.0 - rate * (double)constants.weight_decay);
  step.step_size = (float)(rate / (1.0 - pow((double)constants.beta1, t)));
  step.inverse_root_bias2 = (float)(1.0 / sqrt(1.0 - pow((double)constants.beta2, t)));
  step.ema = controls.decay;
  return step;
}

HOST_DEVICE float adam_moment1(AdamConstants constants, float m, float g) {
  return constants.beta1 * m + (1.0f - constants.beta1) * g;
}
HOST_DEVICE float adam_moment2(AdamConstants constants, float v, float g) {
  return constants.beta2 * v + (1.0f - constants.beta2) * (g * g);
}
/* `m` and `v` are the new moments. */
HOST_DEVICE float adam_parameter(AdamConstants constants, AdamStep step, float p, float m,
                                 float v) {
  return step.keep * p -
         step.step_size * m / (sqrtf(v) * step.inverse_root_bias2 + constants.epsilon);
}
HOST_DEVICE float adam_ema_update(AdamStep step, float ema, float p) {
  return step.ema * ema + (1.0f - step.ema) * p;
}

#endif
