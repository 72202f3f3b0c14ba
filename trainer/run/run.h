/* A training run's parts, for the files that make it up: train.c (the loop), run_setup.c (its
 * beginning and end), run_files.c (what rank 0 writes), run_guard.c (steps that go wrong). */
#ifndef CELFORGE_TRAINER_RUN_RUN_H
#define CELFORGE_TRAINER_RUN_RUN_H

#include "base/progress.h"
#include "comm/health/heartbeat.h"
#include "data/loader/loader.h"
#include "trainer/run/checkpoint_state.h"
#include "trainer/run/gradient_guard.h"
#include "trainer/run/gradient_sync.h"
#include "trainer/run/sample_sheets.h"
#include "trainer/run/step_timing.h"
#include "trainer/run/tensorboard.h"
#include "trainer/run/train.h"

enum { TROUBLE_SIZE = 1024 };

/* One of the last two steps. */
typedef struct StartedStep {
  StepOutcome outcome; /* norms and skips only once `known` */
  bool known, has_result;
  StepResult result; /* this rank's */
} StartedStep;

typedef struct Run {
  const Config *config;
  Comm *comm;
  int rank, world_size, micro_batches; /* micro-batches of this rank */
  Backend *backend;
  Exchange *exchange;
  Heartbeat *heartbeat;
  Dataset *dataset;
  Loader *loader;
  Model *model;
  Guard *guard;
  Timing *timing;
  int64_t step;               /* steps done */
  int64_t saved_step;         /* steps done at the last checkpoint */
  StartedStep started[2];     /* the last one, and the one before */
  int64_t recorded_step;      /* of the last line of metrics */
  double exposed;             /* seconds, of exchange_exposed_seconds */
  double read_at;             /* clock_seconds when the last step's batches were there */
  bool common_failure;        /* all ranks return the same error: nobody has to be told */
  char trouble[TROUBLE_SIZE]; /* the last skipped step, in words, the same on every rank */
  /* rank 0 alone: */
  int lock;
  char *origin; /* a checkpoint outside run.dir that the run was resumed from, or NULL */
  CheckpointWriter *checkpoints;
  StateCopy *copy; /* NULL before the first checkpoint */
  MetricsLog *metrics;
  Tensorboard *tensorboard; /* NULL: metrics.tensorboard is false */
  Progress *progress;
  Inference *sampler;
  MetricsRecord record; /* the last one written */
} Run;

/* --- run_setup.c ------------------------------------------------------------------------------ */

/* Makes a rank's status common to all (comm_agree), and remembers that it is. */
Status run_agree(Run *run, Status own, Error *error);
/* Whether any rank has been asked to stop: the same answer on all. Fails where a rank's writer has
 * failed in the background. */
Status run_agree_to_stop(Run *run, bool *stop, Error *error);

/* Everything that can be wrong with config and data is found here, before a byte is written.
 * STOPPED after a signal. */
Status run_set_up(Run *run, Error *error);
/* Allocates, initialises or resumes, and opens what rank 0 writes. */
Status run_begin(Run *run, const char *resume, Error *error);
/* Makes the state that of `checkpoint` (rank 0's; NULL where `resumed` is false: the beginning),
 * and the loader go on from there. */
Status run_restore(Run *run, const Checkpoint *checkpoint, bool resumed, bool going_back,
                   Error *error);
/* The last checkpoint is on the disk when it returns OK or STOPPED. */
Status run_finish(Run *run, Status status, Error *error);
void run_tear_down(Run *run);

/* --- run_files.c (rank 0) --------------------------------------------------------------------- */

/* Two runs in one folder would overwrite each other. */
Status run_lock_folder(Run *run, Error *error);
/* The checkpoint to go on from, or NULL for a run that starts. */
Status run_choose_checkpoint(Run *run, const char *resume, Checkpoint **out, Error *error);
/* The newest good one of at most `step` steps, or the one the run came from; NULL: the beginning.
 */
Status run_choose_before(Run *run, int64_t step, Checkpoint **out, Error *error);
Status run_open_outputs(Run *run, const Checkpoint *checkpoint, Error *error);
/* Metrics and progress go on from run->step. */
Status run_reopen_metrics(Run *run, Error *error);
/* run->record, wherever metrics are written. */
Status run_write_record(Run *run, Error *error);
/* run->copy is what a checkpoint of run->step is to hold; the metrics up to there are on the disk
 * then. */
Status run_copy_state(Run *run, Error *error);
/* Gives up without an error after a signal. */
Status run_write_samples(Run *run, Error *error);
/* The sheet of run->step, where a signal kept it from being written. */
Status run_write_owed_samples(Run *run, Error *error);

/* --- run_guard.c ------------------------------------------------------------------------------ */

/* A step with these controls starts. */
void run_note_step(Run *run, const StepControls *controls);
/* Takes in the outcome of the step before the last, says so where it was skipped, and goes back to
 * a checkpoint where the guard wants that. */
Status run_watch(Run *run, bool *went_back, Error *error);
/* Behind the run's last step: says so where it was skipped. */
Status run_watch_end(Run *run, Error *error);
/* Whether the last step was skipped. */
Status run_is_in_trouble(Run *run, bool *out, Error *error);
/* What the guard has not observed yet is known when it returns. */
Status run_know_last_step(Run *run, Error *error);

#endif
