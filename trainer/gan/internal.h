/* The model's parts, for model.c (life, steps), model_graph.c (what the programs compute) and
 * model_report.c (what they cost). */
#ifndef CELFORGE_TRAINER_GAN_INTERNAL_H
#define CELFORGE_TRAINER_GAN_INTERNAL_H

#include "trainer/gan/gan.h"

/* Places in the controls buffer: what graph_adam wants for each network, then the fade. */
enum {
  CONTROL_GENERATOR, /* rate, clip, EMA decay, largest norm */
  CONTROL_DISCRIMINATOR = CONTROL_GENERATOR + 4,
  CONTROL_ADVERSARIAL_WEIGHT = CONTROL_DISCRIMINATOR + 4,
  CONTROL_COUNT,
};

typedef enum ProgramKind {
  PROGRAM_STEP,    /* one micro-batch a step: everything */
  PROGRAM_WARMUP,  /* the same for the warm-up */
  PROGRAM_STEP_R1, /* with R1, where not every step has it; likewise below */
  PROGRAM_D_MICRO, /* more: the discriminators' half of a micro-batch */
  PROGRAM_D_LAST,  /* of the last one: adds the others' and all-reduces */
  PROGRAM_D_MICRO_R1,
  PROGRAM_D_LAST_R1,
  PROGRAM_D_UPDATE,
  PROGRAM_G_MICRO,
  PROGRAM_G_LAST,
  PROGRAM_G_UPDATE,
  PROGRAM_WARMUP_MICRO,
  PROGRAM_WARMUP_LAST,
  PROGRAM_KIND_COUNT,
} ProgramKind;

/* Sums of 1, 2, 4 ... micro-batches' gradients: the carries of a binary counter. */
enum { MAX_CARRIES = 20 };
typedef struct Carries {
  int count; /* bits of (micro-batches - 1) */
  Buffer sums[MAX_CARRIES];
  Program *fold[MAX_CARRIES]; /* fold[k]: sums[k] = gradient + sums[0] + ... + sums[k-1] */
} Carries;

/* A step's numbers on their way back. */
typedef struct NetworkReadback {
  Readback *counters, *squares; /* NULL: there is no such network */
} NetworkReadback;
typedef struct ResultSlot {
  Readback *metrics;
  NetworkReadback generator, discriminator;
  bool computed[METRIC_COUNT];
} ResultSlot;
enum { RESULT_SLOTS = 2 };

struct Model {
  const Config *config;
  Backend *backend;
  ModelOptions options;
  bool adversarial; /* are there discriminators */
  Parameters generator, discriminator;
  Parameters perceptual;     /* fixed: the network of loss.perceptual */
  float *perceptual_weights; /* on the host, until they are on the device */
  uint32_t perceptual_checksum;
  Carries generator_carries, discriminator_carries;
  Buffer source, target, noise, controls, metrics;
  Buffer shares; /* f32, one a clip: where the gradient penalty is taken; empty without one */
  Arena *arena;
  Program *programs[PROGRAM_KIND_COUNT]; /* NULL: not needed */
  ResultSlot results[RESULT_SLOTS];
  int64_t steps; /* started; step k's result goes to slot k % RESULT_SLOTS */
};

/* Appends what a program computes. */
void model_graph_declare(Model *model, Graph *graph); /* only to declare parameters */
void model_graph_build(Model *model, ProgramKind kind, Graph *graph);
void model_graph_fold(Parameters *parameters, Carries *carries, int level, Graph *graph);
/* Whether the config needs this program. */
bool model_needs_program(const Model *model, ProgramKind kind);
/* Whether a step with these controls computes this metric. */
bool model_computes_metric(const Model *model, const StepControls *controls, Metric metric);

#endif
