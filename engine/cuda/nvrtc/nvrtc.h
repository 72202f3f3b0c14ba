/* Just-in-time compilation of generated CUDA kernels by NVRTC, for the device in use, when a
 * program is planned. Compiled code is cached on disk, keyed by source, architecture and compiler
 * version, and in the process: each source is compiled once. */
#ifndef CELFORGE_ENGINE_CUDA_NVRTC_NVRTC_H
#define CELFORGE_ENGINE_CUDA_NVRTC_NVRTC_H

#include <cuda_runtime.h>

#include "base/error.h"

typedef struct Nvrtc Nvrtc;
typedef struct NvrtcKernel NvrtcKernel; /* owned by the Nvrtc */

/* Compiles for compute capability `major`.`minor`. `folder` is the cache, created if missing; NULL,
 * or a folder that cannot be created (logged as a warning), keeps nothing on disk. ERROR_INTERNAL
 * where NVRTC does not support an architecture as old as this. */
Status nvrtc_new(int major, int minor, const char *folder, Nvrtc **out, Error *error);
void nvrtc_free(Nvrtc *nvrtc); /* unloads all kernels; NULL is allowed */

/* Compiles (or reads from the cache) and loads a kernel. `source` defines
 * `extern "C" __global__ void NAME(const struct ... p)`, with one struct passed by value, whose
 * bytes are given to nvrtc_launch; it includes no files. ERROR_INTERNAL with the compiler's log
 * where it does not compile. */
Status nvrtc_kernel(Nvrtc *nvrtc, const char *name, const char *source, NvrtcKernel **out,
                    Error *error);
Status nvrtc_launch(const NvrtcKernel *kernel, dim3 blocks, unsigned threads, size_t shared_bytes,
                    const void *parameters, cudaStream_t stream, Error *error);

/* Compiles without loading, which needs no device: for tests. */
Status nvrtc_compile(const char *name, const char *source, int major, int minor, size_t *code_bytes,
                     Error *error);

#endif
