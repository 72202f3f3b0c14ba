/* How a run's gradients travel between its ranks: over MPI from the CPU's memory, over MPI from a
 * GPU by way of the host (so that ranks can share one GPU), or over NCCL. Fills the table the
 * engine calls all-reduces through. */
#ifndef CELFORGE_TRAINER_RUN_GRADIENT_SYNC_H
#define CELFORGE_TRAINER_RUN_GRADIENT_SYNC_H

#include "comm/comm.h"
#include "engine/parameters/parameters.h"
#include "engine/program/program.h"
#include "trainer/config/config.h"

typedef struct Exchange Exchange;

/* Every rank together; all arguments outlive it. */
Status exchange_open(const Config *config, Comm *comm, Backend *backend, Exchange **out,
                     Error *error);
/* Behind model_release_captures and before model_free: it lets go of the gradients' memory. */
void exchange_close(Exchange *exchange);
/* Gives up what is under way, so that this process can end: before comm_abort. */
void exchange_abort(Exchange *exchange);

/* NULL where nothing has to travel. Valid until exchange_close. */
const Collectives *exchange_collectives(const Exchange *exchange);
/* Once a network's flat gradient is allocated: NCCL is told of it. */
Status exchange_register(Exchange *exchange, const Parameters *parameters, Error *error);
/* ERROR_INTERNAL where a collective on the device has failed since; waits for nothing. */
Status exchange_check(Exchange *exchange, Error *error);
/* Seconds this rank's computing has stood waiting for gradients since the run began: exposed
 * communication. Call it once a step where a device is used; it counts what has ended there. */
Status exchange_exposed_seconds(Exchange *exchange, double *seconds, Error *error);

#endif
