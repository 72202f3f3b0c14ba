/* Arithmetic that the CPU's and the GPU's kernels share is written once, in this folder: functions
 * of numbers, without memory, that gcc, clang, nvcc and NVRTC compile alike. */
#ifndef CELFORGE_ENGINE_BACKEND_SHARED_SHARED_H
#define CELFORGE_ENGINE_BACKEND_SHARED_SHARED_H

#if defined(__CUDACC__)
#define SHARED static __host__ __device__ __forceinline__
#else
#define SHARED static inline
#endif

#endif
