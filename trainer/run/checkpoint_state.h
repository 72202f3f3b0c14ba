/* Saving the training state to a checkpoint, and restoring it.
 *
 *   generator.safetensors      NAME (master weights, in our layout), ema.NAME
 *   discriminator.safetensors  NAME, and NAME_u, NAME_v, NAME_sigma of weights with spectral norm
 *                              (engine/parameters/spectral_norm.h); no file without discriminators
 *   projection.safetensors     NAME, the projections of PatchNCE; no file without loss.patch_nce
 *   optimizer.safetensors      NETWORK.moment1.NAME, NETWORK.moment2.NAME, NETWORK.counters
 *   state.json                 step, samples (number of the next sample), seed, guard
 *                              (gradient_guard.h); with augment.mode: adaptive
 *                              augment_probability (of the next step, 0 to 1); with losses on
 *                              VGG19 perceptual_crc32c (CRC-32C of its weights)
 *   manifest.json              config (YAML), dataset_uuid, target_dataset_uuid (unpaired data),
 *                              scale (output size / source size)
 *
 * All of it is a function of config, data and step: an uninterrupted run and one that was resumed
 * write the same bytes. Convolution weights are [O,T,H,W,I] (PyTorch's are [O,I,T,H,W]), vectors
 * [C]; both are f32. Counters are i64 [3]. */
#ifndef CELFORGE_TRAINER_RUN_CHECKPOINT_STATE_H
#define CELFORGE_TRAINER_RUN_CHECKPOINT_STATE_H

#include "checkpoints/checkpoint.h"
#include "comm/comm.h"
#include "data/dataset/dataset.h"
#include "trainer/run/gradient_guard.h"

/* The uuids of the training data. */
typedef struct DataIdentity {
  const char *uuid;        /* of data.path */
  const char *target_uuid; /* of data.target_path; NULL for pairs */
} DataIdentity;
/* `targets` is the dataset of data.target_path, or NULL. The result borrows from both. */
DataIdentity data_identity(const Dataset *dataset, const Dataset *targets);

/* The part of the training state that is not in the model. */
typedef struct TrainingPosition {
  int64_t step;    /* steps done */
  int64_t samples; /* number of the first sample of the next step */
  DataIdentity data;
  double augment_probability; /* of the next step */
  const GradientGuard *guard;
  const StepOutcome *pending; /* of the last step, which the guard has not observed yet */
} TrainingPosition;

/* A copy of the training state in host memory, laid out as a checkpoint. The memory is allocated
 * once and reused: page faults on fresh memory cost several times as much as the copy. The GAN
 * must outlive it. */
typedef struct TrainingSnapshot TrainingSnapshot;
Status training_snapshot_new(Gan *gan, TrainingSnapshot **out, Error *error);
/* Copies the current state, replacing the previous copy. */
Status training_snapshot_take(TrainingSnapshot *snapshot, const TrainingPosition *position,
                              Error *error);
/* Submits the copy to the writer, which copies it again and keeps no pointer to it. */
Status training_snapshot_submit(const TrainingSnapshot *snapshot, CheckpointWriter *writer,
                                Error *error);
void training_snapshot_free(TrainingSnapshot *snapshot); /* NULL is allowed */

/* Sets the initial state: initialised weights, everything else 0. The GAN may have been trained
 * before. If run.init is set, `init` on rank 0 is that checkpoint (NULL on other ranks): its
 * weights replace those of the same name, and its EMA weights the EMA weights. Tensors that it
 * lacks stay initialised randomly; the log says how many. ERROR_USAGE for a tensor of another
 * shape, or if it has no tensor of the generator. `sources` (or NULL) locates config keys in
 * errors. All ranks return the same status. */
Status training_state_initialize(Gan *gan, Comm *comm, const Checkpoint *init,
                                 const ConfigSources *sources, Error *error);

typedef struct ResumePoint {
  int64_t step; /* steps done */
  StepOutcome pending;
  double augment_probability;
} ResumePoint;

/* Restores the GAN (allocated) and guard on every rank from the checkpoint of rank 0 (NULL on other
 * ranks). ERROR_USAGE, naming the difference, if network shapes, spectral norm, seed, global batch,
 * dataset or the weights of loss.perceptual differ from the config; other differences are logged.
 * `sources` (or NULL) locates config keys in errors. `rolling_back`: see guard_restore. All ranks
 * return the same status. */
Status training_state_restore(Gan *gan, GradientGuard *guard, Comm *comm,
                              const Checkpoint *checkpoint, const DataIdentity *data,
                              const ConfigSources *sources, bool rolling_back, ResumePoint *point,
                              Error *error);

#endif
