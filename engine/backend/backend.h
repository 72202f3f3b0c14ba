/* A backend: memory, and a kernel for each op.
 *
 * The program asks for a kernel when it is planned, knowing shapes and dtypes but no addresses, and
 * learns how much workspace it needs; it runs the kernel many times with the addresses. Kernels
 * read nothing from and write nothing to anywhere else, except that a backend may cache what it
 * derives from buffers (reordered weights), keyed by the buffer's version. */
#ifndef CELFORGE_ENGINE_BACKEND_BACKEND_H
#define CELFORGE_ENGINE_BACKEND_BACKEND_H

#include "engine/graph/op.h"

/* What begins at multiples of this many bytes: all that a backend allocates, workspaces, and values
 * in the arena. Views of a buffer begin anywhere. */
enum { MEMORY_ALIGNMENT = 64 };

static inline size_t memory_align(size_t bytes) { /* up to the next multiple */
  return (bytes + MEMORY_ALIGNMENT - 1) / MEMORY_ALIGNMENT * MEMORY_ALIGNMENT;
}

typedef struct Tensor {
  void *data; /* contiguous; aligned unless it is a view. NULL: absent, or not known yet */
  Shape shape;
  DType dtype;
  Buffer *buffer; /* what a view (or a reshape of one) lies in; NULL for values in the arena */
} Tensor;

typedef struct Kernel Kernel;
struct Kernel {
  size_t workspace; /* bytes, needed during run alone */
  Status (*run)(Kernel *kernel, const Tensor *inputs, const Tensor *outputs, void *workspace,
                Error *error);
  void (*free)(Kernel *kernel);
};

/* What kernel_new is asked for. */
typedef struct KernelRequest {
  const Op *op;
  const Tensor *inputs, *outputs;
} KernelRequest;

/* A device's own memory. `staging`: what of the free one the backend will still take for copies. */
typedef struct DeviceMemory {
  size_t free, total, staging; /* bytes */
} DeviceMemory;

/* A copy of a few numbers on their way back to the host: see the backend's readback functions. */
typedef struct Readback Readback;

struct Backend {
  const char *name; /* "cpu", "cuda" */
  Status (*allocate)(Backend *backend, size_t bytes, const char *what, void **out, Error *error);
  void (*release)(Backend *backend, void *memory);
  /* Both in order with the kernels. `source` may be used again when upload returns (a device copies
   * from a staging buffer of its own meanwhile); download returns when `destination` is filled. */
  Status (*upload)(Backend *backend, void *destination, const void *source, size_t bytes,
                   Error *error);
  Status (*download)(Backend *backend, void *destination, const void *source, size_t bytes,
                     Error *error);
  /* A download that waits for nothing when it is started: it takes what the memory holds behind all
   * kernels started so far. readback_wait waits for that copy alone and gives its bytes, which stay
   * until the same readback is started again. Where the device does not come to it in time,
   * ERROR_INTERNAL says so. A readback that was never started gives zeros. */
  Status (*readback_new)(Backend *backend, size_t bytes, Readback **out, Error *error);
  Status (*readback_start)(Backend *backend, Readback *readback, const void *source, Error *error);
  Status (*readback_wait)(Backend *backend, Readback *readback, const void **data, Error *error);
  void (*readback_free)(Backend *backend, Readback *readback);
  /* Waits until everything started has ended. */
  Status (*synchronize)(Backend *backend, Error *error);
  /* Notes the time at which the device comes here, behind everything started so far; may be
   * captured, and is noted anew by each run of the capture. Indices are small: 0, 1, 2, ... */
  Status (*mark)(Backend *backend, int index, Error *error);
  /* The time between two such marks, which it waits for. */
  Status (*marked_seconds)(Backend *backend, int from, int to, double *seconds, Error *error);
  /* Tells profilers that look on from outside where what they are to look at begins and ends. NULL
   * on a backend without. */
  void (*watch)(Backend *backend, bool on);
  /* NULL where memory is the host's own. */
  Status (*memory)(Backend *backend, DeviceMemory *out, Error *error);
  /* NULL on a backend without. Between the two every kernel is recorded and none runs; `*out` is
   * what a later capture_run starts as a whole, at the same addresses. After an error nothing is
   * being captured. */
  Status (*capture_begin)(Backend *backend, Error *error);
  Status (*capture_end)(Backend *backend, void **out, Error *error);
  Status (*capture_run)(Backend *backend, void *captured, Error *error);
  void (*capture_free)(Backend *backend, void *captured);
  /* `op` gives kind and attributes; `inputs` and `outputs` shapes and dtypes (absent ones have a
   * zero shape). An op this backend cannot run is ERROR_INTERNAL naming it. Never called for
   * OP_VIEW, OP_RESHAPE and OP_ALL_REDUCE. An output of OP_POINTWISE may lie where an input of its
   * shape and element size does. */
  Status (*kernel_new)(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                       Kernel **out, Error *error);
  /* Told of all ops of a program before kernel_new is asked for each: what takes long can be made
   * side by side. Says nothing of what fails; kernel_new does. NULL on a backend without. */
  void (*prepare)(Backend *backend, const KernelRequest *requests, int count);
  /* What can be said of the device in one line: "cpu: 2 threads, AVX-512, bf16 native". */
  const char *(*describe)(Backend *backend);
  /* True where bf16 convolutions run at all: not on every processor. */
  bool (*supports_bf16)(Backend *backend);
  void *stream; /* opaque; NULL on the CPU */
  void (*free)(Backend *backend);
};

/* oneDNN and OpenMP; `threads` 0 takes OMP_NUM_THREADS or every core. */
Status backend_cpu_new(int threads, Backend **out, Error *error);

/* How many GPUs this process may use; 0 where there is none, no driver, or no CUDA in this build,
 * with the reason in `why` (may be NULL). Never an error: an answer. */
int backend_cuda_devices(Error *why);

/* Where a GPU sits in its host, "0000:3b:00.0": tells it from the others there. */
enum { CUDA_BUS_SIZE = 32 };
Status backend_cuda_bus(int device, char bus[CUDA_BUS_SIZE], Error *error);

typedef struct CudaOptions {
  int device;
  bool deterministic;           /* equal runs leave equal bytes: no engine, no order that varies */
  bool tf32;                    /* f32 convolutions on tensor cores, with 10 bits of mantissa */
  bool tune;                    /* measure convolution engines instead of trusting the heuristics */
  bool plain_streams;           /* no CUDA graphs: capture_* are NULL */
  bool untested;                /* no self-test of the convolutions: for tests that have none */
  size_t convolution_workspace; /* the most a convolution may ask for, bytes */
  int build_threads;             /* that plan convolutions at a time; 0: as processors allow */
  const char *cache; /* folder of plans and compiled kernels; NULL: $XDG_CACHE_HOME/celforge */
  double timeout;    /* seconds a wait for the device may take */
} CudaOptions;
/* cuDNN, CUDA kernels. In a build without CUDA: ERROR_USAGE that says so. */
Status backend_cuda_new(const CudaOptions *options, Backend **out, Error *error);

#endif
