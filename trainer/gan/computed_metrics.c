/* Which metrics a step computes, and with them which losses it builds. */
#include "trainer/gan/internal.h"

bool gan_augments(const Gan *gan) {
  return gan->adversarial && gan->config->augment.mode != AUGMENT_NONE;
}

bool gan_computes_metric(const Gan *gan, const StepControls *controls, Metric metric) {
  const LossConfig *loss = &gan->config->loss;
  bool adversarial_step = controls->kind == STEP_GAN;
  switch (metric) {
  case METRIC_LOSS_G:
  case METRIC_NORM_G:
    return true;
  case METRIC_L1:
    return loss->l1 > 0;
  case METRIC_GRADIENT:
    return adversarial_step && loss->gradient > 0;
  case METRIC_LOSS_D:
  case METRIC_NORM_D:
  case METRIC_ADVERSARIAL:
    return adversarial_step && gan->adversarial;
  case METRIC_FEATURE_MATCHING:
    return adversarial_step && gan->adversarial && loss->feature_matching > 0;
  case METRIC_PERCEPTUAL:
    return adversarial_step && loss->perceptual > 0;
  case METRIC_TEMPORAL:
    return adversarial_step && loss->temporal > 0 && gan->options.shape.frames > 1;
  case METRIC_TOTAL_VARIATION:
    return adversarial_step && loss->total_variation > 0;
  case METRIC_GRADIENT_PENALTY:
    return adversarial_step && gan->adversarial && loss->adversarial == ADVERSARIAL_WGAN_GP &&
           loss->gradient_penalty > 0;
  case METRIC_R1:
    return adversarial_step && loss->r1 > 0 && (controls->apply_r1 || loss->r1_interval == 1);
  case METRIC_REAL_SIGN:
    return adversarial_step && gan_augments(gan);
  case METRIC_PATCH_NCE:
    return adversarial_step && loss->patch_nce > 0;
  case METRIC_COLOR:
    return adversarial_step && loss->color > 0;
  case METRIC_IDENTITY:
    return adversarial_step && loss->identity > 0;
  case METRIC_MOTION_CONSISTENCY:
    return adversarial_step && loss->motion_consistency > 0;
  case METRIC_FLOW_CONSISTENCY:
    return adversarial_step && loss->flow_consistency > 0 && gan->options.shape.frames > 1;
  case METRIC_CONTENT:
    return adversarial_step && loss->content > 0;
  case METRIC_STYLE:
    return adversarial_step && loss->style > 0;
  case METRIC_COUNT:
    break;
  }
  return false;
}
