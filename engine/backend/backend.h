/* A backend: memory, and a kernel for each op.
 *
 * A program requests its kernels when it is planned: shapes and dtypes are known then, addresses
 * are not. Each kernel states the workspace it needs, and runs many times with addresses. Kernels
 * access only their inputs, outputs and workspace, except that a backend may cache data derived
 * from buffers (reordered weights), keyed by the buffer's version. */
#ifndef CELFORGE_ENGINE_BACKEND_BACKEND_H
#define CELFORGE_ENGINE_BACKEND_BACKEND_H

#include "engine/graph/op.h"

/* Alignment in bytes of allocations, workspaces and values in the arena. Views of a buffer may
 * begin at any element. */
enum { MEMORY_ALIGNMENT = 64 };

/* Rounds up to a multiple of MEMORY_ALIGNMENT. */
static inline size_t memory_align(size_t bytes) {
  return (bytes + MEMORY_ALIGNMENT - 1) / MEMORY_ALIGNMENT * MEMORY_ALIGNMENT;
}

typedef struct Tensor {
  void *data; /* contiguous; aligned unless it is a view. NULL: absent, or not bound yet */
  Shape shape;
  DType dtype;
  Buffer *buffer; /* of a view or a reshape of one; NULL for values in the arena */
} Tensor;

typedef struct Kernel Kernel;
struct Kernel {
  size_t workspace; /* bytes that run needs, without content between runs */
  Status (*run)(Kernel *kernel, const Tensor *inputs, const Tensor *outputs, void *workspace,
                Error *error);
  void (*free)(Kernel *kernel);
};

/* The arguments of a kernel_new call. */
typedef struct KernelRequest {
  const Op *op;
  const Tensor *inputs, *outputs;
} KernelRequest;

/* Memory of the device. `staging` is the part of `free` that the backend reserves for staging
 * copies later. */
typedef struct DeviceMemory {
  size_t free, total, staging; /* bytes */
} DeviceMemory;

/* An asynchronous copy of a few numbers to the host: see readback_* of Backend. */
typedef struct Readback Readback;

struct Backend {
  const char *name; /* "cpu", "cuda" */
  /* `what` names the memory in errors. */
  Status (*allocate)(Backend *backend, size_t bytes, const char *what, void **out, Error *error);
  void (*release)(Backend *backend, void *memory);
  /* Copies from and to host memory, in order with the kernels. upload returns when `source` may be
   * reused (a device copies from its own staging buffer meanwhile), download when `destination` is
   * filled. */
  Status (*upload)(Backend *backend, void *destination, const void *source, size_t bytes,
                   Error *error);
  Status (*download)(Backend *backend, void *destination, const void *source, size_t bytes,
                     Error *error);
  /* An asynchronous download. readback_start copies the content that `source` has after all kernels
   * started so far, without waiting. readback_wait waits for that copy alone and returns its bytes,
   * which stay valid until the same readback is started again; ERROR_INTERNAL on timeout. A
   * readback that was never started returns zeros. */
  Status (*readback_new)(Backend *backend, size_t bytes, Readback **out, Error *error);
  Status (*readback_start)(Backend *backend, Readback *readback, const void *source, Error *error);
  Status (*readback_wait)(Backend *backend, Readback *readback, const void **data, Error *error);
  void (*readback_free)(Backend *backend, Readback *readback);
  /* Waits for everything started so far. */
  Status (*synchronize)(Backend *backend, Error *error);
  /* Records a timing event after everything started so far. In a capture it becomes part of the
   * captured graph, and each run records it again. Indices are small: 0, 1, 2, ... */
  Status (*record_event)(Backend *backend, int index, Error *error);
  /* Waits for two recorded events and gives the seconds between them. */
  Status (*event_seconds)(Backend *backend, int from, int to, double *seconds, Error *error);
  /* Optional. Begins or ends the range that an external profiler records. */
  void (*profiler_range)(Backend *backend, bool on);
  /* Optional: NULL if tensors are in host memory. */
  Status (*memory)(Backend *backend, DeviceMemory *out, Error *error);
  /* Optional. Between capture_begin and capture_end kernels are recorded instead of run;
   * capture_run then starts all of them at once, with the same addresses. After an error no capture
   * is active. */
  Status (*capture_begin)(Backend *backend, Error *error);
  Status (*capture_end)(Backend *backend, void **out, Error *error);
  Status (*capture_run)(Backend *backend, void *captured, Error *error);
  void (*capture_free)(Backend *backend, void *captured);
  /* Creates the kernel of `op` from its kind and attributes and the shapes and dtypes of `inputs`
   * and `outputs` (absent ones have a zero shape). ERROR_INTERNAL naming the op if the backend
   * cannot run it. Not called for OP_VIEW, OP_RESHAPE and OP_ALL_REDUCE. An output of OP_POINTWISE
   * may share memory with an input of the same shape and element size. */
  Status (*kernel_new)(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                       Kernel **out, Error *error);
  /* Optional. Receives all ops of a program first, so that slow kernels can be built in parallel;
   * errors are reported by kernel_new. */
  void (*prepare)(Backend *backend, const KernelRequest *requests, int count);
  /* The device in one line: "cpu: 2 threads, AVX-512, bf16 native". */
  const char *(*describe)(Backend *backend);
  /* True if bf16 convolutions run on this device. */
  bool (*supports_bf16)(Backend *backend);
  void *stream; /* opaque; NULL on the CPU */
  void (*free)(Backend *backend);
};

/* The CPU backend, on oneDNN and OpenMP. `threads` 0: OMP_NUM_THREADS or all processors. */
Status backend_cpu_new(int threads, Backend **out, Error *error);

/* The number of GPUs that this process may use. 0 if there is none, no driver, or no CUDA in this
 * build; `why` (may be NULL) then has the reason. */
int backend_cuda_device_count(Error *why);

/* The PCI bus id of a GPU, "0000:3b:00.0", which is unique within its host. */
enum { CUDA_PCI_BUS_ID_SIZE = 32 };
Status backend_cuda_pci_bus_id(int device, char id[CUDA_PCI_BUS_ID_SIZE], Error *error);

typedef struct CudaOptions {
  int device;
  bool deterministic;           /* equal runs give equal bytes: deterministic engines only */
  bool tf32;                    /* f32 convolutions on tensor cores, with 10 bits of mantissa */
  bool autotune;                /* measure convolution engines instead of trusting heuristics */
  bool no_graphs;               /* no CUDA graphs: capture_* are NULL */
  bool skip_selftest;           /* no self-test of the convolutions; for tests without them */
  size_t convolution_workspace; /* largest workspace of a convolution, bytes */
  int build_threads;            /* threads that build convolution plans; 0: one per processor */
  const char *cache; /* folder of plans and compiled kernels; NULL: $XDG_CACHE_HOME/celforge */
  double timeout;    /* seconds that a wait for the device may take */
} CudaOptions;
/* The CUDA backend, on cuDNN and own kernels. ERROR_USAGE in a build without CUDA. */
Status backend_cuda_new(const CudaOptions *options, Backend **out, Error *error);

#endif
