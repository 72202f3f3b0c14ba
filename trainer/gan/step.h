/* The step under construction. step.c has what both halves of a step use; they are
 * discriminator_step.c and generator_step.c; step_graph.c makes programs of them. */
#ifndef CELFORGE_TRAINER_GAN_STEP_H
#define CELFORGE_TRAINER_GAN_STEP_H

#include "trainer/gan/internal.h"
#include "trainer/gan/losses.h"

/* The graph under construction and the values that both halves use. */
typedef struct Step {
  Gan *gan;
  Graph *graph;
  bool last_micro_batch;
  bool apply_r1;
  Value source, target, output; /* [N,T,H,W,*] in the compute dtype */
  Value noise;                  /* or NO_VALUE */
  GeneratorFeatures features;   /* of the source, for loss.patch_nce without flips */
} Step;

/* `count` elements of the controls, from CONTROL_... on. */
Value step_control(Step *step, int offset, int count);
Value step_metric_view(Step *step, Metric metric);
/* Stores a scalar as a metric: its mean over this rank's micro-batches. */
void step_report(Step *step, Metric metric, Value value);
/* Reports a term of a loss and adds it, weighted, to `sum` (NO_VALUE: nothing yet). */
Value step_add_term(Step *step, Value sum, Metric metric, double weight, Value term);
/* Whether a step of this kind computes the metric. */
bool step_computes(const Step *step, StepKind kind, Metric metric);

/* The output as a video holds it: values beyond -1 and 1 are clipped. Discriminators see no other:
 * celnet's output is unbounded, and against the unbounded losses of GANs (hinge, Wasserstein) it
 * would be pushed out of the range of colours for ever. */
Value step_visible_output(Step *step);

/* The discriminators on `candidate`, a target or an output, augmented with the draws of `part`. */
DiscriminatorOutputs step_discriminate(Step *step, Value candidate, Part part);

/* Appends the gradients of the loss with respect to the network's parameters, divided by the
 * number of micro-batches; the last micro-batch adds the others' and all-reduces. */
void step_backward(Step *step, Parameters *parameters, Value loss);

void step_generator_forward(Step *step);
/* The discriminators' losses and gradients. */
void step_discriminator_pass(Step *step);
/* The generator's losses; the gradients of the generator and of the projections. */
void step_generator_pass(Step *step, StepKind kind);
/* Builds the losses with frozen or trained networks of their own, so that they declare their
 * parameters. */
void step_declare_loss_networks(Step *step);

#endif
