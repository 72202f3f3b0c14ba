/* Checks that all ranks hold the same state. They start with the same weights and apply the same
 * all-reduced gradients, so a difference means faulty memory, a faulty device or another build. */
#ifndef CELFORGE_TRAINER_RUN_REPLICA_CHECK_H
#define CELFORGE_TRAINER_RUN_REPLICA_CHECK_H

#include "comm/comm.h"
#include "trainer/gan/gan.h"

/* Compares one CRC-32C of each flat array (master weights, moments, averaged weights, counters)
 * over the ranks, and where one differs those of its tensors. Called by all ranks together; all get
 * the same ERROR_INTERNAL, which names arrays, tensors and ranks. With one rank there is nothing to
 * do. */
Status replicas_check(Gan *model, Comm *comm, Error *error);

#endif
