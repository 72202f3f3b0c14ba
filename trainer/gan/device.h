/* Where a process computes: the CPU, or one GPU. */
#ifndef CELFORGE_TRAINER_GAN_DEVICE_H
#define CELFORGE_TRAINER_GAN_DEVICE_H

#include "comm/comm.h"
#include "engine/backend/backend.h"
#include "trainer/config/config.h"

/* Opens what train.device and cuda.* ask for. Each rank of a host takes the GPU of its local rank;
 * a rank that sees one GPU alone takes that one. `comm` NULL: a process by itself. Where ranks
 * would share a GPU over NCCL, which refuses it, ERROR_USAGE says so on all of them; over
 * comm.backend: mpi they share. `threads` is the CPU's. Called by every rank together. */
Status device_open(const Config *config, Comm *comm, int threads, Backend **out, Error *error);

/* For commands without a config (eval, translate): defaults, on `device`. */
Status device_open_default(Device device, int threads, Backend **out, Error *error);

/* Whether gradients of a run on this backend travel over NCCL. */
bool device_uses_nccl(const Config *config, const Backend *backend, int world_size);

#endif
