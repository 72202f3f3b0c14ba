#include "trainer/gan/device.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/text.h"

enum { HOST_SIZE = 64 };

/* A GPU, told from all others of the job. */
typedef struct Place {
  char host[HOST_SIZE];
  char bus[CUDA_BUS_SIZE];
} Place;

static CudaOptions cuda_options(const Config *config, int device) {
  return (CudaOptions){
      .device = device,
      .deterministic =
          config->cuda.deterministic || config->comm.reduce == COMM_REDUCE_REPRODUCIBLE,
      .tf32 = config->cuda.tf32,
      .tune = config->cuda.autotune,
      .plain_streams = !config->cuda.graphs,
      .convolution_workspace = (size_t)(config->cuda.workspace_mib * 1048576),
      .build_threads = (int)config->cuda.build_threads,
      .cache = config->cuda.cache[0] ? config->cuda.cache : NULL,
      .timeout = config->comm.timeout,
  };
}

/* Every rank's GPU, in rank order, on all of them. */
static Status gather_places(Comm *comm, int device, Place *places, Error *error) {
  Place mine = {0};
  Status status = backend_cuda_bus(device, mine.bus, error);
  if (gethostname(mine.host, sizeof mine.host - 1) != 0) strcpy(mine.host, "localhost");
  status = comm_agree(comm, status, error);
  if (status != OK) return status;
  return comm_all_gather(comm, &mine, sizeof mine, places, error);
}

static Status refuse_sharing(Comm *comm, int device, int devices, Error *error) {
  Status status = OK;
  int size = comm_size(comm);
  Place *places = mem_new((size_t)size, sizeof *places);
  TRY(gather_places(comm, device, places, error));
  for (int b = 1; b < size; b++)
    for (int a = 0; a < b; a++)
      if (memcmp(&places[a], &places[b], sizeof *places) == 0)
        FAIL(error, ERROR_USAGE,
             "ranks %d and %d of %s share GPU %s (a rank sees %d there); start at most one rank a "
             "GPU, or let them share it over comm.backend: mpi (slow)",
             a, b, places[a].host, places[a].bus, devices);
done:
  free(places);
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

/* Ranks on different kinds of device would wait for each other forever. */
static Status agree_on_kind(Comm *comm, int devices, Error *error) {
  int64_t least = devices > 0, most = least;
  Status status = comm_all_reduce(comm, &least, 1, COMM_I64, COMM_MIN, error);
  if (status == OK) status = comm_all_reduce(comm, &most, 1, COMM_I64, COMM_MAX, error);
  if (status != OK || least == most) return status;
  return error_set(error, ERROR_USAGE,
                   "train.device: auto: some ranks see a GPU and some do not; give cuda or cpu");
}

Status device_open(const Config *config, Comm *comm, int threads, Backend **out, Error *error) {
  Status status = OK;
  Error why = {0};
  Device device = (Device)config->train.device;
  *out = NULL;
  if (device == DEVICE_CPU && config->comm.backend == COMM_BACKEND_NCCL)
    FAIL(error, ERROR_USAGE, "comm.backend: nccl needs train.device: cuda");
  if (device == DEVICE_CPU) return backend_cpu_new(threads, out, error);
  int devices = backend_cuda_devices(&why);
  if (device == DEVICE_CUDA && devices == 0)
    FAIL(error, ERROR_USAGE, "train.device: cuda: %s; allowed here: cpu, auto", why.message);
  if (device == DEVICE_AUTO && comm) TRY(agree_on_kind(comm, devices, error));
  if (devices == 0 && config->comm.backend == COMM_BACKEND_NCCL)
    FAIL(error, ERROR_USAGE, "comm.backend: nccl: %s", why.message);
  if (devices == 0) return backend_cpu_new(threads, out, error);
  TRY(open_gpu(config, comm, devices, out, error));
done:
  return status;
}

Status device_open_default(Device device, int threads, Backend **out, Error *error) {
  Config config;
  Error why = {0};
  if (device == DEVICE_CUDA && backend_cuda_devices(&why) == 0)
    return error_set(error, ERROR_USAGE, "--device: cuda: %s; allowed here: cpu, auto",
                     why.message);
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
