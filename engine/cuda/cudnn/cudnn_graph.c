#include "engine/cuda/cudnn/cudnn_graph.h"

#include <dlfcn.h>
#include <stdlib.h>

#include "base/memory.h"

enum { MAX_DESCRIPTORS = 16, MAX_OPERATIONS = 3, ALIGNMENT = 16 };

struct CudnnGraph {
  cudnnBackendDescriptor_t graph;
  cudnnBackendDescriptor_t owned[MAX_DESCRIPTORS]; /* all, in creation order */
  int owned_count;
  cudnnBackendDescriptor_t operations[MAX_OPERATIONS];
  int operation_count;
  bool frames;
  int64_t next_uid; /* of virtual tensors */
};

Status cudnn_error(cudnnStatus_t code, const char *call, const char *file, int line, Error *error) {
  char message[1024] = "";
  cudnnGetLastErrorString(message, sizeof message);
  return error_set(error, ERROR_INTERNAL, "%s (%s:%d): %s%s%s", call, file, line,
                   cudnnGetErrorString(code), message[0] ? ": " : "", message);
}

const char *cudnn_library_path(void) {
  Dl_info info = {0};
  dladdr((const void *)(uintptr_t)cudnnGetVersion, &info);
  return info.dli_fname ? info.dli_fname : "unknown path";
}

/* --- Descriptors ------------------------------------------------------------------------------ */
static Status descriptor_new(CudnnGraph *graph, cudnnBackendDescriptorType_t type,
                             cudnnBackendDescriptor_t *out, Error *error) {
  Status status = OK;
  cudnnBackendDescriptor_t descriptor = NULL;
  CUDNN_TRY(cudnnBackendCreateDescriptor(type, &descriptor));
  graph->owned[graph->owned_count++] = descriptor;
  *out = descriptor;
done:
  return status;
}

static cudnnStatus_t set_int64s(cudnnBackendDescriptor_t descriptor,
                                cudnnBackendAttributeName_t name, int64_t count,
                                const int64_t *values) {
  return cudnnBackendSetAttribute(descriptor, name, CUDNN_TYPE_INT64, count, values);
}

