/* The GAN and its training step.
 *
 * A step computes, in this order: the generator's forward pass; the discriminators' forward and
 * backward pass on [real; fake], their Adam update (and one power iteration of spectral norm); the
 * updated discriminators on the same fakes; the generator's backward pass and its Adam update; the
 * metrics. With one micro-batch per step all of that is one program. With several, each network's
 * half runs once per micro-batch and its update is a program of its own: gradients are accumulated
 * in a tree that the order of the micro-batches fixes, and the program of the last micro-batch adds
 * the partial sums and all-reduces. So 1, 2, 4, ... ranks with as many threads each produce the
 * same bytes. During optim.pretrain_steps only the generator is trained, on L1.
 *
 * On the host, frames are u8 and everything else is f32; buffers belong to the backend. */
#ifndef CELFORGE_TRAINER_GAN_GAN_H
#define CELFORGE_TRAINER_GAN_GAN_H

#include "data/dataset/dataset.h"
#include "engine/program/program.h"
#include "trainer/gan/networks.h"

/* The numbers of one step, named by gan_metric_name in metrics.jsonl. */
typedef enum Metric {
  METRIC_LOSS_G,
  METRIC_LOSS_D,
  METRIC_L1,
  METRIC_GRADIENT,
  METRIC_ADVERSARIAL,
  METRIC_FEATURE_MATCHING,
  METRIC_PERCEPTUAL,
  METRIC_TEMPORAL,
  METRIC_TOTAL_VARIATION,
  METRIC_PATCH_NCE,
  METRIC_COLOR,
  METRIC_IDENTITY,
  METRIC_MOTION_CONSISTENCY,
  METRIC_FLOW_CONSISTENCY,
  METRIC_CONTENT,
  METRIC_STYLE,
  METRIC_GRADIENT_PENALTY,
  METRIC_R1,
  METRIC_REAL_SIGN, /* discriminator_real_sign; only with augment.mode */
  METRIC_NORM_G,    /* global gradient norm, before clipping */
  METRIC_NORM_D,
  METRIC_COUNT,
} Metric;
const char *gan_metric_name(Metric metric); /* "loss/g" */

typedef enum StepKind { STEP_GAN, STEP_PRETRAIN } StepKind;

/* The settings that change from step to step; schedule_at computes them. */
typedef struct StepControls {
  StepKind kind;
  bool apply_r1; /* lazy R1: set every loss.r1_interval steps; false where every step has R1 */
  float generator_lr, discriminator_lr, adversarial_weight;
  float augment_probability; /* of DiffAugment; schedule_at sets augment.probability */
  /* A larger gradient norm skips the network's update; 0: only a non-finite one does. */
  float generator_max_norm, discriminator_max_norm;
} StepControls;
/* Returns the controls of step `step` (0: the first) of a run. */
StepControls schedule_at(const Config *config, int64_t step);
/* Returns the fraction of the steps `begin` to `end` - 1 that have StepControls.apply_r1. */
double schedule_r1_fraction(const Config *config, int64_t begin, int64_t end);

typedef struct Gan Gan;

typedef struct GanOptions {
  ClipShape shape;   /* of one sample, after cropping */
  int micro_batches; /* computed per step by this rank */
  bool all_reduce;   /* average the gradients over the ranks; does nothing without collectives */
  const Collectives *collectives;
} GanOptions;

/* Builds the graphs and plans the programs; allocates no large memory. `config` and `backend` must
 * outlive the result. */
Status gan_plan(const Config *config, Backend *backend, const GanOptions *options, Gan **out,
                Error *error);
/* Frees the programs' CUDA graphs; call it before the collectives are closed. NULL is allowed. */
void gan_release_captures(Gan *gan);
void gan_free(Gan *gan); /* NULL is allowed */
/* Takes ownership of the perceptual network's weights, as perceptual_read returns them. Call it
 * before gan_allocate if gan_perceptual_network has parameters. */
