/* The state of a training run, shared by the files that implement it:
 *
 *   loop.c      the training loop
 *   setup.c     opening, starting and ending a run; agreement between ranks
 *   outputs.c   checkpoints, metrics and sample sheets in run.dir (rank 0)
 *   rollback.c  skipped steps, and rolling back to a checkpoint */
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

enum { SKIP_REPORT_SIZE = 1024 };

/* One of the last two steps. Its result is read back from the device late, so that the host does
 * not wait for each step. */
typedef struct RecentStep {
  StepOutcome outcome; /* norms and skips are valid once `is_read` */
  bool is_read;        /* the outcome is known: read back, or restored from a checkpoint */
  bool has_result;     /* `result` is valid: the step was computed by this process */
  StepResult result;   /* of this rank */
} RecentStep;

typedef struct Run {
  const Config *config;
  const ConfigSources *sources; /* of the config, or NULL */
  Comm *comm;
  int rank, world_size, micro_batches; /* micro-batches per step of this rank */
  Backend *backend;
  GradientSync *gradient_sync;
  Heartbeat *heartbeat;
  Dataset *dataset;
  Dataset *target_dataset; /* of data.target_path; NULL: `dataset` has pairs */
  Loader *loader;
  Gan *gan;
  GradientGuard *guard;
  StepTiming *timing;
  int64_t step;               /* steps done */
  int64_t saved_step;         /* steps done at the last checkpoint */
  int64_t recorded_step;      /* steps done at the last metrics record */
  RecentStep recent_steps[2]; /* the last step, and the one before it */
  double augment_probability; /* of the next step; see augment_control.h */
  double exposed_seconds;     /* exposed communication since the run began */
  double data_ready_at;       /* clock_seconds when the batches of the last step had been read */
  bool failure_is_shared;     /* every rank returns the same error, so none has to be aborted */
  char skip_report[SKIP_REPORT_SIZE]; /* describes the last skipped step; the same on every rank */
  /* The members below are used by rank 0 only. */
  int lock;                  /* descriptor of RUN/lock, or -1 */
  char *external_checkpoint; /* path given to --resume, or NULL */
  CheckpointWriter *checkpoints;
  TrainingSnapshot *snapshot; /* NULL before the first checkpoint */
  MetricsLog *metrics;
  Tensorboard *tensorboard; /* NULL if metrics.tensorboard is false */
  Progress *progress;
  Inference *sample_inference;
  MetricsRecord record; /* the last one written */
} Run;

/* --- setup.c ---------------------------------------------------------------------------------- */

/* Makes the worst status of all ranks that of every rank (comm_agree). */
Status run_agree(Run *run, Status own, Error *error);
/* Synchronises the stop flag: *stop is true on every rank if any rank has received a signal. Fails
 * if a checkpoint write of rank 0 has failed in the background. */
Status run_sync_stop_flag(Run *run, bool *stop, Error *error);

/* Opens dataset, device and model. Validates config and data before anything is written. STOPPED
 * after a signal. */
Status run_set_up(Run *run, Error *error);
/* Allocates the model, initialises or resumes it, and opens the outputs of rank 0. */
Status run_start(Run *run, const char *resume, Error *error);
/* Restores model, guard and step from `checkpoint` (NULL except on rank 0), or the initial state if
 * `from_checkpoint` is false, and reopens the loader at that step. `rolling_back`: see
 * guard_restore. */
Status run_restore(Run *run, const Checkpoint *checkpoint, bool from_checkpoint, bool rolling_back,
                   Error *error);
/* Waits until the last checkpoint is on disk. Returns `status`, or the error of that write. */
Status run_finish(Run *run, Status status, Error *error);
void run_tear_down(Run *run);

/* --- outputs.c (rank 0) ----------------------------------------------------------------------- */

/* Locks run.dir: two runs in one folder would overwrite each other. ERROR_USAGE if it is locked. */
Status run_lock_folder(Run *run, Error *error);
/* Opens the checkpoint that --resume selects. *out is NULL if the run starts from step 0. */
Status run_open_resume_checkpoint(Run *run, const char *resume, Checkpoint **out, Error *error);
/* Opens the newest valid checkpoint of at most `step` steps, or the one that the run was resumed
 * from. *out is NULL if there is none: roll back to the initial state. */
Status run_open_rollback_checkpoint(Run *run, int64_t step, Checkpoint **out, Error *error);
Status run_open_outputs(Run *run, const Checkpoint *checkpoint, Error *error);
/* Reopens metrics and progress at run->step; records of later steps are removed. */
Status run_reopen_metrics(Run *run, Error *error);
/* Writes run->record to metrics.jsonl and TensorBoard. */
Status run_write_metrics(Run *run, Error *error);
/* Copies the state of run->step to run->snapshot, after fsyncing the metrics up to that step. */
Status run_take_snapshot(Run *run, Error *error);
/* Writes the sample sheet of run->step. Returns OK without one if a signal arrives meanwhile. */
Status run_write_sample_sheet(Run *run, Error *error);
/* Writes the sample sheet of run->step if it is due but missing because of a signal. */
Status run_write_missed_sample_sheet(Run *run, Error *error);

/* --- rollback.c ------------------------------------------------------------------------------- */

/* Records that a step with these controls starts. */
void run_record_step_start(Run *run, const StepControls *controls);
/* Passes the outcome of the step before the last to the guard, reports it if it was skipped, and
 * rolls the run back if the guard demands it. */
Status run_guard_step(Run *run, bool *rolled_back, Error *error);
/* Reports the last step of the run if it was skipped. */
Status run_report_last_step(Run *run, Error *error);
/* Returns in *out whether the last step was skipped. */
Status run_last_step_was_skipped(Run *run, bool *out, Error *error);
/* Reads the outcome of the last step back, so that a checkpoint can hold it. */
Status run_read_last_step(Run *run, Error *error);

#endif
