/* What stands in for engine/cuda in a build without CUDA. */
#include "engine/backend/backend.h"

int backend_cuda_devices(Error *why) {
  error_set(why, ERROR_USAGE, "this build has no CUDA (make found no toolkit, or WITH_CUDA=0)");
  return 0;
}

Status backend_cuda_new(const CudaOptions *options, Backend **out, Error *error) {
  (void)options;
  *out = NULL;
  backend_cuda_devices(error);
  return ERROR_USAGE;
}

Status backend_cuda_bus(int device, char bus[CUDA_BUS_SIZE], Error *error) {
  (void)device;
  bus[0] = '\0';
  backend_cuda_devices(error);
  return ERROR_USAGE;
}
