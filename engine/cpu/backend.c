/* The CPU backend: its function table, and the kernel constructor of each kind of op. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "base/bulk_memory.h"
#include "base/host.h"
#include "base/memory.h"
#include "base/thread.h"
#include "engine/cpu/convolution/onednn.h"
#include "engine/cpu/cpu.h"

static CpuKernelNew *const constructors[OP_KIND_COUNT] = {
    [OP_POINTWISE] = cpu_pointwise_new,
    [OP_REDUCE] = cpu_reduce_new,
    [OP_SEGMENT_SQUARED_NORM] = cpu_segment_norm_new,
    [OP_CONV3D] = cpu_conv3d_new,
    [OP_CONV3D_BACKWARD_DATA] = cpu_conv3d_backward_data_new,
    [OP_CONV3D_BACKWARD_WEIGHTS] = cpu_conv3d_backward_weights_new,
    [OP_MATMUL] = cpu_matmul_new,
    [OP_NORM] = cpu_norm_new,
    [OP_NORM_BACKWARD] = cpu_norm_backward_new,
    [OP_CONCAT] = cpu_concat_new,
    [OP_SLICE] = cpu_slice_new,
    [OP_PAD] = cpu_resample_new,
    [OP_PAD_BACKWARD] = cpu_resample_new,
    [OP_RESIZE] = cpu_resample_new,
    [OP_RESIZE_BACKWARD] = cpu_resample_new,
    [OP_AVERAGE_POOL] = cpu_resample_new,
    [OP_AVERAGE_POOL_BACKWARD] = cpu_resample_new,
    [OP_MAX_POOL] = cpu_max_pool_new,
    [OP_MAX_POOL_BACKWARD] = cpu_max_pool_backward_new,
    [OP_WARP] = cpu_warp_new,
    [OP_TRANSLATE] = cpu_translate_new,
    [OP_STORE] = cpu_store_new,
    [OP_ADAM] = cpu_adam_new,
};

static CpuBackend *cpu(Backend *backend) {
  return (CpuBackend *)(void *)backend;
}

static Status cpu_allocate(Backend *backend, size_t bytes, const char *what, void **out,
                           Error *error) {
  (void)backend;
  return mem_bulk(bytes, what, out, error);
}

static void cpu_release(Backend *backend, void *memory) {
  (void)backend;
  free(memory);
}

static Status cpu_copy(Backend *backend, void *destination, const void *source, size_t bytes,
                       Error *error) {
  (void)backend, (void)error;
  memcpy(destination, source, bytes);
  return OK;
}

/* --- Readbacks -------------------------------------------------------------------------------- */

/* Kernels run synchronously, so a readback is a copy. */
struct Readback {
  size_t bytes;
  max_align_t data[];
};

static Status cpu_readback_new(Backend *backend, size_t bytes, Readback **out, Error *error) {
  (void)backend, (void)error;
  *out = mem_new(1, sizeof(Readback) + bytes);
  (*out)->bytes = bytes;
  return OK;
}

static Status cpu_readback_start(Backend *backend, Readback *readback, const void *source,
                                 Error *error) {
  (void)backend, (void)error;
  memcpy(readback->data, source, readback->bytes);
  return OK;
}

static Status cpu_readback_wait(Backend *backend, Readback *readback, const void **data,
                                Error *error) {
  (void)backend, (void)error;
  *data = readback->data;
  return OK;
}

static void cpu_readback_free(Backend *backend, Readback *readback) {
  (void)backend;
  free(readback);
}

static Status cpu_synchronize(Backend *backend, Error *error) {
  (void)backend, (void)error;
  return OK;
}

/* --- Timing events ---------------------------------------------------------------------------- */

static Status cpu_record_event(Backend *backend, int index, Error *error) {
  CpuBackend *self = cpu(backend);
  (void)error;
  if (index >= self->event_capacity) {
    const int capacity = 2 * index + 64;
    self->events = mem_resize(self->events, (size_t)capacity, sizeof *self->events);
    for (int i = self->event_capacity; i < capacity; i++) self->events[i] = 0;
    self->event_capacity = capacity;
  }
  self->events[index] = clock_seconds();
  return OK;
}

static Status cpu_event_seconds(Backend *backend, int from, int to, double *seconds, Error *error) {
  const CpuBackend *self = cpu(backend);
  if (from >= self->event_capacity || to >= self->event_capacity)
    return error_set(error, ERROR_INTERNAL, "timing events %d and %d were not recorded", from, to);
  *seconds = self->events[to] - self->events[from];
  return OK;
}

static Status cpu_kernel_new(Backend *backend, const Op *op, const Tensor *inputs,
                             const Tensor *outputs, Kernel **out, Error *error) {
  *out = NULL;
  CpuKernelNew *constructor =
      op->kind >= 0 && op->kind < OP_KIND_COUNT ? constructors[op->kind] : NULL;
  if (!constructor)
    return error_set(error, ERROR_INTERNAL, "%s: the CPU backend has no kernel for op kind %d",
                     op->name ? op->name : "op", (int)op->kind);
  return constructor(backend, op, inputs, outputs, out, error);
}

static const char *cpu_describe(Backend *backend) {
  return cpu(backend)->description;
}

static bool cpu_supports_bf16(Backend *backend) {
  (void)backend;
  return onednn_bf16() != BF16_NONE;
}

static void cpu_free(Backend *backend) {
  if (!backend) return;
  onednn_free(cpu(backend)->onednn);
  free(cpu(backend)->events);
  free(backend);
}

static int default_threads(void) {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return host_processor_count();
#endif
}

Status backend_cpu_new(int threads, Backend **out, Error *error) {
  static const char *const bf16_names[] = {
      [BF16_NONE] = "not supported", [BF16_EMULATED] = "emulated", [BF16_NATIVE] = "native"};
  Status status = OK;
  *out = NULL;
  CpuBackend *made = mem_new(1, sizeof *made);
  if (threads < 0)
    FAIL(error, ERROR_USAGE, "CPU backend: %d threads, expected at least 0 (0: all processors)",
         threads);
  if (threads > host_thread_limit())
    FAIL(error, ERROR_USAGE,
         "%d compute threads (train.threads or --threads); at most %d are allowed on this host, "
         "which offers %d processor%s",
         threads, host_thread_limit(), host_processor_count(),
         host_processor_count() == 1 ? "" : "s");
  made->threads = threads > 0 ? threads : default_threads();
  made->base = (Backend){
      .name = "cpu",
      .allocate = cpu_allocate,
      .release = cpu_release,
      .upload = cpu_copy,
      .download = cpu_copy,
      .readback_new = cpu_readback_new,
      .readback_start = cpu_readback_start,
      .readback_wait = cpu_readback_wait,
      .readback_free = cpu_readback_free,
      .synchronize = cpu_synchronize,
      .record_event = cpu_record_event,
      .event_seconds = cpu_event_seconds,
      .kernel_new = cpu_kernel_new,
      .describe = cpu_describe,
      .supports_bf16 = cpu_supports_bf16,
      .free = cpu_free,
  };
  TRY(onednn_new(made->threads, &made->onednn, error));
  snprintf(made->description, sizeof made->description, "cpu: %d thread%s, %s, bf16 %s",
           made->threads, made->threads == 1 ? "" : "s", onednn_instructions(),
           bf16_names[onednn_bf16()]);
  *out = &made->base;
done:
  if (status != OK) cpu_free(&made->base);
  return status;
}
