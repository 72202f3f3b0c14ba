/* Replaces engine/cuda in a build without CUDA: no device, and every call fails with the reason. */
#include "engine/backend/backend.h"

int backend_cuda_device_count(Error *why) {
  error_set(why, ERROR_USAGE,
            "this build has no CUDA: make found no toolkit, or WITH_CUDA=0 was set");
  return 0;
}

Status backend_cuda_new(const CudaOptions *options, Backend **out, Error *error) {
  (void)options;
  *out = NULL;
  backend_cuda_device_count(error);
  return ERROR_USAGE;
}

Status backend_cuda_pci_bus_id(int device, char bus[CUDA_PCI_BUS_ID_SIZE], Error *error) {
  (void)device;
  bus[0] = '\0';
  backend_cuda_device_count(error);
  return ERROR_USAGE;
}
