/* Training steps played on a cluster: a discrete-event simulation.
 *
 * Every rank walks through the trace: ops take time, an all-reduce starts when the last rank has
 * reached it and the one before it has ended (a rank has one channel, and buckets go in their
 * order), an op that needs gradients waits for them. While an all-reduce is under way all ranks
 * compute slower by reduce.interference. A rank's computing takes, in each step, a factor times its
 * ops: lognormal with mean 1, and now and then a straggler's; drawn from Philox keyed by seed, rank
 * and step, so more ranks meet the same draws and more. A step begins when its clips are there and
 * ends, on all ranks together, when they have agreed whether to stop.
 *
 * Weak scaling: each rank computes the trace's clips, on any number of ranks. */
#ifndef CELFORGE_TRAINER_SCALING_SIMULATE_H
#define CELFORGE_TRAINER_SCALING_SIMULATE_H

#include "trainer/scaling/cluster_model.h"

typedef struct SimulationOptions {
  int ranks;
  int steps; /* that are played, at least 1 */
  uint64_t seed;
} SimulationOptions;

/* Seconds of a step, means over the steps and, where ranks differ, over them. The first five add up
 * to `step`. */
typedef struct SimulationResult {
  int ranks, nodes;
  double step;
  double compute;    /* a rank's own, with host_ms */
  double straggling; /* how much longer the slowest rank of a step computes */
  double exposed;    /* communication that the slowest rank waits for */
  double data;       /* waiting for clips */
  double checkpoint; /* waiting for checkpoints, spread over the steps between them */
  double reducing;   /* the channel's busy time */
  double clips_per_second;
  double failure_seconds; /* mean time between failures of all nodes; 0: none */
  double goodput;         /* share of the time that goes into steps that count */
  double best_interval;   /* steps between checkpoints that lose least; 0: no failures */
} SimulationResult;

/* ERROR_USAGE where the cluster has no such number of ranks, the trace lacks the times it asks for,
 * or its ops take no time there. */
Status simulate(const Cluster *cluster, const StepTrace *trace, const SimulationOptions *options,
                SimulationResult *out, Error *error);

#endif
