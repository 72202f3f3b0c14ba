/* The gradient guard: which steps are skipped, and when the run rolls back.
 *
 * The update of a network is skipped if the norm of its gradient is not finite, or is above the
 * limit that the step was given. The limit follows from the norms of the last guard.window good
 * steps, those whose updates were applied:
 *
 *     limit = exp(m + guard.max_deviations * max(MAD / 0.6745, 0.05)), at most FLT_MAX
 *
 * where m is the median of the logarithms of the norms, and MAD the median of their distances from
 * m. This is a one-sided test of the modified z-score (Iglewicz, Hoaglin: "How to Detect and Handle
 * Outliers", ASQC 1993, section 3.3) whose scale is at least 5 %. Skipped steps never enter the
 * window. There is no limit until the window holds 32 norms (or is full). Pretraining and GAN steps
 * are not compared with each other: the window restarts when the kind of step changes. With
 * loss.r1_interval > 1, discriminator gradients of steps with R1 have another loss: they only have
 * to be finite.
 *
 * The limit of step k follows from the outcomes of the steps up to k-2, which are known without
 * waiting for the device. Norms are those of the all-reduced gradients, so the decisions are the
 * same on every rank and for every world size. The state is saved with each checkpoint, so a
 * resumed run makes the same decisions as an uninterrupted one.
 *
 * After guard.max_skips skipped steps in a row, the run must roll back to a state from before the
 * first of them. The batches of these steps are skipped from then on. */
#ifndef CELFORGE_TRAINER_RUN_GRADIENT_GUARD_H
#define CELFORGE_TRAINER_RUN_GRADIENT_GUARD_H

#include "base/json.h"
#include "trainer/gan/gan.h"

typedef enum GuardNetwork {
  GUARD_GENERATOR,
  GUARD_DISCRIMINATOR,
  GUARD_NETWORK_COUNT
} GuardNetwork;

typedef struct NetworkOutcome {
  bool updated; /* the step computed an update of this network */
  bool skipped; /* ... which was not applied */
  double norm;  /* of the gradient; NaN if none was computed */
  double limit; /* the largest norm that was allowed; 0: any finite one */
} NetworkOutcome;

typedef struct StepOutcome {
  int64_t step; /* from 0; negative: no step */
  StepKind kind;
  bool applied_r1; /* the step had R1: see StepControls.apply_r1 */
  NetworkOutcome networks[GUARD_NETWORK_COUNT];
} StepOutcome;

/* Returns whether the update of any network was skipped. */
bool outcome_was_skipped(const StepOutcome *outcome);

typedef struct GradientGuard GradientGuard;

GradientGuard *guard_new(const Config *config);
void guard_free(GradientGuard *guard); /* NULL is allowed */

/* Sets the gradient-norm limits of the step with these controls. */
void guard_set_limits(const GradientGuard *guard, StepControls *controls);

typedef enum GuardAction {
  GUARD_CONTINUE,    /* the step was good */
  GUARD_REPORT_SKIP, /* the step was skipped */
  GUARD_ROLL_BACK    /* the step was skipped, and guard.max_skips is reached */
} GuardAction;
/* Observes the outcome of a step. Call it once for each step, in order. */
GuardAction guard_observe(GradientGuard *guard, const StepOutcome *outcome);

/* Returns how many steps in a row were skipped, up to the last one observed; 0 if that one was
 * good. *first receives the number of the first of them. */
int64_t guard_consecutive_skips(const GradientGuard *guard, int64_t *first);

/* Counts a rollback, and skips the batches of the consecutive skipped steps from now on. */
void guard_skip_batches(GradientGuard *guard);
int64_t guard_rollbacks(const GradientGuard *guard);
/* Returns the numbers of all skipped batches (see shuffle_batch_of_step), ascending. The array
 * belongs to the guard and is valid until the next call that changes it. */
const int64_t *guard_skipped_batches(const GradientGuard *guard, int64_t *count);

/* Saves the state, and the outcome `pending` that has not been observed yet, for state.json.
 * Caller releases *out. ERROR_INTERNAL if a number is not finite. */
Status guard_save(const GradientGuard *guard, const StepOutcome *pending, json_t **out,
                  Error *error);
/* Restores what guard_save saved; `where` names the source in errors (ERROR_DATA). NULL restores
 * the initial state. `rolling_back` keeps the skipped batches and the number of rollbacks. */
Status guard_restore(GradientGuard *guard, const json_t *saved, const char *where,
                     bool rolling_back, StepOutcome *pending, Error *error);

#endif
