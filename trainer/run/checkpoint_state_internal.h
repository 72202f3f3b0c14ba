/* Shared by training_snapshot.c, which saves the training state, and checkpoint_state.c, which
 * restores it. */
#ifndef CELFORGE_TRAINER_RUN_CHECKPOINT_STATE_INTERNAL_H
#define CELFORGE_TRAINER_RUN_CHECKPOINT_STATE_INTERNAL_H

#include "trainer/config/config.h"

#define OPTIMIZER_FILE          "optimizer.safetensors"
#define PERCEPTUAL_CHECKSUM_KEY "perceptual_crc32c" /* in state.json */

/* Returns the config without paths: a run may be moved to another folder. */
Config config_without_paths(const Config *config);

#endif
