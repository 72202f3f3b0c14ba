/* Checks that all ranks hold the same state. They start with the same weights and apply the same
 * all-reduced gradients, so a difference means faulty memory, a faulty device or another build. */
#ifndef CELFORGE_TRAINER_RUN_REPLICA_CHECK_H
#define CELFORGE_TRAINER_RUN_REPLICA_CHECK_H

#include "comm/comm.h"
#include "trainer/gan/gan.h"

/* Compares the CRC-32C of each flat array (master weights, moments, EMA weights, counters) between
 * the ranks, and of each tensor of the arrays that differ. ERROR_INTERNAL, the same on every rank,
 * names arrays, tensors and ranks. All ranks call this together. Does nothing with one rank. */
Status replicas_check(Gan *gan, Comm *comm, Error *error);

#endif
