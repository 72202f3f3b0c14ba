/* A discrete-event simulation of training steps on a cluster.
 *
 * Every rank executes the trace: ops take time; an all-reduce starts when the last rank has reached
 * it and the previous one has completed (a rank has one channel, and buckets are reduced in order);
 * an op that needs gradients waits for them. During an all-reduce all ranks compute slower by
 * reduce.interference. In each step the computation times of a rank are multiplied by a random
 * factor, lognormal with mean 1, and with probability step.slow_share also by that of a straggler.
 * Random numbers are Philox keyed by seed, rank and step, so a rank has the same factors in any
 * world size. A step starts when its clips have been read, and ends on all ranks together, with the
 * all-gather of the stop flag.
 *
 * Weak scaling: each rank computes the trace's clips, on any number of ranks. */
#ifndef CELFORGE_TRAINER_SCALING_SIMULATE_H
#define CELFORGE_TRAINER_SCALING_SIMULATE_H

#include "trainer/scaling/cluster_model.h"

typedef struct SimulationOptions {
  int ranks;
  int steps; /* simulated, at least 1 */
  uint64_t seed;
} SimulationOptions;

/* Seconds per step: means over the steps and, where ranks differ, over the ranks. compute,
 * straggling, exposed, data and checkpoint add up to `step`. */
typedef struct SimulationResult {
  int ranks, nodes;
  double step;
  double compute;    /* mean of the ranks, with host_ms */
  double straggling; /* how much longer the slowest rank computes */
  double exposed;    /* communication that the slowest rank waits for */
  double data;       /* waiting for clips */
  double checkpoint; /* waiting for checkpoints, divided by the steps between them */
  double reducing;   /* busy time of the channel */
  double clips_per_second;
  double failure_seconds; /* mean time between failures of all nodes; 0: none */
  double goodput;         /* share of the time spent in steps that are not lost */
  double best_interval;   /* steps between checkpoints with the largest goodput; 0: no failures */
} SimulationResult;

/* Simulates the trace. ERROR_USAGE if the cluster does not have this number of ranks, if the trace
 * lacks measured times that the cluster requires, or if all its ops take 0 seconds there. */
Status simulate(const Cluster *cluster, const StepTrace *trace, const SimulationOptions *options,
                SimulationResult *out, Error *error);

#endif
