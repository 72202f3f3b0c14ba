/* The PCI bus id of a GPU. A file of its own: needs no backend. */
#include "engine/cuda/runtime/cuda.h"

Status backend_cuda_pci_bus_id(int device, char bus[CUDA_PCI_BUS_ID_SIZE], Error *error) {
  Status status = OK;
  CUDA_TRY(cudaDeviceGetPCIBusId(bus, CUDA_PCI_BUS_ID_SIZE, device));
done:
  return status;
}
