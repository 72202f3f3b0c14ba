/* A trained generator for others: PyTorch's names and layout, and ONNX.
 *
 * Names are those of a module tree with a list of blocks: "blocks.3.conv1.weight", and a norm's
 * gain and bias are its "weight" and "bias". Convolution weights are [O,I,T,H,W], those of
 * transposed ones [I,O,T,H,W], vectors [C], everything f32. docs/export.md holds the module that
 * loads them. */
#ifndef CELFORGE_TRAINER_EXPORT_EXPORT_H
#define CELFORGE_TRAINER_EXPORT_EXPORT_H

#include "checkpoints/safetensors.h"
#include "trainer/infer/inference.h"

typedef struct ExportedModel {
  const Config *config;
  Parameters *parameters;
  int64_t scale, source_channels; /* as in inference.h */
  int64_t step;                   /* training steps behind the weights */
  float *values;                  /* [parameters->total]: each parameter in PyTorch's layout */
  NamedTensor *tensors;           /* [parameters->count]: of `values`, as PyTorch sees them */
  json_t *properties;             /* an object of strings: how to build and to feed the network */
} ExportedModel;

/* "block3.conv1.norm.gain" is "blocks.3.conv1.norm.weight"; caller frees. */
char *export_name(const char *name);

/* The generator as a graph over f32 tensors [N,C,T,H,W] of any size: of whole clips, or of one
 * frame, with what layers remember of the frames before as inputs and outputs. A recurrent model
 * has the latter alone (ERROR_USAGE): its clips would have a fixed length. */
Status export_onnx(const ExportedModel *model, bool stream, const char *path, Error *error);

typedef enum ExportFormat { EXPORT_ONNX, EXPORT_SAFETENSORS } ExportFormat;

typedef struct ExportOptions {
  const char *checkpoint, *output;
  ExportFormat format;
  bool stream; /* ONNX of a single frame, with the state of the frames before */
  bool ema;    /* as above */
} ExportOptions;
/* The generator for other programs (trainer/export/export.h), in one file that is whole or absent.
 */
Status export_run(const ExportOptions *options, Error *error);

#endif
