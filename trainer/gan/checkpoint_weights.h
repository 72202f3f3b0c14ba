/* The networks' tensors in a checkpoint: their names, types and shapes, and how to load them.
 *
 *   generator.safetensors      NAME (master weights, our layout), ema.NAME
 *   discriminator.safetensors  NAME; the file is absent without discriminators
 *
 * Convolution weights are [O,T,H,W,I] (PyTorch's are [O,I,T,H,W]), vectors [C]; all are f32. */
#ifndef CELFORGE_TRAINER_GAN_CHECKPOINT_WEIGHTS_H
#define CELFORGE_TRAINER_GAN_CHECKPOINT_WEIGHTS_H

#include "checkpoints/checkpoint.h"
#include "engine/parameters/parameters.h"
#include "trainer/config/config.h"

#define GENERATOR_FILE     "generator.safetensors"
#define DISCRIMINATOR_FILE "discriminator.safetensors"
#define PROJECTION_FILE    "projection.safetensors"

/* Returns a view of one parameter in the flat array as a tensor called `name`. Neither the name nor
 * the data is copied. */
NamedTensor parameter_tensor(const Parameter *parameter, char *name, const float *flat);

/* ERROR_USAGE unless `found` has the type and shape of `expected`; the message names the file, the
 * tensor and both shapes. */
Status checkpoint_check_tensor(const Checkpoint *checkpoint, const char *file_name,
                               const NamedTensor *found, const NamedTensor *expected, Error *error);

/* Finds `name` in one of the checkpoint's files. ERROR_USAGE if it is missing or does not match
 * `expected`. */
Status checkpoint_find_tensor(const Checkpoint *checkpoint, const char *file_name, const char *name,
                              const NamedTensor *expected, const NamedTensor **out, Error *error);

/* Copies the tensors PREFIX + NAME of all parameters into `flat` [parameters->master.count]. */
Status checkpoint_load_parameters(const Checkpoint *checkpoint, const char *file_name,
                                  const char *prefix, const Parameters *parameters, float *flat,
                                  Error *error);

/* Reads the config that the checkpoint was written with. */
Status checkpoint_config(const Checkpoint *checkpoint, Config *config, Error *error);

/* Reads the ratio of the output's size to the source's: 1, or more for super-resolution. */
Status checkpoint_scale(const Checkpoint *checkpoint, int64_t *scale, Error *error);

/* Uploads the generator's EMA weights (`ema`), or its plain ones, to the master array of
 * `parameters`, which are frozen and allocated. */
Status checkpoint_load_generator(const Checkpoint *checkpoint, bool ema, Parameters *parameters,
                                 Error *error);

#endif