static cudnnStatus_t set_descriptor(cudnnBackendDescriptor_t descriptor,
                                    cudnnBackendAttributeName_t name,
                                    cudnnBackendDescriptor_t value) {
  return cudnnBackendSetAttribute(descriptor, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static cudnnStatus_t set_dtype(cudnnBackendDescriptor_t descriptor,
                               cudnnBackendAttributeName_t name, DType dtype) {
  const cudnnDataType_t type = dtype == DTYPE_BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
  return cudnnBackendSetAttribute(descriptor, name, CUDNN_TYPE_DATA_TYPE, 1, &type);
}

static cudnnStatus_t set_float(cudnnBackendDescriptor_t descriptor,
                               cudnnBackendAttributeName_t name, float value) {
  return cudnnBackendSetAttribute(descriptor, name, CUDNN_TYPE_FLOAT, 1, &value);
}

/* Channels-last dimensions and strides of a shape; returns the rank. With `frames` the time axis is
 * merged into the batch; weights then have length 1 in time, so the same holds for them. */
static int64_t dimensions_of(Shape shape, bool frames, int64_t dims[5], int64_t strides[5]) {
  int64_t rank = 0;
  dims[rank++] = frames ? shape.dim[AXIS_N] * shape.dim[AXIS_T] : shape.dim[AXIS_N];
  dims[rank++] = shape.dim[AXIS_C];
  if (!frames) dims[rank++] = shape.dim[AXIS_T];
  dims[rank++] = shape.dim[AXIS_H];
  dims[rank++] = shape.dim[AXIS_W];
  int64_t stride = dims[1];
  strides[1] = 1;
  for (int64_t i = rank - 1; i >= 2; i--) {
    strides[i] = stride;
    stride *= dims[i];
  }
  strides[0] = stride;
  return rank;
}

/* `uid` 0: a virtual tensor, passed between two operations and never stored. */
static Status tensor_new(CudnnGraph *graph, int64_t uid, Shape shape, DType dtype,
                         cudnnBackendDescriptor_t *out, Error *error) {
  Status status = OK;
  cudnnBackendDescriptor_t tensor = NULL;
  int64_t dims[5], strides[5];
  const int64_t rank = dimensions_of(shape, graph->frames, dims, strides), alignment = ALIGNMENT;
  const bool is_virtual = uid == 0;
  if (is_virtual) uid = graph->next_uid++;
  TRY(descriptor_new(graph, CUDNN_BACKEND_TENSOR_DESCRIPTOR, &tensor, error));
  CUDNN_TRY(set_dtype(tensor, CUDNN_ATTR_TENSOR_DATA_TYPE, dtype));
  CUDNN_TRY(set_int64s(tensor, CUDNN_ATTR_TENSOR_DIMENSIONS, rank, dims));
  CUDNN_TRY(set_int64s(tensor, CUDNN_ATTR_TENSOR_STRIDES, rank, strides));
  CUDNN_TRY(set_int64s(tensor, CUDNN_ATTR_TENSOR_UNIQUE_ID, 1, &uid));
  CUDNN_TRY(set_int64s(tensor, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 1, &alignment));
  CUDNN_TRY(cudnnBackendSetAttribute(tensor, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1,
                                     &is_virtual));
  CUDNN_TRY(cudnnBackendFinalize(tensor));
  *out = tensor;
done:
  return status;
}

static Status convolution_settings_new(CudnnGraph *graph, const Convolution *c,
                                       cudnnBackendDescriptor_t *out, Error *error) {
  Status status = OK;
  cudnnBackendDescriptor_t settings = NULL;
  const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
  const int first = graph->frames ? 1 : 0;
  const int64_t spatial = 3 - first;
  int64_t stride[3], before[3], after[3], dilation[3];
  for (int i = first; i < 3; i++) {
    stride[i - first] = c->stride[i];
    before[i - first] = c->before[i];
    after[i - first] = c->after[i];
    dilation[i - first] = 1;
  }
  TRY(descriptor_new(graph, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, &settings, error));
  CUDNN_TRY(set_dtype(settings, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, DTYPE_F32));
  CUDNN_TRY(cudnnBackendSetAttribute(settings, CUDNN_ATTR_CONVOLUTION_CONV_MODE,
                                     CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode));
  CUDNN_TRY(set_int64s(settings, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, 1, &spatial));
  CUDNN_TRY(set_int64s(settings, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, spatial, stride));
  CUDNN_TRY(set_int64s(settings, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, spatial, before));
  CUDNN_TRY(set_int64s(settings, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, spatial, after));
  CUDNN_TRY(set_int64s(settings, CUDNN_ATTR_CONVOLUTION_DILATIONS, spatial, dilation));
  CUDNN_TRY(cudnnBackendFinalize(settings));
  *out = settings;
done:
  return status;
}

/* --- Operations ------------------------------------------------------------------------------- */
typedef struct PassNames {
  cudnnBackendDescriptorType_t type;
  cudnnBackendAttributeName_t settings, x, w, y, alpha, beta;
} PassNames;

static const PassNames pass_names[] = {
    [CONVOLUTION_FORWARD] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                             CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                             CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                             CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                             CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
                             CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                             CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
    [CONVOLUTION_BACKWARD_DATA] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                                   CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                                   CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                                   CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                                   CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
                                   CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                                   CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
    [CONVOLUTION_BACKWARD_WEIGHTS] =
        {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA},
};

static Status add_convolution(CudnnGraph *graph, const Convolution *c, cudnnBackendDescriptor_t x,
                              cudnnBackendDescriptor_t w, cudnnBackendDescriptor_t y,
                              Error *error) {
  Status status = OK;
  const PassNames *names = &pass_names[c->pass];
  cudnnBackendDescriptor_t settings = NULL, operation = NULL;
  TRY(convolution_settings_new(graph, c, &settings, error));
  TRY(descriptor_new(graph, names->type, &operation, error));
  CUDNN_TRY(set_descriptor(operation, names->settings, settings));
  CUDNN_TRY(set_descriptor(operation, names->x, x));
  CUDNN_TRY(set_descriptor(operation, names->w, w));
  CUDNN_TRY(set_descriptor(operation, names->y, y));
  CUDNN_TRY(set_float(operation, names->alpha, 1));
  CUDNN_TRY(set_float(operation, names->beta, 0));
  CUDNN_TRY(cudnnBackendFinalize(operation));
  graph->operations[graph->operation_count++] = operation;
done:
  return status;
}

/* to = mode(from, [second]) */
static Status add_pointwise(CudnnGraph *graph, cudnnPointwiseMode_t mode, double slope,
                            cudnnBackendDescriptor_t from, cudnnBackendDescriptor_t second,
                            cudnnBackendDescriptor_t to, Error *error) {
  Status status = OK;
  cudnnBackendDescriptor_t settings = NULL, operation = NULL;
  TRY(descriptor_new(graph, CUDNN_BACKEND_POINTWISE_DESCRIPTOR, &settings, error));
  CUDNN_TRY(cudnnBackendSetAttribute(settings, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE,
                                     1, &mode));
  CUDNN_TRY(set_dtype(settings, CUDNN_ATTR_POINTWISE_MATH_PREC, DTYPE_F32));
  if (mode == CUDNN_POINTWISE_RELU_FWD)
    CUDNN_TRY(cudnnBackendSetAttribute(settings, CUDNN_ATTR_POINTWISE_RELU_LOWER_CLIP_SLOPE,
                                       CUDNN_TYPE_DOUBLE, 1, &slope));
  CUDNN_TRY(cudnnBackendFinalize(settings));
  TRY(descriptor_new(graph, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, &operation, error));
  CUDNN_TRY(set_descriptor(operation, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, settings));
  CUDNN_TRY(set_descriptor(operation, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, from));
  if (second) CUDNN_TRY(set_descriptor(operation, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, second));
  CUDNN_TRY(set_descriptor(operation, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, to));
  CUDNN_TRY(cudnnBackendFinalize(operation));
  graph->operations[graph->operation_count++] = operation;
done:
  return status;
}

/* --- Graphs ----------------------------------------------------------------------------------- */
/* The convolution, then the fused bias and activation where the problem has them. */
static Status add_forward(CudnnGraph *graph, const Convolution *c, cudnnBackendDescriptor_t x,
                          cudnnBackendDescriptor_t w, Error *error) {
  Status status = OK;
  const bool activated = c->activation != ACTIVATION_NONE;
  const bool plain = !c->bias && !activated;
  cudnnBackendDescriptor_t from = NULL, to = NULL, bias = NULL;
  TRY(tensor_new(graph, plain ? CUDNN_UID_Y : 0, c->y, plain ? c->result : DTYPE_F32, &from,
                 error));
  TRY(add_convolution(graph, c, x, w, from, error));
  if (c->bias) {
    TRY(tensor_new(graph, CUDNN_UID_BIAS, shape_vector(c->y.dim[AXIS_C]), DTYPE_F32, &bias, error));
    TRY(tensor_new(graph, activated ? 0 : CUDNN_UID_Y, c->y, activated ? DTYPE_F32 : c->result, &to,
                   error));
    TRY(add_pointwise(graph, CUDNN_POINTWISE_ADD, 0, from, bias, to, error));
    from = to;
  }
  if (activated) {
    const bool tanh = c->activation == ACTIVATION_TANH;
    TRY(tensor_new(graph, CUDNN_UID_Y, c->y, c->result, &to, error));
    TRY(add_pointwise(graph, tanh ? CUDNN_POINTWISE_TANH_FWD : CUDNN_POINTWISE_RELU_FWD,
                      (double)c->slope, from, NULL, to, error));
  }
done:
  return status;
}

static Status add_backward_weights(CudnnGraph *graph, const Convolution *c, bool identity,
                                   cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t y,
                                   Error *error) {
  Status status = OK;
  cudnnBackendDescriptor_t from = NULL, to = NULL;
  TRY(tensor_new(graph, identity ? 0 : CUDNN_UID_W, c->w, identity ? DTYPE_F32 : c->result, &from,
                 error));
  TRY(add_convolution(graph, c, x, from, y, error));
  if (!identity) goto done;
  TRY(tensor_new(graph, CUDNN_UID_W, c->w, c->result, &to, error));
  TRY(add_pointwise(graph, CUDNN_POINTWISE_IDENTITY, 0, from, NULL, to, error));
done:
  return status;
}

static Status build(CudnnGraph *graph, const Convolution *c, bool identity, cudnnHandle_t handle,
                    Error *error) {
  Status status = OK;
  cudnnBackendDescriptor_t x = NULL, w = NULL, y = NULL;
  const bool data = c->pass == CONVOLUTION_BACKWARD_DATA;
  TRY(tensor_new(graph, CUDNN_UID_X, c->x, data ? c->result : c->operands, &x, error));
  if (c->pass != CONVOLUTION_BACKWARD_WEIGHTS)
    TRY(tensor_new(graph, CUDNN_UID_W, c->w, c->operands, &w, error));
  if (c->pass != CONVOLUTION_FORWARD)
    TRY(tensor_new(graph, CUDNN_UID_Y, c->y, c->operands, &y, error));
  if (c->pass == CONVOLUTION_FORWARD)
    TRY(add_forward(graph, c, x, w, error));
  else if (data)
    TRY(add_convolution(graph, c, x, w, y, error));
  else
    TRY(add_backward_weights(graph, c, identity, x, y, error));
  TRY(descriptor_new(graph, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, &graph->graph, error));
  CUDNN_TRY(cudnnBackendSetAttribute(graph->graph, CUDNN_ATTR_OPERATIONGRAPH_OPS,
                                     CUDNN_TYPE_BACKEND_DESCRIPTOR, graph->operation_count,
                                     graph->operations));
  if (handle)
    CUDNN_TRY(cudnnBackendSetAttribute(graph->graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE,
                                       CUDNN_TYPE_HANDLE, 1, &handle));
  CUDNN_TRY(cudnnBackendFinalize(graph->graph));
done:
  return status;
}

Status cudnn_graph_new(const Convolution *convolution, bool frames, bool identity,
                       cudnnHandle_t handle, CudnnGraph **out, Error *error) {
  CudnnGraph *graph = mem_new(1, sizeof *graph);
  graph->frames = frames;
  graph->next_uid = 100;
  const Status status = build(graph, convolution, identity, handle, error);
  *out = status == OK ? graph : NULL;
  if (status != OK) cudnn_graph_free(graph);
  return status;
}

void cudnn_graph_free(CudnnGraph *graph) {
  if (!graph) return;
  for (int i = graph->owned_count - 1; i >= 0; i--) cudnnBackendDestroyDescriptor(graph->owned[i]);
  free(graph);
}

cudnnBackendDescriptor_t cudnn_graph_descriptor(const CudnnGraph *graph) {
  return graph->graph;
}
