/* Kernels compiled from generated source when a program is planned, by NVRTC, for the device at
 * hand. Compiled code is kept on disk under a hash of source, architecture and compiler version,
 * and in the process: the same source is compiled once. */
#ifndef CELFORGE_ENGINE_CUDA_NVRTC_NVRTC_H
#define CELFORGE_ENGINE_CUDA_NVRTC_NVRTC_H

#include <cuda_runtime.h>

#include "base/error.h"

typedef struct Jit Jit;
typedef struct JitKernel JitKernel; /* owned by the Jit */

/* `major`.`minor`: the compute capability to compile for. `folder`: the cache, made when missing;
 * NULL keeps nothing on disk. */
Status jit_new(int major, int minor, const char *folder, Jit **out, Error *error);
void jit_free(Jit *jit);

/* `source` defines `extern "C" __global__ void NAME(const struct ... p)`: one struct by value,
 * whose bytes jit_launch is given. Includes nothing but engine/shared headers, by the names they
 * have in the tree. ERROR_INTERNAL with the compiler's log when it does not compile. */
Status jit_kernel(Jit *jit, const char *name, const char *source, JitKernel **out, Error *error);
Status jit_launch(const JitKernel *kernel, dim3 blocks, unsigned threads, size_t shared_bytes,
                  const void *parameters, cudaStream_t stream, Error *error);

/* Compiles alone, without a device: for tests. */
Status jit_compile(const char *name, const char *source, int major, int minor, size_t *code_bytes,
                   Error *error);

#endif
