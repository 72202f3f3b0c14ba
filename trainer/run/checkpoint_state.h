/* A run's state in a checkpoint, and back.
 *
 *   generator.safetensors      NAME (master weights, our layout), ema.NAME
 *   discriminator.safetensors  NAME, with spectral norm weights' NAME_u, NAME_v, NAME_sigma (see
 *                              engine/parameters/spectral_norm.h); absent without discriminators
 *   optimizer.safetensors      NETWORK.moment1.NAME, NETWORK.moment2.NAME, NETWORK.counters
 *   state.json                 step, samples (the next one's number), seed, guard (see guard.h),
 *                              perceptual_crc32c (of the weights of loss.perceptual, if any)
 *   manifest.json              config (YAML), dataset uuid, scale of the output over the source
 *
 * All of it is a function of config, data and step: an undisturbed run and one resumed anywhere
 * write the same bytes. Convolution weights are [O,T,H,W,I] (PyTorch's is [O,I,T,H,W]); vectors are
 * [C]. */
#ifndef CELFORGE_TRAINER_RUN_CHECKPOINT_STATE_H
#define CELFORGE_TRAINER_RUN_CHECKPOINT_STATE_H

#include "checkpoints/checkpoint.h"
#include "comm/comm.h"
#include "trainer/run/gradient_guard.h"

/* What belongs to a state beside the model's arrays. */
typedef struct RunPosition {
  int64_t step;             /* steps done: the next one's number */
  int64_t samples;          /* the number of the next step's first sample */
  const char *dataset_uuid; /* what the run learns from */
  const Guard *guard;
  const StepOutcome *pending; /* the last step's, which the guard has not observed */
} RunPosition;

/* A copy of the state on the host, as a checkpoint holds it. Its memory is taken once: pages that
 * are new to the process cost the kernel several times what filling them takes. The model outlives
 * it. */
typedef struct StateCopy StateCopy;
Status state_copy_new(Model *model, StateCopy **out, Error *error);
/* Takes over the state as it is now, in place of what was there. */
Status state_copy(StateCopy *copy, const RunPosition *position, Error *error);
/* Hands a copy to the writer, which keeps nothing of it. */
Status state_submit(const StateCopy *copy, CheckpointWriter *writer, Error *error);
void state_copy_free(StateCopy *copy); /* NULL is allowed */

/* The state of a run that begins: initial weights, everything else 0. The model may have been
 * trained before. Where run.init names a checkpoint, rank 0's `from` (NULL on the others), weights
 * of its networks take the place of those of the same name: master, and EMA for EMA. Tensors that
 * it does not hold stay as they were drawn, and the log says how many; one of another shape is
 * ERROR_USAGE, as is a checkpoint that holds none of the generator's. The same status on every
 * rank. */
Status state_begin(Model *model, Comm *comm, const Checkpoint *from, Error *error);

typedef struct ResumePoint {
  int64_t step;
  StepOutcome pending;
} ResumePoint;

/* Fills the model (allocated) and the guard on every rank from rank 0's `checkpoint` (NULL on the
 * others), which must fit the config: network shapes, spectral norm, seed, global batch, dataset
 * and the weights of loss.perceptual must agree (ERROR_USAGE naming what differs); other
 * differences are logged. `going_back`: see guard_restore. The same status on every rank. */
Status state_restore(Model *model, Guard *guard, Comm *comm, const Checkpoint *checkpoint,
                     const char *dataset_uuid, bool going_back, ResumePoint *point, Error *error);

#endif
