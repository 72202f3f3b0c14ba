/* Model files: a generator in one safetensors file, with everything that translation needs.
 *
 * Tensors are the generator's weights in F16, with the names and the layout of checkpoints. The
 * metadata hold the model's config and its card. models/README.md is the specification. */
#ifndef CELFORGE_TRAINER_INFER_MODEL_FILE_H
#define CELFORGE_TRAINER_INFER_MODEL_FILE_H

#include "checkpoints/safetensors.h"
#include "engine/parameters/parameters.h"
#include "trainer/config/config.h"
#include "trainer/infer/model_card.h"

#define MODEL_FILE_ENDING ".safetensors"
#define MODEL_FILE_FORMAT "celforge-model"
enum { MODEL_FILE_VERSION = 1 };

/* Members of the metadata beside the card. */
#define MODEL_KEY_FORMAT         "format"
#define MODEL_KEY_FORMAT_VERSION "celforge.format_version"
#define MODEL_KEY_VERSION        "celforge.version"
#define MODEL_KEY_WEIGHTS        "celforge.weights"
#define MODEL_KEY_STEP           "celforge.step"
#define MODEL_KEY_SCALE          "celforge.scale"
#define MODEL_KEY_CHANNELS       "celforge.source_channels"
#define MODEL_KEY_RANGE          "celforge.range"
#define MODEL_KEY_SEED           "celforge.seed"
#define MODEL_KEY_CONFIG         "celforge." /* before the config's key: "celforge.model.norm" */
#define MODEL_RANGE              "-1 1"

/* Returns the keys of the config that decide the generator's structure, NULL-terminated. */
const char *const *model_config_keys(const Config *config);

typedef struct ModelFile {
  char *path;
  Safetensors *tensors;
  Config config;  /* defaults, and model_config_keys and run.seed as in the file */
  ModelCard card; /* points into `tensors` */
  int64_t scale, source_channels, step; /* see inference.h; step: of the training run */
  bool ema;                             /* the weights are running averages */
  uint64_t bytes;
} ModelFile;

/* Opens a model file and checks its metadata; files may come from strangers. ERROR_IO if it cannot
 * be read; ERROR_DATA with file, member and value if it is damaged, no model file, or of another
 * version of the format. The tensors are checked by model_file_load. */
Status model_file_open(const char *path, ModelFile **out, Error *error);
/* The same from memory, which must outlive *out; `name` names the file in errors. */
Status model_file_parse(const char *name, const void *bytes, size_t size, ModelFile **out,
                        Error *error);
void model_file_close(ModelFile *file); /* NULL is allowed */

/* Fails with ERROR_DATA unless the file's tensors are exactly `parameters` (frozen), in F16, with
 * their shapes; the message names the tensor and both shapes. Allocates nothing, so that a small
 * file cannot ask for much memory. */
Status model_file_check_tensors(const ModelFile *file, const Parameters *parameters, Error *error);
/* Uploads the weights, each equal to the file's F16 number, to the master array of `parameters`,
 * which are frozen, allocated and checked. ERROR_DATA for weights that are infinite or NaN. */
Status model_file_load(const ModelFile *file, Parameters *parameters, Error *error);

#endif
