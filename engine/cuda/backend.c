/* The CUDA backend: its function table, the kernel constructor of each op, opening and closing. */
#include <cuda_profiler_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"
#include "engine/cuda/nvrtc/nvrtc.h"
#include "engine/cuda/runtime/cuda.h"

/* Smallest compute capability: bf16 on tensor cores, asynchronous 16-byte copies. */
enum { MIN_COMPUTE_MAJOR = 8 };

static CudaKernelNew *const constructors[OP_KIND_COUNT] = {
    [OP_POINTWISE] = cuda_pointwise_new,
    [OP_REDUCE] = cuda_reduce_new,
    [OP_SEGMENT_SQUARED_NORM] = cuda_segment_norm_new,
    [OP_CONV3D] = cuda_conv3d_new,
    [OP_CONV3D_BACKWARD_DATA] = cuda_conv3d_backward_data_new,
    [OP_CONV3D_BACKWARD_WEIGHTS] = cuda_conv3d_backward_weights_new,
    [OP_MATMUL] = cuda_matmul_new,
    [OP_NORM] = cuda_norm_new,
    [OP_NORM_BACKWARD] = cuda_norm_backward_new,
    [OP_CONCAT] = cuda_concat_new,
    [OP_SLICE] = cuda_slice_new,
    [OP_PAD] = cuda_pad_new,
    [OP_PAD_BACKWARD] = cuda_pad_backward_new,
    [OP_RESIZE] = cuda_resize_new,
    [OP_RESIZE_BACKWARD] = cuda_resize_backward_new,
    [OP_AVERAGE_POOL] = cuda_average_pool_new,
    [OP_AVERAGE_POOL_BACKWARD] = cuda_average_pool_backward_new,
    [OP_MAX_POOL] = cuda_max_pool_new,
    [OP_MAX_POOL_BACKWARD] = cuda_max_pool_backward_new,
    [OP_WARP] = cuda_warp_new,
    [OP_TRANSLATE] = cuda_translate_new,
    [OP_STORE] = cuda_store_new,
    [OP_ADAM] = cuda_adam_new,
};

static Status cuda_kernel_new(Backend *backend, const Op *op, const Tensor *inputs,
                              const Tensor *outputs, Kernel **out, Error *error) {
  *out = NULL;
  CudaKernelNew *constructor =
      op->kind >= 0 && op->kind < OP_KIND_COUNT ? constructors[op->kind] : NULL;
  if (!constructor)
    return error_set(error, ERROR_INTERNAL, "%s: the CUDA backend has no kernel for op kind %d",
                     op->name ? op->name : "op", (int)op->kind);
  return constructor(backend, op, inputs, outputs, out, error);
}

/* The backend's stream waits by events for every other stream that was given work. */
static Status cuda_synchronize(Backend *backend, Error *error) {
  CudaBackend *self = cuda_backend(backend);
  return cuda_wait_stream(self, self->stream, "waiting for all work", error);
}

static const char *cuda_describe(Backend *backend) {
  return cuda_backend(backend)->description;
}

static bool cuda_supports_bf16(Backend *backend) {
  (void)backend;
  return true;
}

static void cuda_profiler_range(Backend *backend, bool on) {
  (void)backend;
  if (on)
    cudaProfilerStart();
  else
    cudaProfilerStop();
}

static Status cuda_memory(Backend *backend, DeviceMemory *out, Error *error) {
  Status status = OK;
  *out = (DeviceMemory){.staging = cuda_staging_unallocated(cuda_backend(backend))};
  CUDA_TRY(cudaMemGetInfo(&out->free, &out->total));
done:
  return status;
}

static void exit_without_cleanup(int exit_code, void *nothing) {
  (void)nothing;
  fflush(NULL);
  _exit(exit_code);
}

/* Frees nothing of a device that hangs, since every such call would wait for it; the CUDA runtime's
 * own exit handlers may wait as well, so the process then exits without them. A device that timed
 * out earlier gets one more second. */
static void cuda_free(Backend *backend) {
  CudaBackend *self = cuda_backend(backend);
  if (!self) return;
  if (self->is_stuck) self->options.timeout = 1;
  self->is_stuck = false;
  if (!self->stream || cuda_synchronize(backend, NULL) == OK) {
    autotuner_free(self->autotuner);
    nvrtc_free(self->nvrtc);
    cuda_staging_free(self);
    cuda_timing_events_free(self);
    if (self->stream) cudaStreamDestroy(self->stream);
  } else {
    on_exit(exit_without_cleanup, NULL);
  }
  free((char *)(uintptr_t)self->cache);
  free(self);
}

/* --- Opening ---------------------------------------------------------------------------------- */

int backend_cuda_device_count(Error *why) {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaSuccess && count > 0) return count;
  cudaGetLastError();
  if (code == cudaErrorInsufficientDriver) {
    error_set(why, ERROR_USAGE, "no NVIDIA driver, or it is too old for CUDA %d.%d",
              CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
  } else {
    error_set(why, ERROR_USAGE, "no GPU: %s", cudaGetErrorString(code));
  }
  return 0;
}

