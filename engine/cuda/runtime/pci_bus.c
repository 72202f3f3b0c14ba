#include "engine/cuda/runtime/cuda.h"

Status backend_cuda_bus(int device, char bus[CUDA_BUS_SIZE], Error *error) {
  Status status = OK;
  CUDA_TRY(cudaDeviceGetPCIBusId(bus, CUDA_BUS_SIZE, device));
done:
  return status;
}
