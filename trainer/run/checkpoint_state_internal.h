/* What the files that save, restore and begin a run's state have in common. */
#ifndef CELFORGE_TRAINER_RUN_CHECKPOINT_STATE_INTERNAL_H
#define CELFORGE_TRAINER_RUN_CHECKPOINT_STATE_INTERNAL_H

#include "trainer/run/checkpoint_state.h"

#define STATE_GENERATOR_FILE     "generator.safetensors"
#define STATE_DISCRIMINATOR_FILE "discriminator.safetensors"

/* A parameter as a tensor called `name`, which it keeps; its data lie in the flat array. */
NamedTensor state_tensor(const Parameter *parameter, char *name, const float *flat);
/* ERROR_USAGE where what a checkpoint's file holds is not of the type and shape of `like`. */
Status state_check_tensor(const Checkpoint *checkpoint, const char *file_name,
                          const NamedTensor *found, const NamedTensor *like, Error *error);

#endif