static Status choose_device(CudaBackend *self, Error *error) {
  Status status = OK;
  Error why = {0};
  const int device = self->options.device, count = backend_cuda_device_count(&why);
  if (count == 0) FAIL(error, ERROR_USAGE, "%s", why.message);
  if (device < 0 || device >= count)
    FAIL(error, ERROR_USAGE, "GPU %d: not found; this process sees %d (indices from 0)", device,
         count);
  CUDA_TRY(cudaGetDeviceProperties(&self->info, device));
  if (self->info.major < MIN_COMPUTE_MAJOR)
    FAIL(error, ERROR_USAGE,
         "GPU %d (%s): compute capability %d.%d, at least %d.0 (Ampere) is needed", device,
         self->info.name, self->info.major, self->info.minor, MIN_COMPUTE_MAJOR);
  const cudaError_t code = cudaSetDevice(device);
  if (code == cudaErrorDevicesUnavailable)
    FAIL(error, ERROR_USAGE,
         "GPU %d (%s): unavailable; another process uses it exclusively (compute mode exclusive), "
         "or it accepts no work now (nvidia-smi shows which)",
         device, self->info.name);
  CUDA_TRY(code);
done:
  return status;
}

/* Kernels get the lowest priority: collectives and copies then start at once and overlap with them.
 */
static Status make_stream(CudaBackend *self, Error *error) {
  Status status = OK;
  int least = 0, greatest = 0;
  CUDA_TRY(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  CUDA_TRY(cudaStreamCreateWithPriority(&self->stream, cudaStreamNonBlocking, least));
done:
  return status;
}

/* The cache folder `requested`, or the default one (NULL). Returns NULL if there is none or it
 * cannot be created: the backend then runs without a cache on disk. The caller frees it. */
static char *open_cache(const char *requested) {
  Error error = {0};
  const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  char *folder = NULL;
  if (requested) {
    folder = mem_string(requested);
  } else if (base && base[0]) {
    folder = mem_format("%s/celforge", base);
  } else if (home && home[0]) {
    folder = mem_format("%s/.cache/celforge", home);
  } else {
    return NULL;
  }
  if (folder_create(folder, &error) == OK) return folder;
  log_warning("%s; compiled kernels and convolution plans are not cached on disk", error.message);
  free(folder);
  return NULL;
}

static void describe_device(CudaBackend *self) {
  int driver = 0;
  const int cudnn = cuda_cudnn_version();
  Text memory = {0};
  cudaDriverGetVersion(&driver);
  text_append_size(&memory, (double)self->info.totalGlobalMem);
  snprintf(self->description, sizeof self->description,
           "cuda: %s, %s, sm_%d%d, driver %d.%d, cuDNN %d.%d, bf16 native", self->info.name,
           memory.data, self->info.major, self->info.minor, driver / 1000, driver % 1000 / 10,
           cudnn / 10000, cudnn % 10000 / 100);
  text_free(&memory);
}

static Backend table(const CudaOptions *options) {
  Backend made = {
      .name = "cuda",
      .allocate = cuda_allocate,
      .release = cuda_release,
      .upload = cuda_upload,
      .download = cuda_download,
      .readback_new = cuda_readback_new,
      .readback_start = cuda_readback_start,
      .readback_wait = cuda_readback_wait,
      .readback_free = cuda_readback_free,
      .synchronize = cuda_synchronize,
      .record_event = cuda_record_event,
      .event_seconds = cuda_event_seconds,
      .profiler_range = cuda_profiler_range,
      .memory = cuda_memory,
      .kernel_new = cuda_kernel_new,
      .prepare = cuda_prepare,
      .describe = cuda_describe,
      .supports_bf16 = cuda_supports_bf16,
      .free = cuda_free,
  };
  if (options->no_graphs) return made;
  made.capture_begin = cuda_capture_begin;
  made.capture_end = cuda_capture_end;
  made.capture_run = cuda_capture_run;
  made.capture_free = cuda_capture_free;
  return made;
}

Status backend_cuda_new(const CudaOptions *options, Backend **out, Error *error) {
  Status status = OK;
  CudaBackend *made = mem_new(1, sizeof *made);
  *out = NULL;
  made->base = table(options);
  made->options = *options;
  TRY(choose_device(made, error));
  made->cache = open_cache(options->cache);
  made->options.cache = made->cache;
  describe_device(made);
  prctl(PR_SET_TIMERSLACK, 1000UL); /* ns; the default lengthens each short sleep by 50 us */
  TRY(make_stream(made, error));
  made->base.stream = made->stream;
  TRY(cuda_staging_new(&made->staging, error));
  TRY(nvrtc_new(made->info.major, made->info.minor, made->cache, &made->nvrtc, error));
  TRY(autotuner_new(made, &made->autotuner, error));
  if (!options->skip_selftest) TRY(conv_self_test(made, error));
  *out = &made->base;
  made = NULL;
done:
  if (made) cuda_free(&made->base);
  return status;
}
