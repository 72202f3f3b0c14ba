/* The GAN and its training step.
 *
 * One step, as a graph: the generator's forward pass; the discriminators' forward and backward pass
 * on [real; fake], their update (and a step of spectral norm's power iteration); the updated
 * discriminators on the same fake; the generator's backward pass, its update; the metrics. With one
 * micro-batch a step that is one program. With more, each half runs once a micro-batch and the
 * updates are programs of their own; gradients are added up in a tree fixed by the micro-batches'
 * order, the last one's program adds the others' and all-reduces. So 1, 2, 4, ... ranks of as many
 * threads leave the same bytes. During optim.pretrain_steps the generator alone learns, on L1.
 *
 * Host side everything is u8 frames and f32 numbers; buffers are the backend's. */
#ifndef CELFORGE_TRAINER_GAN_GAN_H
#define CELFORGE_TRAINER_GAN_GAN_H

#include "data/dataset/dataset.h"
#include "engine/program/program.h"
#include "trainer/gan/networks.h"

/* One number a step; the names in metrics.jsonl are model_metric_name's. */
typedef enum Metric {
  METRIC_LOSS_G,
  METRIC_LOSS_D,
  METRIC_L1,
  METRIC_ADVERSARIAL,
  METRIC_FEATURE_MATCHING,
  METRIC_PERCEPTUAL,
  METRIC_TEMPORAL,
  METRIC_TOTAL_VARIATION,
  METRIC_GRADIENT_PENALTY,
  METRIC_R1,
  METRIC_NORM_G, /* of the gradient, before clipping */
  METRIC_NORM_D,
  METRIC_COUNT,
} Metric;
const char *model_metric_name(Metric metric); /* "loss/g" */

typedef enum StepKind { STEP_GAN, STEP_WARMUP } StepKind;

/* What changes from step to step, computed by schedule_at. */
typedef struct StepControls {
  StepKind kind;
  bool regularise; /* now and then: R1, for the steps between as well (see loss.r1_interval) */
  float generator_lr, discriminator_lr, adversarial_weight;
  float generator_limit, discriminator_limit; /* largest gradient norm; 0: any finite one */
} StepControls;
/* The controls of step `step` (0: the first) of a run. */
StepControls schedule_at(const Config *config, int64_t step);
/* The share of the steps from `begin` to `end` - 1 that have StepControls.regularise. */
double schedule_regularised(const Config *config, int64_t begin, int64_t end);

typedef struct Model Model;

typedef struct ModelOptions {
  ClipShape shape;   /* of one sample, after cropping */
  int micro_batches; /* a rank computes per step */
  bool all_reduce;   /* gradients, through the collectives; without those it does nothing */
  const Collectives *collectives;
} ModelOptions;

/* Builds and plans; allocates nothing large. `config` and `backend` outlive the model. */
Status model_plan(const Config *config, Backend *backend, const ModelOptions *options, Model **out,
                  Error *error);
/* Frees what was captured of the programs: before the collectives' owner closes. NULL is allowed.
 */
void model_release_captures(Model *model);
void model_free(Model *model); /* NULL is allowed */
/* The weights of loss.perceptual's network (model_perceptual), as perceptual_read gives them: the
 * model takes them over. Before model_allocate, where there is such a network. */
void model_take_perceptual(Model *model, float *weights);
/* Parameters, moments, batch buffers, arena. */
Status model_allocate(Model *model, Error *error);
/* Initial weights from run.seed. */
Status model_initialize(Model *model, Error *error);

/* One micro-batch on the host: source u8 [B,T,H,W,C], target u8 [B,T,H',W',3], and the global
 * numbers of its samples, which key the noise and the gradient penalty's points. */
typedef struct MicroBatch {
  const uint8_t *source, *target;
  const int64_t *samples;
} MicroBatch;

/* Starts one step on `micro_batches` of them; they may be used again when it returns. */
Status model_step(Model *model, const StepControls *controls, const MicroBatch *batches,
                  Error *error);

/* Updates of a network so far, and where its last gradient is at its worst. */
typedef struct NetworkResult {
  int64_t applied, skipped, skipped_in_a_row;
  int worst; /* a parameter: see parameters_worst_gradient */
} NetworkResult;

/* What a step left: this rank's numbers, NaN for those that were not computed. */
typedef struct StepResult {
  double metrics[METRIC_COUNT];
  bool computed[METRIC_COUNT];
  NetworkResult generator, discriminator;
} StepResult;

/* The result of the last step (`ago` 0) or of the one before it (1). Numbers travel back behind
 * each step, so asking for the one before waits for no step that has just been started. Before
 * there were that many steps: counters 0, metrics NaN. */
Status model_result(Model *model, int ago, StepResult *out, Error *error);

/* The name of a loss among a step's numbers that is not finite though it was computed, or NULL. */
const char *model_first_bad_loss(const StepResult *result);

Parameters *model_generator(Model *model);
Parameters *model_discriminator(Model *model); /* no parameters without adversarial loss */
Parameters *model_perceptual(Model *model); /* none without loss.perceptual; nothing is learned */
/* CRC-32C of the weights that model_take_perceptual took, 0 before. */
uint32_t model_perceptual_checksum(const Model *model);
const Config *model_config(const Model *model);
ClipShape model_shape(const Model *model);

/* FLOPs and bytes of one GAN step of this rank, all micro-batches, and the arena; their means where
 * a share of the steps, 0 to 1, has StepControls.regularise. Ops are not counted. */
ProgramCost model_cost(const Model *model, double regularised);
/* The plan a person can read: programs, parameters, memory. */
void model_print(const Model *model, Text *out);
/* From now on every op of a step is timed, or no longer. */
void model_profile(Model *model, bool on);
/* Op by op, what was timed since; `ceilings` of the device give each op's floor, NULL: none. */
void model_print_profile(const Model *model, const Ceilings *ceilings, Text *out);
/* Seconds timed since, summed over the programs of a GAN step. */
ProgramTimes model_times(const Model *model);

#endif
