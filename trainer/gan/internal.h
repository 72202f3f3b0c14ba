/* The parts of a Gan, shared by gan.c (planning, allocation), gan_step.c (running a step),
 * step_result.c (metrics back to the host), step_graph.c (the graph of each program), step_inputs.c
 * (random numbers of a step), report.c (cost, profile) and device_memory.c. */
#ifndef CELFORGE_TRAINER_GAN_INTERNAL_H
#define CELFORGE_TRAINER_GAN_INTERNAL_H

#include "trainer/gan/gan.h"
#include "trainer/gan/step_inputs.h"

/* Layout of the controls buffer: for each network the controls of graph_adam (learning rate, clip,
 * EMA decay, largest norm), then the adversarial weight. */
enum {
  CONTROL_GENERATOR,
  CONTROL_DISCRIMINATOR = CONTROL_GENERATOR + 4,
  CONTROL_ADVERSARIAL_WEIGHT = CONTROL_DISCRIMINATOR + 4,
  CONTROL_COUNT,
};

/* The programs of a step. _R1 variants exist only where R1 is lazy (loss.r1_interval above 1). */
typedef enum ProgramKind {
  /* One micro-batch per step: */
  PROGRAM_STEP,
  PROGRAM_PRETRAIN,
  PROGRAM_STEP_R1,
  /* Several: one network's forward and backward pass on a micro-batch. LAST also adds the partial
   * sums of the others and all-reduces the gradient. */
  PROGRAM_D_MICRO,
  PROGRAM_D_LAST,
  PROGRAM_D_MICRO_R1,
  PROGRAM_D_LAST_R1,
  PROGRAM_D_UPDATE,
  PROGRAM_G_MICRO,
  PROGRAM_G_LAST,
  PROGRAM_G_UPDATE,
  PROGRAM_PRETRAIN_MICRO,
  PROGRAM_PRETRAIN_LAST,
  PROGRAM_PRETRAIN_UPDATE,
  PROGRAM_KIND_COUNT,
} ProgramKind;

/* Gradient accumulation as a binary tree, kept like a binary counter: partial_sums[k] holds the sum
 * of 2^k micro-batches' gradients, and adding one more carries into higher levels. */
enum { ACCUMULATION_MAX_LEVELS = 20 };
typedef struct AccumulationTree {
  int levels; /* bits of (micro-batches - 1) */
  Buffer partial_sums[ACCUMULATION_MAX_LEVELS];
  /* merge[k]: partial_sums[k] = gradient + partial_sums[0] + ... + partial_sums[k-1] */
  Program *merge[ACCUMULATION_MAX_LEVELS];
} AccumulationTree;

/* Asynchronous copies of a step's numbers to the host. */
typedef struct NetworkReadback {
  Readback *counters, *squares; /* NULL: the network has no parameters */
} NetworkReadback;
typedef struct ResultSlot {
  Readback *metrics;
  NetworkReadback generator, discriminator;
  bool computed[METRIC_COUNT];
} ResultSlot;
enum { RESULT_SLOTS = 2 };

struct Gan {
  const Config *config;
  Backend *backend;
  GanOptions options;
  bool adversarial; /* has discriminators */
  Parameters generator, discriminator, projection;
  Parameters perceptual;     /* frozen: VGG19 of loss.perceptual, loss.content and loss.style */
  float *perceptual_weights; /* on the host until gan_allocate uploads them */
  uint32_t perceptual_checksum;
  AccumulationTree generator_accumulation, discriminator_accumulation, projection_accumulation;
  Buffer source, target, controls, metrics;
  Buffer smoothed, flow, flow_mask; /* see MicroBatch; empty if not needed */
  Buffer inputs[INPUT_COUNT];
  Buffer coordinates; /* 0, 1, 2 ... up to the longer side of a padded frame; only with
                         augmentation or mirrored clips */
  Arena *arena;
  Program *programs[PROGRAM_KIND_COUNT]; /* NULL: not needed by this config */
  ResultSlot results[RESULT_SLOTS];
  int64_t steps; /* steps started; the result of step k lies in slot k % RESULT_SLOTS */
};

/* Whether the config needs this program. */
bool gan_needs_program(const Gan *gan, ProgramKind kind);
/* Whether a step with these controls computes this metric. */
bool gan_computes_metric(const Gan *gan, const StepControls *controls, Metric metric);

/* Whether a rank's step has several micro-batches. */
static inline bool gan_in_micro_batches(const Gan *gan) {
  return gan->options.micro_batches > 1;
}
/* Whether the discriminators' inputs are augmented. */
bool gan_augments(const Gan *gan);
/* Whether PatchNCE mirrors clips. */
static inline bool gan_mirrors(const Config *config) {
  return config->loss.patch_nce > 0 && config->loss.patch_nce_flip;
}

/* The buffers that hold a step's inputs, all but the controls and metrics; ends with NULL. */
enum { GAN_MAX_INPUT_BUFFERS = INPUT_COUNT + 7 };
void gan_input_buffers(const Gan *gan, const Buffer *out[GAN_MAX_INPUT_BUFFERS]);

/* Builds all networks once, so that they declare their parameters. */
void step_graph_declare(Gan *gan, Graph *graph);
/* Builds the graph of one program. */
void step_graph_build(Gan *gan, ProgramKind kind, Graph *graph);
/* Builds the graph of `tree`'s merge[level] program. */
void step_graph_accumulate(Parameters *parameters, AccumulationTree *tree, int level, Graph *graph);

Status result_slot_allocate(Gan *gan, ResultSlot *slot, Error *error);
void result_slot_free(Backend *backend, ResultSlot *slot);
/* Starts copying the numbers of the step just started to the host. */
Status result_readback_start(Gan *gan, const StepControls *controls, Error *error);

#endif
