/* A backend: memory, and a kernel for each op.
 *
 * The program asks for a kernel when it is planned, knowing shapes and dtypes but no addresses, and
 * learns how much workspace it needs; it runs the kernel many times with the addresses. Kernels
 * read nothing from and write nothing to anywhere else, except that a backend may cache what it
 * derives from buffers (reordered weights), keyed by the buffer's version. */
#ifndef CELFORGE_ENGINE_BACKEND_H
#define CELFORGE_ENGINE_BACKEND_H

#include "engine/op.h"

typedef struct Tensor {
  void *data; /* contiguous; 64-byte aligned unless it is a view. NULL: absent, or not known yet */
  Shape shape;
  DType dtype;
  Buffer *buffer; /* what a view (or a reshape of one) lies in; NULL for values in the arena */
} Tensor;

typedef struct Kernel Kernel;
struct Kernel {
  size_t workspace; /* bytes, 64-byte aligned, needed during run alone */
  Status (*run)(Kernel *kernel, const Tensor *inputs, const Tensor *outputs, void *workspace,
                Error *error);
  void (*free)(Kernel *kernel);
};

struct Backend {
  const char *name; /* "cpu", "cuda" */
  Status (*allocate)(Backend *backend, size_t bytes, const char *what, void **out, Error *error);
  void (*release)(Backend *backend, void *memory);
  Status (*upload)(Backend *backend, void *destination, const void *source, size_t bytes,
                   Error *error);
  Status (*download)(Backend *backend, void *destination, const void *source, size_t bytes,
                     Error *error);
  /* Waits until everything started has ended. */
  Status (*synchronize)(Backend *backend, Error *error);
  /* `op` gives kind and attributes; `inputs` and `outputs` shapes and dtypes (absent ones have a
   * zero shape). An op this backend cannot run is ERROR_INTERNAL naming it. Never called for
   * OP_VIEW, OP_RESHAPE and OP_ALL_REDUCE. */
  Status (*kernel_new)(Backend *backend, const Op *op, const Tensor *inputs, const Tensor *outputs,
                       Kernel **out, Error *error);
  /* What can be said of the device in one line: "cpu: 2 threads, AVX-512, bf16 native". */
  const char *(*describe)(Backend *backend);
  /* True where bf16 convolutions run at all (FACTS of the processor). */
  bool (*supports_bf16)(Backend *backend);
  void *stream; /* opaque; NULL on the CPU */
  void (*free)(Backend *backend);
};

/* oneDNN and OpenMP; `threads` 0 takes OMP_NUM_THREADS or every core. */
Status backend_cpu_new(int threads, Backend **out, Error *error);

#endif
