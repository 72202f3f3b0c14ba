/* Networks in a checkpoint: the names, types and shapes of their tensors, and loading them.
 *
 *   generator.safetensors      NAME (master weights, our layout), ema.NAME
 *   discriminator.safetensors  NAME; absent without discriminators
 *
 * Convolution weights are [O,T,H,W,I] (PyTorch's are [O,I,T,H,W]), vectors [C]; all are f32. */
#ifndef CELFORGE_TRAINER_GAN_CHECKPOINT_WEIGHTS_H
#define CELFORGE_TRAINER_GAN_CHECKPOINT_WEIGHTS_H

#include "checkpoints/checkpoint.h"
#include "engine/parameters/parameters.h"
#include "trainer/config/config.h"

#define GENERATOR_FILE     "generator.safetensors"
#define DISCRIMINATOR_FILE "discriminator.safetensors"

/* A view of one parameter as a tensor called `name` (kept, not copied) whose data lie in the flat
 * array. */
NamedTensor parameter_tensor(const Parameter *parameter, char *name, const float *flat);

/* ERROR_USAGE unless `found` has the type and shape of `like`; the message names file, tensor and
 * both shapes. */
Status checkpoint_check_tensor(const Checkpoint *checkpoint, const char *file_name,
                               const NamedTensor *found, const NamedTensor *like, Error *error);

/* Finds `name` in one of the checkpoint's files. ERROR_USAGE where it is missing or unlike `like`.
 */
Status checkpoint_find_tensor(const Checkpoint *checkpoint, const char *file_name, const char *name,
                              const NamedTensor *like, const NamedTensor **out, Error *error);

/* Copies the tensors PREFIX + NAME of all parameters into `flat` [parameters->master.count]. */
Status checkpoint_load_parameters(const Checkpoint *checkpoint, const char *file_name,
                                  const char *prefix, const Parameters *parameters, float *flat,
                                  Error *error);

/* Reads the config that the checkpoint was written with. */
Status checkpoint_config(const Checkpoint *checkpoint, Config *config, Error *error);

/* Reads how many times larger than its source the output is: 1, or more for super-resolution. */
Status checkpoint_scale(const Checkpoint *checkpoint, int64_t *scale, Error *error);

/* Fills the master array of `parameters` (allocated, frozen) with the generator's averaged (EMA)
 * weights, or with the plain ones. */
Status checkpoint_load_generator(const Checkpoint *checkpoint, bool ema, Parameters *parameters,
                                 Error *error);

#endif
