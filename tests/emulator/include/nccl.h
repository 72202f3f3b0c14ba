/* The part of the NCCL API that comm/nccl/nccl.c uses, over MPI between processes with emulated
 * GPUs. Communicators do not block, as with config.blocking = 0: calls return ncclInProgress a few
 * times first. Names and meanings are those of the NCCL reference manual. */
#ifndef CELFORGE_TESTS_EMULATOR_NCCL_H
#define CELFORGE_TESTS_EMULATOR_NCCL_H

#include <cuda_runtime.h>

typedef struct ncclComm *ncclComm_t;

typedef enum ncclResult {
  ncclSuccess = 0,
  ncclUnhandledCudaError = 1,
  ncclSystemError = 2,
  ncclInternalError = 3,
  ncclInvalidArgument = 4,
  ncclInvalidUsage = 5,
  ncclRemoteError = 6,
  ncclInProgress = 7
} ncclResult_t;

typedef enum ncclDataType { ncclFloat32 = 7, ncclBfloat16 = 9 } ncclDataType_t;
typedef enum ncclRedOp { ncclSum = 0, ncclAvg = 4 } ncclRedOp_t;

typedef struct ncclUniqueId {
  char internal[128];
} ncclUniqueId;

typedef struct ncclConfig {
  int blocking;
} ncclConfig_t;
#define NCCL_CONFIG_INITIALIZER                                                                    \
  { 1 }

const char *ncclGetErrorString(ncclResult_t result);
const char *ncclGetLastError(ncclComm_t comm);
ncclResult_t ncclGetVersion(int *version);
ncclResult_t ncclGetUniqueId(ncclUniqueId *id);
ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config);
ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t *out,
                           ncclConfig_t *config);
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *result);
ncclResult_t ncclCommFinalize(ncclComm_t comm);
ncclResult_t ncclCommDestroy(ncclComm_t comm);
ncclResult_t ncclCommAbort(ncclComm_t comm);
ncclResult_t ncclCommRegister(ncclComm_t comm, void *data, size_t bytes, void **handle);
ncclResult_t ncclCommDeregister(ncclComm_t comm, void *handle);
ncclResult_t ncclAllReduce(const void *send, void *receive, size_t count, ncclDataType_t type,
                           ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream);

/* Not part of NCCL: the number of communicators that exist in this process. */
int emulator_nccl_communicators(void);

#endif
