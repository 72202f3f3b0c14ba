/* The generator as an ONNX graph. */
#ifndef CELFORGE_TRAINER_EXPORT_ONNX_GRAPH_H
#define CELFORGE_TRAINER_EXPORT_ONNX_GRAPH_H

#include "checkpoints/safetensors.h"
#include "trainer/infer/inference.h"

/* A generator with its weights in PyTorch's layout. */
typedef struct ExportedModel {
  const Config *config;
  Parameters *parameters;
  int64_t scale, source_channels; /* see inference.h */
  int64_t step;                   /* training steps of the weights */
  float *values;                  /* [parameters->total], in PyTorch's layout */
  NamedTensor *tensors;           /* [parameters->count], pointing into `values` */
  json_t *properties;             /* string values: how to build the network and feed it */
} ExportedModel;

/* Writes the generator as an ONNX graph over f32 tensors [N,C,T,H,W] of any size: on whole clips,
 * or (`stream`) on one frame, with the state of the temporal layers as inputs and outputs. A
 * recurrent generator supports only the latter (ERROR_USAGE), because unrolling fixes the length of
 * a clip. */
Status export_onnx(const ExportedModel *model, bool stream, const char *path, Error *error);

#endif
