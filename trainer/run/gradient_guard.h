/* Which steps a run does not learn from, and when it goes back.
 *
 * A step's update of a network is skipped where its gradient's norm is not finite or above the
 * limit the step was given. The limit follows from the norms of the last guard.window good steps:
 *
 *     limit = exp(m + guard.max_deviations * max(MAD / 0.6745, 0.05))
 *
 * with m the median of the logarithms and MAD the median of their distances from m: a modified
 * z-score of guard.max_deviations (Iglewicz, Hoaglin: "How to Detect and Handle Outliers", ASQC
 * 1993, section 3.3), one-sided, whose scale is never taken to be below 5 %. Bad steps never enter
 * the window. There is no limit until it holds 32 good steps (or is full), and warm-up and GAN
 * steps are never judged by each other. Nor is the discriminators' gradient of a step with R1 now
 * and then, which is that of another loss: it must be finite.
 *
 * The limit of step k comes from the outcomes of the steps up to k-2, which are known without
 * waiting for the device. Norms are those of the gradients averaged over all ranks, so every rank
 * and every world size decides alike. What is saved with a checkpoint makes a resumed run decide as
 * one left alone does.
 *
 * After guard.max_skips bad steps in a row the run is to go back to a state from before the first
 * of them, and their batches are left out of the order from then on. */
#ifndef CELFORGE_TRAINER_RUN_GRADIENT_GUARD_H
#define CELFORGE_TRAINER_RUN_GRADIENT_GUARD_H

#include "base/json.h"
#include "trainer/gan/gan.h"

typedef enum GuardNetwork { GUARD_GENERATOR, GUARD_DISCRIMINATOR, GUARD_NETWORKS } GuardNetwork;

typedef struct NetworkOutcome {
  bool updated; /* the step computed an update of it */
  bool skipped; /* which was not applied */
  double norm;  /* of its gradient; NaN where none was computed */
  double limit; /* the largest that was allowed; 0: any finite one */
} NetworkOutcome;

typedef struct StepOutcome {
  int64_t step; /* 0: the run's first; below 0: there is none */
  StepKind kind;
  bool regularised; /* see StepControls */
  NetworkOutcome of[GUARD_NETWORKS];
} StepOutcome;

bool outcome_is_bad(const StepOutcome *outcome);

typedef struct Guard Guard;

Guard *guard_new(const Config *config);
void guard_free(Guard *guard);

/* Fills the limits of the step these are the controls of. */
void guard_limits(const Guard *guard, StepControls *controls);

typedef enum GuardVerdict { GUARD_GOOD, GUARD_BAD, GUARD_GO_BACK } GuardVerdict;
/* Takes in the outcome of the next step, each step once and in order. */
GuardVerdict guard_observe(Guard *guard, const StepOutcome *outcome);

/* The bad steps in a row that end with the last one observed: the first one's number and how many;
 * 0 where the last one was good. */
int64_t guard_bad_steps(const Guard *guard, int64_t *first);

/* The bad steps' batches are left out from now on: one more time that the run goes back. */
void guard_leave_out(Guard *guard);
int64_t guard_rollbacks(const Guard *guard);
/* Numbers of batches, ascending (see shuffle_batch_of_step); the guard's own, until the next call that
 * changes it. */
const int64_t *guard_skipped_batches(const Guard *guard, int64_t *count);

/* All of it but the config, and the outcome that has not been observed yet, for state.json. */
json_t *guard_save(const Guard *guard, const StepOutcome *pending);
/* The reverse; `where` names the source in errors (ERROR_DATA). NULL stands for a run's beginning.
 * With `going_back` what is left out, and how often the run went back, stay as they are. */
Status guard_restore(Guard *guard, const json_t *saved, const char *where, bool going_back,
                     StepOutcome *pending, Error *error);

#endif