void gan_set_perceptual_weights(Gan *gan, float *weights);
/* Allocates parameters, moments, batch buffers and the arena. */
Status gan_allocate(Gan *gan, Error *error);
/* Initialises the weights from run.seed. */
Status gan_initialize(Gan *gan, Error *error);

/* One micro-batch on the host: source u8 [N,T,H,W,C], target u8 [N,T,H',W',3], and the global
 * indices [N] of its samples, which seed the step's random numbers (noise, augmentation ...). */
typedef struct MicroBatch {
  const uint8_t *source, *target;
  const uint8_t *smoothed; /* targets with smoothed edges, [N,T,H',W',3]; loss.edge_negatives */
  /* Optical flow of the source, f32 [N,T-1,H,W,2], and where it is reliable, [N,T-1,H,W,1] of 0
   * and 1; loss.flow_consistency. Pixel (x, y) of frame t+1 is found in frame t at
   * (x + flow[0], y + flow[1]). */
  const float *flow, *flow_mask;
  const int64_t *samples;
} MicroBatch;
/* Whether this config reads these parts of a MicroBatch. */
bool gan_needs_smoothed(const Config *config);
bool gan_needs_flow(const Config *config, const ClipShape *shape);

/* Starts one step on `batches`, one per micro-batch; they may be reused when it returns. */
Status gan_step(Gan *gan, const StepControls *controls, const MicroBatch *batches, Error *error);

/* The updates of a network so far, and the parameter to blame for the last gradient. */
typedef struct NetworkResult {
  int64_t applied, skipped, skipped_in_a_row;
  int worst_parameter; /* an index, see parameters_worst_gradient; -1: unknown */
} NetworkResult;

/* The result of a step on this rank; metrics that were not computed are NaN. */
typedef struct StepResult {
  double metrics[METRIC_COUNT];
  bool computed[METRIC_COUNT];
  NetworkResult generator, discriminator;
} StepResult;

/* Returns the result of the last step (`ago` 0) or of the one before it (`ago` 1). Results are
 * copied to the host asynchronously, so `ago` 1 does not wait for the step that has just been
 * started. If no such step has run, counters are 0 and metrics NaN. */
Status gan_step_result(Gan *gan, int ago, StepResult *out, Error *error);

/* Returns the name of a loss that was computed and is not finite, or NULL. */
const char *step_result_nonfinite_loss(const StepResult *result);

/* The networks that are trained. */
typedef enum Network {
  NETWORK_GENERATOR,
  NETWORK_DISCRIMINATOR, /* all of them; has no parameters without adversarial loss */
  NETWORK_PROJECTION,    /* of PatchNCE, updated with the generator; has none without it */
  NETWORK_COUNT,
} Network;
Parameters *gan_network(Gan *gan, Network network);
Parameters *gan_generator(Gan *gan);
Parameters *gan_discriminator(Gan *gan);
Parameters *gan_perceptual_network(Gan *gan); /* frozen; has none without loss.perceptual,
                                               loss.content and loss.style */
/* Returns the CRC-32C of the weights given to gan_set_perceptual_weights, 0 before that. */
uint32_t gan_perceptual_checksum(const Gan *gan);
const Config *gan_config(const Gan *gan);
ClipShape gan_clip_shape(const Gan *gan);

/* Returns the FLOPs and bytes of one GAN step of this rank, over all micro-batches, and the arena's
 * size: the average over steps of which the fraction `r1`, 0 to 1, has R1. Ops are not counted. */
ProgramCost gan_cost(const Gan *gan, double r1);
/* Appends the plan as text: parameters, programs, cost. */
void gan_print_plan(const Gan *gan, Text *out);
/* Switches the timing of every op on or off. */
void gan_profile(Gan *gan, bool on);
/* Appends a table of the ops timed since, each beside its roofline bound on a device with these
 * `peaks`; NULL: without bounds. */
void gan_print_profile(const Gan *gan, const DevicePeaks *peaks, Text *out);
/* Returns the seconds timed since, summed over the programs of a GAN step. */
ProgramTimes gan_times(const Gan *gan);

#endif
