/* Exports a trained generator to other programs: weights for PyTorch, or an ONNX graph. */
#ifndef CELFORGE_TRAINER_EXPORT_EXPORT_H
#define CELFORGE_TRAINER_EXPORT_EXPORT_H

#include <stdbool.h>

#include "base/error.h"

typedef enum ExportFormat { EXPORT_ONNX, EXPORT_SAFETENSORS } ExportFormat;

typedef struct ExportOptions {
  const char *checkpoint, *output;
  ExportFormat format;
  bool stream; /* ONNX of a single frame, with the layers' state as inputs and outputs */
  bool ema;    /* export the EMA weights, not the plain ones */
} ExportOptions;
/* Writes the generator to one file, completely or not at all. */
Status export_run(const ExportOptions *options, Error *error);

#endif
