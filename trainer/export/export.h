/* Exports a trained generator: weights for PyTorch, an ONNX graph, or a model file for Celforge. */
#ifndef CELFORGE_TRAINER_EXPORT_EXPORT_H
#define CELFORGE_TRAINER_EXPORT_EXPORT_H

#include <stdbool.h>

#include "trainer/infer/open_model.h"

typedef enum ExportFormat { EXPORT_ONNX, EXPORT_SAFETENSORS, EXPORT_MODEL } ExportFormat;

typedef struct ExportOptions {
  ModelChoice model;
  const char *output;
  ExportFormat format;
  bool stream;    /* ONNX of a single frame, with the layers' state as inputs and outputs */
  ModelCard card; /* of EXPORT_MODEL; name and date NULL: the output's name, and today (UTC) */
} ExportOptions;
/* Writes the generator to one file, completely or not at all. ERROR_USAGE if the output is a file
 * of the input. */
Status export_run(const ExportOptions *options, Error *error);

#endif
