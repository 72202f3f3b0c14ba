/* Finds installed model files by name.
 *
 * Folders, in this order; of two models with one name the first counts:
 *   $CELFORGE_MODELS, if set (several folders are separated by colons)
 *   models/ in the source tree, if the program is in a build folder of it
 *   ../share/celforge/models, from the folder of the program: where `make install` copies them */
#ifndef CELFORGE_TRAINER_INFER_MODEL_SEARCH_H
#define CELFORGE_TRAINER_INFER_MODEL_SEARCH_H

#include <stddef.h>

#include "base/text.h"
#include "trainer/infer/model_file.h"

typedef struct ModelList {
  size_t count;
  ModelFile **files; /* sorted by name */
} ModelList;

/* Opens all models of the folders. A file that is no valid model is left out with a warning. A
 * missing folder counts as empty; other ERROR_IO are passed on. */
Status model_list_open(ModelList *out, Error *error);
void model_list_close(ModelList *list);
/* Appends "comic, pencil"; "none" for an empty list. */
void model_list_append_names(const ModelList *list, Text *out);

/* Opens the model called `name`: a path, if it holds a slash or ends with .safetensors, else the
 * name of a model in the folders. ERROR_USAGE for an unknown name, with the nearest one and the
 * list of all. */
Status model_open(const char *name, ModelFile **out, Error *error);

#endif
