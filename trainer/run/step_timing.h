/* Where a run's time goes, rank by rank, and who holds the others up. */
#ifndef CELFORGE_TRAINER_RUN_STEP_TIMING_H
#define CELFORGE_TRAINER_RUN_STEP_TIMING_H

#include <stdint.h>

#include "comm/comm.h"

/* One rank's seconds over some steps. */
typedef struct StepSeconds {
  double all;       /* everything, also sample sheets and checkpoints */
  double computing; /* steps without what follows */
  double data;      /* waiting for batches */
  double exposed;   /* waiting for gradients, or for the other ranks */
} StepSeconds;

typedef struct TimeShares {
  double computing, data, exposed; /* of all the time, 0 to 1; means over the ranks */
  int slowest; /* the rank that the others wait for: most computing and waiting for data */
  double straggler_seconds; /* its seconds of that, in all */
} TimeShares;
/* `size` >= 1 ranks. */
TimeShares timing_shares(const StepSeconds *ranks, int size);

/* The slowest rank where its seconds of computing and waiting for data (`busy`, [size]) are more
 * than one and a half times the median's (of an even number of ranks the lower of the middle two),
 * else -1; *times is by how much. */
int timing_straggler(const double *busy, int size, double *times);

typedef struct Timing Timing;

/* Called by all ranks together, as is timing_gather. */
Status timing_new(Comm *comm, Timing **out, Error *error);
void timing_free(Timing *timing);
/* Adds seconds of this rank's (see StepSeconds). */
void timing_add(Timing *timing, double computing, double data, double exposed);
/* The shares since the gathering before (or timing_restart), the same on every rank, and how many
 * seconds that is on this one. Every ten seconds or more it looks for a straggler and warns of it,
 * by rank and host: of the same one again after ten minutes at the soonest. */
Status timing_gather(Timing *timing, TimeShares *out, double *seconds, Error *error);
/* Forgets what was measured since the last gathering. */
void timing_restart(Timing *timing);
/* The name of the host a rank runs on; the timing's own. */
const char *timing_host(const Timing *timing, int rank);

#endif
