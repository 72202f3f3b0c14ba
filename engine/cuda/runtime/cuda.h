/* Declarations that the C files of the CUDA backend share. Internal to engine/cuda.
 *
 * A kernel is a struct whose first member is `Kernel`, as on the CPU. Its run function enqueues
 * work on the backend's stream and returns. It neither allocates nor waits, so that it can be
 * captured in a CUDA graph. Each family of hand-written kernels has three files: NAME.h (launch
 * parameters as plain structs, and launchers with C linkage), NAME.c (constructors: shape checks,
 * workspace) and NAME.cu (the kernels).
 *
 * Pointers are 64-byte aligned unless a tensor is a view; element counts and indices are 64-bit. */
#ifndef CELFORGE_ENGINE_CUDA_RUNTIME_CUDA_H
#define CELFORGE_ENGINE_CUDA_RUNTIME_CUDA_H

#include <cuda_runtime.h>

#include "engine/backend/backend.h"

struct Nvrtc;     /* engine/cuda/nvrtc/nvrtc.h: compiles generated kernels */
struct Autotuner; /* engine/cuda/autotune/autotune.h: chooses and caches convolution plans */

typedef struct CudaBackend {
  Backend base; /* base.stream is `stream` */
  CudaOptions options;
  cudaStream_t stream;        /* kernels */
  struct cudaDeviceProp info; /* of options.device */
  const char *cache;          /* folder of plans and compiled kernels; NULL: no cache on disk */
  struct Nvrtc *nvrtc;
  struct Autotuner *autotuner;
  struct CudaStaging *staging;            /* staging.c */
  struct CudaTimingEvents *timing_events; /* timing_events.c; NULL before the first */
  bool is_stuck;                          /* failed or hung: waits query once, then give up */
  char description[384];
} CudaBackend;

static inline CudaBackend *cuda_backend(Backend *backend) {
  return (CudaBackend *)(void *)backend;
}

/* --- Errors ----------------------------------------------------------------------------------- */
/* ERROR_INTERNAL: "cudaMemcpyAsync (engine/cuda/runtime/staging.c:120): an illegal memory access
 * was ...". Clears the runtime's last error. */
Status cuda_error(cudaError_t code, const char *call, const char *file, int line, Error *error);

/* TRY for a call of the CUDA runtime. */
#define CUDA_TRY(call)                                                                             \
  do {                                                                                             \
    const cudaError_t cuda_code = (call);                                                          \
    if (cuda_code != cudaSuccess) {                                                                \
      status = cuda_error(cuda_code, #call, __FILE__, __LINE__, error);                            \
      goto done;                                                                                   \
    }                                                                                              \
  } while (0)

/* --- Waiting ---------------------------------------------------------------------------------- */
/* Polls until the event (all work of the stream) is done, for at most options.timeout seconds.
 * ERROR_INTERNAL on timeout, with `what` (the operation that waits) and the seconds waited. */
Status cuda_wait_event(CudaBackend *backend, cudaEvent_t event, const char *what, Error *error);
Status cuda_wait_stream(CudaBackend *backend, cudaStream_t stream, const char *what, Error *error);

/* --- Functions of the Backend table (backend.h has the contracts) ----------------------------- */
/* memory.c */
Status cuda_allocate(Backend *backend, size_t bytes, const char *what, void **out, Error *error);
void cuda_release(Backend *backend, void *memory);

/* staging.c */
Status cuda_staging_new(struct CudaStaging **out, Error *error); /* on the current device */
void cuda_staging_free(CudaBackend *backend);
/* Bytes of device memory that staging will allocate later. */
size_t cuda_staging_unallocated(const CudaBackend *backend);
Status cuda_upload(Backend *backend, void *destination, const void *source, size_t bytes,
                   Error *error);
Status cuda_download(Backend *backend, void *destination, const void *source, size_t bytes,
                     Error *error);

/* readback.c */
Status cuda_readback_new(Backend *backend, size_t bytes, Readback **out, Error *error);
Status cuda_readback_start(Backend *backend, Readback *readback, const void *source, Error *error);
Status cuda_readback_wait(Backend *backend, Readback *readback, const void **data, Error *error);
void cuda_readback_free(Backend *backend, Readback *readback);

/* timing_events.c */
Status cuda_record_event(Backend *backend, int index, Error *error);
Status cuda_event_seconds(Backend *backend, int from, int to, double *seconds, Error *error);
void cuda_timing_events_free(CudaBackend *backend);

/* graph_capture.c */
Status cuda_capture_begin(Backend *backend, Error *error);
Status cuda_capture_end(Backend *backend, void **out, Error *error);
Status cuda_capture_run(Backend *backend, void *captured, Error *error);
void cuda_capture_free(Backend *backend, void *captured);

/* --- Convolutions (engine/cuda/autotune, engine/cuda/cudnn) ----------------------------------- */
/* Creates the autotuner, with a cuDNN handle on backend->stream. Needs the backend's options,
 * stream, info and cache. */
Status autotuner_new(CudaBackend *backend, struct Autotuner **out, Error *error);
void autotuner_free(struct Autotuner *autotuner); /* NULL is allowed */
/* Compares bf16 and f32 convolutions of a few small shapes, all passes, with reference loops on the
 * device. ERROR_INTERNAL names the shape, the engine and what to do. A self-test that has passed
 * for this device, cuDNN and options is recorded in the cache folder and not repeated. */
Status conv_self_test(CudaBackend *backend, Error *error);
int cuda_cudnn_version(void); /* 91900 is 9.19.0 */

/* --- Kernel constructors, one per kind of op -------------------------------------------------- */
/* Backend.kernel_new for one OpKind. The caller frees the kernel. */
typedef Status CudaKernelNew(Backend *backend, const Op *op, const Tensor *inputs,
                             const Tensor *outputs, Kernel **out, Error *error);

/* engine/cuda/codegen: generated and compiled for each program */
CudaKernelNew cuda_pointwise_new, cuda_reduce_new;

/* engine/cuda/autotune/conv_kernel.c: cuDNN */
void cuda_prepare(Backend *backend, const KernelRequest *requests, int count);
CudaKernelNew cuda_conv3d_new, cuda_conv3d_backward_data_new, cuda_conv3d_backward_weights_new;

/* engine/cuda/kernels/matmul.c */
CudaKernelNew cuda_matmul_new;
/* engine/cuda/kernels/motion.c */
CudaKernelNew cuda_warp_new, cuda_translate_new;
/* engine/cuda/kernels/norm.c */
CudaKernelNew cuda_norm_new, cuda_norm_backward_new;
/* engine/cuda/kernels/concat_slice.c */
CudaKernelNew cuda_concat_new, cuda_slice_new;
/* engine/cuda/kernels/resample.c */
CudaKernelNew cuda_pad_new, cuda_pad_backward_new;
CudaKernelNew cuda_resize_new, cuda_resize_backward_new;
CudaKernelNew cuda_average_pool_new, cuda_average_pool_backward_new;
/* engine/cuda/kernels/max_pool.c */
CudaKernelNew cuda_max_pool_new, cuda_max_pool_backward_new;
/* engine/cuda/kernels/segment_norm.c */
CudaKernelNew cuda_segment_norm_new;
/* engine/cuda/kernels/update.c */
CudaKernelNew cuda_store_new, cuda_adam_new;

#endif
