/* A convolution as a graph of cuDNN's backend API: tensor, convolution, pointwise and operation
 * descriptors, finalised. Needs neither a handle nor a device. Attribute names, types and counts
 * are those of cuDNN 9's backend API reference (cudnn_graph.h).
 *
 * Tensors are NDHWC or NHWC by their strides: dimensions are given as [N,C,D,H,W] or [N,C,H,W],
 * weights as [O,I,T,R,S] or [O,I,R,S]. All are 16-byte aligned. Arithmetic is f32. */
#ifndef CELFORGE_ENGINE_CUDA_CUDNN_CUDNN_GRAPH_H
#define CELFORGE_ENGINE_CUDA_CUDNN_CUDNN_GRAPH_H

#include <cudnn.h>

#include "engine/cuda/convolution/conv_variant.h"

/* --- Calls, checked --------------------------------------------------------------------------- */
/* ERROR_INTERNAL: "cudnnBackendFinalize(operation) (engine/cuda/cudnn/cudnn_graph.c:90):
 * CUDNN_STATUS_BAD_PARAM: " and cuDNN's own words. */
Status cudnn_error(cudnnStatus_t code, const char *call, const char *file, int line, Error *error);

/* The file that cuDNN was loaded from. It is several libraries that load each other by name: where
 * two versions can be found, or one of them is missing, calls fail, and this is the trace. */
const char *cudnn_place(void);

#define CUDNN_TRY(call)                                                                            \
  do {                                                                                             \
    const cudnnStatus_t cudnn_code = (call);                                                       \
    if (cudnn_code != CUDNN_STATUS_SUCCESS) {                                                      \
      status = cudnn_error(cudnn_code, #call, __FILE__, __LINE__, error);                          \
      goto done;                                                                                   \
    }                                                                                              \
  } while (0)

/* --- Graphs ----------------------------------------------------------------------------------- */
/* What the tensors of a graph are called in a variant pack. */
enum { CUDNN_UID_X = 1, CUDNN_UID_W, CUDNN_UID_Y, CUDNN_UID_BIAS };

typedef struct CudnnGraph CudnnGraph;

/* `convolution` is taken as it is (convolution_inner): a bias of a forward pass is f32 [O].
 * `identity`: a gradient of weights goes through an identity to its dtype. `handle`: of the device
 * that will run it; NULL where the graph is only described. An op that cuDNN refuses is
 * ERROR_INTERNAL with its shapes and cuDNN's words. */
Status cudnn_graph_new(const Convolution *convolution, bool frames, bool identity,
                       cudnnHandle_t handle, CudnnGraph **out, Error *error);
void cudnn_graph_free(CudnnGraph *graph);
cudnnBackendDescriptor_t cudnn_graph_descriptor(const CudnnGraph *graph);

#endif
