/* Device properties, and names of errors. */
#include "tests/emulator/device.h"

#include <cstdio>
#include <cstdlib>

using namespace emulator;

static thread_local int current_device = 0;

cudaError_t cudaGetDeviceCount(int *count) {
  const char *text = getenv("EMULATOR_DEVICES");
  *count = text ? atoi(text) : 1;
  if (*count > 0) return cudaSuccess;
  *count = 0;
  return cudaErrorNoDevice;
}

static cudaError_t check_device(int device) {
  int count = 0;
  cudaGetDeviceCount(&count);
  return device >= 0 && device < count ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaSetDevice(int device) {
  const cudaError_t error = check_device(device);
  if (error == cudaSuccess) current_device = device;
  return error;
}

cudaError_t cudaGetDevice(int *device) {
  *device = current_device;
  return cudaSuccess;
}

/* Few multiprocessors, so that kernels that fill the device launch few blocks. */
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
  if (cudaError_t error = check_device(device)) return error;
  size_t free_bytes = 0;
  struct cudaDeviceProp made = {};
  snprintf(made.name, sizeof made.name, "emulated GPU");
  cudaMemGetInfo(&free_bytes, &made.totalGlobalMem);
  made.sharedMemPerBlock = 48 << 10;
  made.sharedMemPerBlockOptin = 227 << 10;
  made.sharedMemPerMultiprocessor = 228 << 10;
  made.major = 9;
  made.multiProcessorCount = 4;
  made.maxThreadsPerMultiProcessor = 2048;
  made.maxThreadsPerBlock = 1024;
  made.maxBlocksPerMultiProcessor = 32;
  made.regsPerBlock = made.regsPerMultiprocessor = 65536;
  made.warpSize = 32;
  made.l2CacheSize = 4 << 20;
  made.memoryBusWidth = 64;
  made.maxGridSize[0] = 0x7fffffff;
  made.maxGridSize[1] = made.maxGridSize[2] = 65535;
  made.pciBusID = device + 1;
  made.asyncEngineCount = 2;
  made.concurrentKernels = 1;
  *properties = made;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int device) {
  if (cudaError_t error = check_device(device)) return error;
  snprintf(text, static_cast<size_t>(size), "0000:%02X:00.0", static_cast<unsigned>(device) + 1);
  return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

static const struct {
  cudaError_t error;
  const char *name, *text;
} ERRORS[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "the driver is too old for the runtime"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "the capture was invalidated by an earlier error"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched",
     "the capture was not begun in this stream"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined",
     "the capture has a fork that was not joined"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
     "a dependency would cross the capture's border"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
     "operation not permitted on an event last recorded in a capturing stream"},
    {cudaErrorStreamCaptureWrongThread, "cudaErrorStreamCaptureWrongThread",
     "the capture was begun by another thread"},
};

const char *cudaGetErrorName(cudaError_t error) {
  for (const auto &known : ERRORS) {
    if (known.error == error) return known.name;
  }
  return "cudaErrorUnknown";
}

const char *cudaGetErrorString(cudaError_t error) {
  for (const auto &known : ERRORS) {
    if (known.error == error) return known.text;
  }
  return "unknown error";
}
