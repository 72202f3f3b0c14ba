/* A convolution as an operation graph of cuDNN's backend API: finalised descriptors of tensors,
 * convolution, pointwise operations and the graph. Needs neither a handle nor a device. Attribute
 * names, types and counts follow the backend API reference of cuDNN 9 (cudnn_graph.h).
 *
 * Tensors are NDHWC or NHWC, expressed by strides: dimensions are [N,C,D,H,W] or [N,C,H,W], those
 * of weights [O,I,T,R,S] or [O,I,R,S]. All tensors are 16-byte aligned. Arithmetic is f32. */
#ifndef CELFORGE_ENGINE_CUDA_CUDNN_CUDNN_GRAPH_H
#define CELFORGE_ENGINE_CUDA_CUDNN_CUDNN_GRAPH_H

#include <cudnn.h>

#include "base/error.h"
#include "engine/cuda/cudnn/conv_problem.h"

/* --- Error handling --------------------------------------------------------------------------- */
/* ERROR_INTERNAL: "cudnnBackendFinalize(operation) (engine/cuda/cudnn/cudnn_graph.c:90):
 * CUDNN_STATUS_BAD_PARAM: " and cuDNN's last error string. */
Status cudnn_error(cudnnStatus_t code, const char *call, const char *file, int line, Error *error);

/* The path of the cuDNN library in use, for error messages. cuDNN is several libraries that load
 * each other by name: calls fail where two versions are on the search path, or one part is missing.
 */
const char *cudnn_library_path(void);

/* TRY for a call of cuDNN. */
#define CUDNN_TRY(call)                                                                            \
  do {                                                                                             \
    const cudnnStatus_t cudnn_code = (call);                                                       \
    if (cudnn_code != CUDNN_STATUS_SUCCESS) {                                                      \
      status = cudnn_error(cudnn_code, #call, __FILE__, __LINE__, error);                          \
      goto done;                                                                                   \
    }                                                                                              \
  } while (0)

/* --- Graphs ----------------------------------------------------------------------------------- */
/* The unique ids of a graph's tensors in a variant pack. */
enum { CUDNN_UID_X = 1, CUDNN_UID_W, CUDNN_UID_Y, CUDNN_UID_BIAS };

typedef struct CudnnGraph CudnnGraph;

/* Builds the graph of exactly this convolution (conv_variant_apply); the bias of a forward pass is
 * f32 [O]. `frames`: the batch and time axes are merged, so that tensors are 4-D images.
 * `identity`: the gradient of the weights passes through a fused identity that converts it to
 * `result`. `handle`: of the device that will run the graph, or NULL for a described device.
 * ERROR_INTERNAL with cuDNN's message where cuDNN rejects the convolution. */
Status cudnn_graph_new(const Convolution *convolution, bool frames, bool identity,
                       cudnnHandle_t handle, CudnnGraph **out, Error *error);
void cudnn_graph_free(CudnnGraph *graph);
cudnnBackendDescriptor_t cudnn_graph_descriptor(const CudnnGraph *graph);

#endif
