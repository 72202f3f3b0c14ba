/* The numbers of a step and their asynchronous way back to the host. */
#include <math.h>

#include "trainer/gan/internal.h"

const char *gan_metric_name(Metric metric) {
  static const char *const NAMES[METRIC_COUNT] = {
      [METRIC_LOSS_G] = "loss/g",
      [METRIC_LOSS_D] = "loss/d",
      [METRIC_L1] = "loss/l1",
      [METRIC_GRADIENT] = "loss/gradient",
      [METRIC_ADVERSARIAL] = "loss/adversarial",
      [METRIC_FEATURE_MATCHING] = "loss/feature_matching",
      [METRIC_PERCEPTUAL] = "loss/perceptual",
      [METRIC_TEMPORAL] = "loss/temporal",
      [METRIC_TOTAL_VARIATION] = "loss/total_variation",
      [METRIC_PATCH_NCE] = "loss/patch_nce",
      [METRIC_COLOR] = "loss/color",
      [METRIC_IDENTITY] = "loss/identity",
      [METRIC_MOTION_CONSISTENCY] = "loss/motion_consistency",
      [METRIC_FLOW_CONSISTENCY] = "loss/flow_consistency",
      [METRIC_CONTENT] = "loss/content",
      [METRIC_STYLE] = "loss/style",
      [METRIC_GRADIENT_PENALTY] = "loss/gradient_penalty",
      [METRIC_R1] = "loss/r1",
      [METRIC_REAL_SIGN] = "augment/real_sign",
      [METRIC_NORM_G] = "grad_norm/g",
      [METRIC_NORM_D] = "grad_norm/d",
  };
  return NAMES[metric];
}

static Status network_readback_new(const Parameters *parameters, Backend *backend,
                                   NetworkReadback *out, Error *error) {
  Status status = OK;
  TRY(backend->readback_new(backend, sizeof(AdamCounters), &out->counters, error));
  TRY(backend->readback_new(backend, (size_t)parameters->count * sizeof(float), &out->squares,
                            error));
done:
  return status;
}

static void network_readback_free(Backend *backend, NetworkReadback *readback) {
  if (readback->counters) backend->readback_free(backend, readback->counters);
  if (readback->squares) backend->readback_free(backend, readback->squares);
}

static Status network_readback_start(const Parameters *parameters, Backend *backend,
                                     const NetworkReadback *readback, Error *error) {
  Status status = OK;
  if (!readback->counters) goto done;
  TRY(backend->readback_start(backend, readback->counters, parameters->counters.data, error));
  TRY(backend->readback_start(backend, readback->squares, parameters->squared_norms.data, error));
done:
  return status;
}

static Status network_readback_wait(const Parameters *parameters, Backend *backend,
                                    const NetworkReadback *readback, NetworkResult *out,
                                    Error *error) {
  Status status = OK;
  const void *data = NULL;
  out->worst_parameter = -1;
  if (!readback->counters) goto done;
  TRY(backend->readback_wait(backend, readback->counters, &data, error));
  const AdamCounters *counters = data;
  out->applied = counters->applied;
  out->skipped = counters->skipped;
  out->skipped_in_a_row = counters->skipped_in_a_row;
  TRY(backend->readback_wait(backend, readback->squares, &data, error));
  out->worst_parameter = parameters_worst_gradient(parameters, data);
done:
  return status;
}

Status result_slot_allocate(Gan *gan, ResultSlot *slot, Error *error) {
  Status status = OK;
  Backend *backend = gan->backend;
  TRY(backend->readback_new(backend, METRIC_COUNT * sizeof(float), &slot->metrics, error));
  TRY(network_readback_new(&gan->generator, backend, &slot->generator, error));
  if (gan->adversarial)
    TRY(network_readback_new(&gan->discriminator, backend, &slot->discriminator, error));
done:
  return status;
}

void result_slot_free(Backend *backend, ResultSlot *slot) {
  if (slot->metrics) backend->readback_free(backend, slot->metrics);
  network_readback_free(backend, &slot->generator);
  network_readback_free(backend, &slot->discriminator);
}

Status result_readback_start(Gan *gan, const StepControls *controls, Error *error) {
  Status status = OK;
  Backend *backend = gan->backend;
  ResultSlot *slot = &gan->results[gan->steps++ % RESULT_SLOTS];
  for (Metric metric = 0; metric < METRIC_COUNT; metric++)
    slot->computed[metric] = gan_computes_metric(gan, controls, metric);
  TRY(backend->readback_start(backend, slot->metrics, gan->metrics.data, error));
  TRY(network_readback_start(&gan->generator, backend, &slot->generator, error));
  TRY(network_readback_start(&gan->discriminator, backend, &slot->discriminator, error));
done:
  return status;
}

Status gan_step_result(Gan *gan, int ago, StepResult *out, Error *error) {
  Status status = OK;
  Backend *backend = gan->backend;
  const void *data = NULL;
  *out = (StepResult){0};
  for (int i = 0; i < METRIC_COUNT; i++) out->metrics[i] = (double)NAN;
  out->generator.worst_parameter = out->discriminator.worst_parameter = -1;
  if (ago < 0 || ago >= RESULT_SLOTS || ago >= gan->steps) goto done;
  ResultSlot *slot = &gan->results[(gan->steps - 1 - ago) % RESULT_SLOTS];
  TRY(backend->readback_wait(backend, slot->metrics, &data, error));
  const float *values = data;
  for (int i = 0; i < METRIC_COUNT; i++) {
    out->computed[i] = slot->computed[i];
    if (slot->computed[i]) out->metrics[i] = (double)values[i];
  }
  TRY(network_readback_wait(&gan->generator, backend, &slot->generator, &out->generator, error));
  TRY(network_readback_wait(&gan->discriminator, backend, &slot->discriminator, &out->discriminator,
                            error));
done:
  return status;
}

const char *step_result_nonfinite_loss(const StepResult *result) {
  for (Metric metric = 0; metric < METRIC_COUNT; metric++) {
    bool is_loss = metric != METRIC_LOSS_G && metric < METRIC_REAL_SIGN;
    if (is_loss && result->computed[metric] && !isfinite(result->metrics[metric]))
      return gan_metric_name(metric);
  }
  return NULL;
}
