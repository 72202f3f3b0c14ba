/* HOST_DEVICE marks functions that gcc, clang, nvcc and NVRTC all compile: arithmetic on numbers,
 * without memory access, written once for the CPU's and the GPU's kernels. */
#ifndef CELFORGE_BASE_HOST_DEVICE_H
#define CELFORGE_BASE_HOST_DEVICE_H

#if defined(__CUDACC__)
#define HOST_DEVICE static __host__ __device__ __forceinline__
#else
#define HOST_DEVICE static inline
#endif

#endif
