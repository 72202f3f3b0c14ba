/* Opens the compute device of a process: the CPU, or one GPU. */
#ifndef CELFORGE_TRAINER_GAN_DEVICE_H
#define CELFORGE_TRAINER_GAN_DEVICE_H

#include "comm/comm.h"
#include "engine/backend/backend.h"
#include "trainer/config/config.h"

/* Opens the backend that train.device and cuda.* select. Every rank calls it together. A rank takes
 * the GPU with the index of its local rank; a rank that sees only one GPU takes that one. `comm`
 * NULL: a single process. `threads` is for the CPU. ERROR_USAGE on all ranks if ranks would share a
 * GPU over NCCL, which does not support it; over comm.backend: mpi they may. */
Status device_open(const Config *config, Comm *comm, int threads, Backend **out, Error *error);

/* For commands without a config (eval, translate): opens `device` with the default settings. */
Status device_open_default(Device device, int threads, Backend **out, Error *error);

/* Whether a run on this backend all-reduces its gradients over NCCL. */
bool device_uses_nccl(const Config *config, const Backend *backend, int world_size);

#endif
