#include "trainer/gan/device.h"

#include <stdlib.h>
#include <string.h>

#include "base/host.h"
#include "base/memory.h"
#include "base/text.h"

/* Identifies a GPU within the job. */
typedef struct GpuId {
  char host[HOST_NAME_SIZE];
  char bus[CUDA_PCI_BUS_ID_SIZE];
} GpuId;

static CudaOptions cuda_options(const Config *config, int device) {
  return (CudaOptions){
      .device = device,
      .deterministic =
          config->cuda.deterministic || config->comm.reduce == COMM_REDUCE_REPRODUCIBLE,
      .tf32 = config->cuda.tf32,
      .autotune = config->cuda.autotune,
      .no_graphs = !config->cuda.graphs,
      .convolution_workspace = (size_t)(config->cuda.workspace_mib * 1048576),
      .build_threads = (int)config->cuda.build_threads,
      .cache = config->cuda.cache[0] ? config->cuda.cache : NULL,
      .timeout = config->comm.timeout,
  };
}

/* All-gathers every rank's GPU, in rank order. */
static Status gather_gpu_ids(Comm *comm, int device, GpuId *gpus, Error *error) {
  GpuId mine = {0};
  Status status = backend_cuda_pci_bus_id(device, mine.bus, error);
  host_name(mine.host);
  status = comm_agree(comm, status, error);
  if (status != OK) return status;
  return comm_all_gather(comm, &mine, sizeof mine, gpus, error);
}

static Status refuse_sharing(Comm *comm, int device, int devices, Error *error) {
  Status status = OK;
  int size = comm_size(comm);
  GpuId *gpus = mem_new((size_t)size, sizeof *gpus);
  TRY(gather_gpu_ids(comm, device, gpus, error));
  for (int b = 1; b < size; b++)
    for (int a = 0; a < b; a++)
      if (memcmp(&gpus[a], &gpus[b], sizeof *gpus) == 0)
        FAIL(
            error, ERROR_USAGE,
            "ranks %d and %d on %s share GPU %s (a rank sees %d there); start at most one rank per "
            "GPU, or set comm.backend: mpi to share it (slow)",
            a, b, gpus[a].host, gpus[a].bus, devices);
done:
  free(gpus);
  return status;
}

static Status open_gpu(const Config *config, Comm *comm, int devices, Backend **out, Error *error) {
  Status status = OK;
  int local_rank = comm ? comm_local_rank(comm) : 0;
  CudaOptions options = cuda_options(config, local_rank % devices);
  bool together = comm && comm_size(comm) > 1;
  if (together && config->comm.backend != COMM_BACKEND_MPI)
    TRY(refuse_sharing(comm, options.device, devices, error));
  TRY(backend_cuda_new(&options, out, error));
done:
  return status;
}

/* Fails unless all ranks see a GPU or none does: on different devices they would deadlock. */
static Status agree_on_kind(Comm *comm, int devices, Error *error) {
  int64_t least = devices > 0, most = least;
  Status status = comm_all_reduce(comm, &least, 1, COMM_I64, COMM_MIN, error);
  if (status == OK) status = comm_all_reduce(comm, &most, 1, COMM_I64, COMM_MAX, error);
  if (status != OK || least == most) return status;
  return error_set(
      error, ERROR_USAGE,
      "train.device: auto: some ranks see a GPU and some do not; set it to cuda or cpu");
}

Status device_open(const Config *config, Comm *comm, int threads, Backend **out, Error *error) {
  Status status = OK;
  Error reason = {0};
  Device device = (Device)config->train.device;
  *out = NULL;
  if (device == DEVICE_CPU && config->comm.backend == COMM_BACKEND_NCCL)
    FAIL(error, ERROR_USAGE, "comm.backend: nccl needs train.device: cuda");
  if (device == DEVICE_CPU) return backend_cpu_new(threads, out, error);
  int devices = backend_cuda_device_count(&reason);
  if (device == DEVICE_CUDA && devices == 0)
    FAIL(error, ERROR_USAGE, "train.device: cuda: %s; allowed here: cpu, auto", reason.message);
  if (device == DEVICE_AUTO && comm) TRY(agree_on_kind(comm, devices, error));
  if (devices == 0 && config->comm.backend == COMM_BACKEND_NCCL)
    FAIL(error, ERROR_USAGE, "comm.backend: nccl: %s", reason.message);
  if (devices == 0) return backend_cpu_new(threads, out, error);
  TRY(open_gpu(config, comm, devices, out, error));
done:
  return status;
}

Status device_open_default(Device device, int threads, Backend **out, Error *error) {
  Config config;
  Error reason = {0};
  if (device == DEVICE_CUDA && backend_cuda_device_count(&reason) == 0)
    return error_set(error, ERROR_USAGE, "--device: cuda: %s; allowed here: cpu, auto",
                     reason.message);
  Status status = config_set_defaults(&config_schema, &config, error);
  if (status != OK) return status;
  config.train.device = (int)device;
  return device_open(&config, NULL, threads, out, error);
}

bool device_uses_nccl(const Config *config, const Backend *backend, int world_size) {
  if (strcmp(backend->name, "cuda") != 0) return false;
  if (config->comm.backend == COMM_BACKEND_AUTO) return world_size > 1;
  return config->comm.backend == COMM_BACKEND_NCCL;
}
