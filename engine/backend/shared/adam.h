/* The arithmetic of an Adam step (graph_adam in engine/graph/graph.h has the formulas and their
 * sources), for one step and for one element. */
#ifndef CELFORGE_ENGINE_BACKEND_SHARED_ADAM_H
#define CELFORGE_ENGINE_BACKEND_SHARED_ADAM_H

#include <math.h>

#include "base/host_device.h"

typedef struct AdamConstants {
  float beta1, beta2, epsilon, weight_decay;
} AdamConstants;

/* The views of the same names hold these, in this order. */
typedef struct AdamControls {
  float rate, clip, decay; /* clip 0: off; decay of the EMA */
  float largest;           /* norm; 0: any finite one */
} AdamControls;
typedef struct AdamCounters {
  float applied, skipped, in_a_row;
} AdamCounters;

/* What is the same for every element in one step. */
typedef struct AdamStep {
  float clip;  /* s */
  float keep;  /* 1 - rate decay */
  float rate1; /* rate / (1 - beta1^t) */
  float root2; /* 1 / sqrt(1 - beta2^t) */
  float ema;   /* d */
} AdamStep;

/* Whether a step with gradients of this norm is taken. */
HOST_DEVICE int adam_applies(float norm, AdamControls controls) {
  return isfinite(norm) && !(controls.largest > 0.0f && norm > controls.largest);
}

HOST_DEVICE AdamCounters adam_count(AdamCounters counters, int applies) {
  if (applies) {
    counters.applied += 1.0f;
    counters.in_a_row = 0.0f;
  } else {
    counters.skipped += 1.0f;
    counters.in_a_row += 1.0f;
  }
  return counters;
}

/* `applied`: updates before this one. */
HOST_DEVICE AdamStep adam_step(AdamConstants constants, float norm, AdamControls controls,
                          float applied) {
  const double rate = (double)controls.rate, clip = (double)controls.clip;
  const double t = (double)applied + 1.0;
  const double scale = clip > 0.0 ? clip / ((double)norm + 1e-6) : 1.0;
  AdamStep step;
  step.clip = (float)(scale < 1.0 ? scale : 1.0);
  step.keep = (float)(1.0 - rate * (double)constants.weight_decay);
  step.rate1 = (float)(rate / (1.0 - pow((double)constants.beta1, t)));
  step.root2 = (float)(1.0 / sqrt(1.0 - pow((double)constants.beta2, t)));
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
HOST_DEVICE float adam_parameter(AdamConstants constants, AdamStep step, float p, float m, float v) {
  return step.keep * p - step.rate1 * m / (sqrtf(v) * step.root2 + constants.epsilon);
}
HOST_DEVICE float adam_average(AdamStep step, float ema, float p) {
  return step.ema * ema + (1.0f - step.ema) * p;
}

#endif
