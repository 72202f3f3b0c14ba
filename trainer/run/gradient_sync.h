/* Gradient sync: all-reduces gradients between the ranks. Gradients in host memory go over MPI,
 * those on a GPU over NCCL, or over MPI through the host if several ranks share one GPU. Fills the
 * table of collectives that the engine calls. */
#ifndef CELFORGE_TRAINER_RUN_GRADIENT_SYNC_H
#define CELFORGE_TRAINER_RUN_GRADIENT_SYNC_H

#include "comm/comm.h"
#include "engine/parameters/parameters.h"
#include "engine/program/program.h"
#include "trainer/config/config.h"

typedef struct GradientSync GradientSync;

/* All ranks call this together. All arguments must outlive it. */
Status gradient_sync_open(const Config *config, Comm *comm, Backend *backend, GradientSync **out,
                          Error *error);
/* Call it after gan_release_captures and before gan_free: it deregisters the memory of the
 * gradients. NULL is allowed. */
void gradient_sync_close(GradientSync *sync);
/* Aborts collectives in progress, so that this process can exit. Call it before comm_abort. NULL is
 * allowed. */
void gradient_sync_abort(GradientSync *sync);

/* Returns NULL if nothing has to be all-reduced. Valid until gradient_sync_close. */
const Collectives *gradient_sync_collectives(const GradientSync *sync);
/* Registers the flat gradient of a network, which must be allocated, with NCCL. */
Status gradient_sync_register(GradientSync *sync, const Parameters *parameters, Error *error);
/* ERROR_INTERNAL if a collective on the device has failed asynchronously. Does not wait. */
Status gradient_sync_check(GradientSync *sync, Error *error);
/* Returns the exposed communication in seconds: how long this rank has waited for gradients since
 * the run began. With NCCL, call it once per step; it adds the waits that have ended on the device.
 */
Status gradient_sync_exposed_seconds(GradientSync *sync, double *seconds, Error *error);

#endif
