/* Shared by training_snapshot.c, which saves the training state, and checkpoint_state.c, which
 * restores it. */
#ifndef CELFORGE_TRAINER_RUN_CHECKPOINT_STATE_INTERNAL_H
#define CELFORGE_TRAINER_RUN_CHECKPOINT_STATE_INTERNAL_H

#include "trainer/gan/gan.h"

#define OPTIMIZER_FILE          "optimizer.safetensors"
#define PERCEPTUAL_CHECKSUM_KEY "perceptual_crc32c" /* in state.json */
#define AUGMENT_PROBABILITY_KEY "augment_probability"
#define TARGET_UUID_KEY         "target_dataset_uuid" /* in manifest.json */

/* The checkpoint's file with the weights of a network. */
const char *network_file(Network network);

/* Returns the config without paths: a run may be moved to another folder. */
Config config_without_paths(const Config *config);

#endif
