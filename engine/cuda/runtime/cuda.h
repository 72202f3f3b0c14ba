/* What the C files of the CUDA backend share. Not for users of the engine.
 *
 * A kernel is a struct of its own whose first member is `Kernel`, as on the CPU. Its run enqueues
 * work on the backend's stream and returns: it allocates nothing and waits for nothing, so it can
 * be captured. Families of CUDA kernels are three files: NAME.h (plain structs of what a launch
 * needs, and the launchers, extern "C"), NAME.c (constructors: shapes, checks, workspace) and
 * NAME.cu (kernels).
 *
 * Pointers are 64-byte aligned unless a tensor is a view; element counts and indices are 64-bit. */
#ifndef CELFORGE_ENGINE_CUDA_RUNTIME_CUDA_H
#define CELFORGE_ENGINE_CUDA_RUNTIME_CUDA_H

#include <cuda_runtime.h>

#include "engine/backend/backend.h"

struct Jit;   /* engine/cuda/nvrtc/nvrtc.h: kernels compiled from source at plan time */
struct Autotuner; /* engine/cuda/autotune/autotune.h: chooses and keeps convolution plans */

typedef struct CudaBackend {
  Backend base; /* base.stream is `stream` */
  CudaOptions options;
  cudaStream_t stream;        /* kernels */
  struct cudaDeviceProp info; /* of options.device */
  const char *cache;          /* folder of plans and compiled kernels; NULL: nothing is kept */
  struct Jit *jit;
  struct Autotuner *autotuner;
  struct CudaStaging *staging; /* staging.c */
  struct CudaMarks *marks;     /* mark.c; NULL before the first */
  bool is_stuck;               /* failed or hung: a wait asks once, no more */
  char description[384];
} CudaBackend;

static inline CudaBackend *cuda_backend(Backend *backend) {
  return (CudaBackend *)(void *)backend;
}

/* --- Errors ----------------------------------------------------------------------------------- */
/* ERROR_INTERNAL: "cudaMemcpyAsync (engine/cuda/backend.c:120): an illegal memory access was ...".
 */
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
/* Waits until the event (or all of the stream's work) is done, asking now and then, for at most
 * options.timeout seconds: then ERROR_INTERNAL says what was waited for and how long. */
Status cuda_wait_event(CudaBackend *backend, cudaEvent_t event, const char *what, Error *error);
Status cuda_wait_stream(CudaBackend *backend, cudaStream_t stream, const char *what, Error *error);

/* --- Parts of the table, each in the file of its name ----------------------------------------- */
Status cuda_allocate(Backend *backend, size_t bytes, const char *what, void **out, Error *error);
void cuda_release(Backend *backend, void *memory);
Status cuda_memory(Backend *backend, DeviceMemory *out, Error *error);

Status cuda_staging_new(struct CudaStaging **out, Error *error); /* of the current device */
void cuda_staging_free(CudaBackend *backend);
size_t cuda_staging_to_come(const CudaBackend *backend); /* bytes of device memory */
Status cuda_upload(Backend *backend, void *destination, const void *source, size_t bytes,
                   Error *error);
Status cuda_download(Backend *backend, void *destination, const void *source, size_t bytes,
                     Error *error);

Status cuda_readback_new(Backend *backend, size_t bytes, Readback **out, Error *error);
Status cuda_readback_start(Backend *backend, Readback *readback, const void *source, Error *error);
Status cuda_readback_wait(Backend *backend, Readback *readback, const void **data, Error *error);
void cuda_readback_free(Backend *backend, Readback *readback);

Status cuda_mark(Backend *backend, int index, Error *error);
Status cuda_marked_seconds(Backend *backend, int from, int to, double *seconds, Error *error);
void cuda_marks_free(CudaBackend *backend);

Status cuda_capture_begin(Backend *backend, Error *error);
Status cuda_capture_end(Backend *backend, void **out, Error *error);
Status cuda_capture_run(Backend *backend, void *captured, Error *error);
void cuda_capture_free(Backend *backend, void *captured);

/* --- cuDNN (engine/cuda/autotune) ------------------------------------------------------------- */
Status autotuner_new(CudaBackend *backend, struct Autotuner **out, Error *error);
void autotuner_free(struct Autotuner *autotuner);
/* Compares bf16 and f32 convolutions of a few small shapes, all passes, with reference loops on the
 * device. ERROR_INTERNAL names the shape, the engine and what to do. A self-test that has passed for
 * this device, cuDNN and options is recorded in the cache folder and not repeated. */
Status conv_self_test(CudaBackend *backend, Error *error);
int cuda_cudnn_version(void); /* 91900 is 9.19.0 */

/* --- Constructors, one for each kind of op ---------------------------------------------------- */
typedef Status CudaKernelNew(Backend *backend, const Op *op, const Tensor *inputs,
                             const Tensor *outputs, Kernel **out, Error *error);

CudaKernelNew cuda_pointwise_new;   /* pointwise.c: compiled for each program */
CudaKernelNew cuda_reduce_new;      /* reduce.c: likewise */
CudaKernelNew cuda_segment_norm_new; /* segment_norm.c */
void cuda_prepare(Backend *backend, const KernelRequest *requests, int count); /* convolution.c */
CudaKernelNew cuda_conv3d_new; /* convolution.c: cuDNN */
CudaKernelNew cuda_conv3d_backward_data_new;
CudaKernelNew cuda_conv3d_backward_weights_new;
CudaKernelNew cuda_norm_new; /* norm.c */
CudaKernelNew cuda_norm_backward_new;
CudaKernelNew cuda_concat_new; /* movement.c */
CudaKernelNew cuda_slice_new;
CudaKernelNew cuda_pad_new; /* separable.c, to average_pool_backward */
CudaKernelNew cuda_pad_backward_new;
CudaKernelNew cuda_resize_new;
CudaKernelNew cuda_resize_backward_new;
CudaKernelNew cuda_average_pool_new;
CudaKernelNew cuda_average_pool_backward_new;
CudaKernelNew cuda_max_pool_new; /* max_pool.c */
CudaKernelNew cuda_max_pool_backward_new;
CudaKernelNew cuda_store_new; /* effects.c */
CudaKernelNew cuda_adam_new;

#endif
