/* Step timing: how each rank spends its time, and which rank is a straggler. */
#ifndef CELFORGE_TRAINER_RUN_STEP_TIMING_H
#define CELFORGE_TRAINER_RUN_STEP_TIMING_H

#include <stdint.h>

#include "comm/comm.h"

/* The seconds of one rank over some steps. */
typedef struct StepSeconds {
  double total;        /* wall time, including sample sheets and checkpoints */
  double compute;      /* in steps, without the two below */
  double data;         /* waiting for batches */
  double comm_exposed; /* waiting for gradients or for other ranks */
} StepSeconds;

typedef struct TimeShares {
  double compute, data, comm_exposed; /* fractions of the total, 0 to 1, averaged over all ranks */
  int straggler_rank;                 /* the rank with the most seconds of compute and data */
  double straggler_seconds;           /* the sum of these two on that rank */
} TimeShares;
/* Computes the shares of `size` >= 1 ranks. */
TimeShares time_shares(const StepSeconds *ranks, int size);

/* Returns the rank with the most busy seconds (compute and data; `busy` is [size]) if it has more
 * than 1.5 times those of the median rank, else -1. *ratio receives that factor. For an even number
 * of ranks, the median leaves the slowest rank out: of two ranks, it is the other one. */
int find_straggler(const double *busy, int size, double *ratio);

typedef struct StepTiming StepTiming;

/* All ranks call this together. */
Status step_timing_new(Comm *comm, StepTiming **out, Error *error);
void step_timing_free(StepTiming *timing);
/* Adds seconds of this rank (see StepSeconds). */
void step_timing_add(StepTiming *timing, double compute, double data, double comm_exposed);
/* Gathers the shares since the previous call (or step_timing_restart), which are the same on every
 * rank; *seconds receives the wall time of that interval on this rank. Looks for a straggler at
 * most every ten seconds and warns of it, by rank and host, at most every ten minutes for the same
 * rank. All ranks call this together. */
Status step_timing_gather(StepTiming *timing, TimeShares *out, double *seconds, Error *error);
/* Discards the measurements since the last step_timing_gather. */
void step_timing_restart(StepTiming *timing);
/* Returns the host name of a rank; valid until step_timing_free. */
const char *step_timing_host(const StepTiming *timing, int rank);

#endif
