/* HOST_DEVICE marks inline functions shared by CPU and GPU kernels: arithmetic without memory
 * access that gcc, clang, nvcc and NVRTC compile. */
#ifndef CELFORGE_BASE_HOST_DEVICE_H
#define CELFORGE_BASE_HOST_DEVICE_H

#if defined(__CUDACC__)
#define HOST_DEVICE static __host__ __device__ __forceinline__
#else
#define HOST_DEVICE static inline
#endif

#endif
