/* Kernel launches of .cu files. Every kernel takes one struct by value:
 *
 *   __global__ void fill_kernel(const FillLaunch p) { ... }
 *   extern "C" Status launch_fill(const FillLaunch *p, cudaStream_t stream, Error *error) {
 *     return cuda_launch(fill_kernel, dim3(blocks), THREADS, 0, *p, stream, error);
 *   }
 */
#ifndef CELFORGE_ENGINE_CUDA_KERNELS_LAUNCH_H
#define CELFORGE_ENGINE_CUDA_KERNELS_LAUNCH_H

#include <cuda_runtime.h>

extern "C" {
#include "base/error.h"
Status cuda_error(cudaError_t code, const char *call, const char *file, int line, Error *error);
}

/* Declares `type *name`, the block's dynamic shared memory, aligned to 16 bytes. All uses in a
 * kernel name the same memory. (The emulator's cuda_runtime.h defines its own.) */
#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(type, name)                                                                 \
  extern __shared__ __align__(16) unsigned char dynamic_shared_bytes[];                            \
  type *name = reinterpret_cast<type *>(dynamic_shared_bytes)
#endif

template <typename Parameters>
static Status cuda_launch(void (*kernel)(Parameters), dim3 blocks, unsigned threads,
                          size_t shared_bytes, const Parameters &parameters, cudaStream_t stream,
                          Error *error) {
#ifdef __CUDACC__
  void *arguments[] = {const_cast<Parameters *>(&parameters)};
  cudaError_t code = cudaLaunchKernel(reinterpret_cast<const void *>(kernel), blocks, dim3(threads),
                                      arguments, shared_bytes, stream);
#else /* tests/emulator runs the kernel on the CPU */
  cudaError_t code = emulator_launch(kernel, blocks, threads, shared_bytes, parameters, stream);
#endif
  return code == cudaSuccess ? OK
                             : cuda_error(code, "launching a kernel", __FILE__, __LINE__, error);
}

#endif
