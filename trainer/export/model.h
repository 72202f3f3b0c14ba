/* Writes a model file (trainer/infer/model_file.h). */
#ifndef CELFORGE_TRAINER_EXPORT_MODEL_H
#define CELFORGE_TRAINER_EXPORT_MODEL_H

#include "trainer/infer/inference.h"

/* Writes the generator in half precision with its card to `path`, whole or not at all. `properties`
 * are those of export_model_properties and are extended. ERROR_USAGE if the card is invalid, or for
 * weights that F16 cannot hold (beyond 65504, infinite or NaN), naming the tensor. */
Status export_model_file(Inference *inference, json_t *properties, const ModelCard *card,
                         const char *path, Error *error);

#endif
