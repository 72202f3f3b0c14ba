/* Goodput: the share of a run's time that is not lost to checkpoints and failures. */
#ifndef CELFORGE_TRAINER_SCALING_GOODPUT_H
#define CELFORGE_TRAINER_SCALING_GOODPUT_H

/* All in seconds. A run alternates between computing for `interval` and stalling for a checkpoint
 * for `stall`. Failures are random with mean time `mtbf` between them (0: none); after one,
 * `restart` passes until the run is back at its last checkpoint. */
typedef struct Failures {
  double interval, stall, mtbf, restart;
} Failures;

/* Goodput, 0 to 1: interval divided by the expected time of interval and stall,
 * mtbf exp(restart / mtbf) (exp((interval + stall) / mtbf) - 1)  (Daly 2006). */
double goodput_of(const Failures *failures);

/* The interval with the largest goodput, seconds: sqrt(2 stall mtbf) (Young 1974) with Daly's
 * (2006) higher-order terms: sqrt(2 d M) (1 + sqrt(d / 2M) / 3 + d / 18M) - d for d < 2M, else M.
 */
double goodput_best_interval(double stall, double mtbf);

#endif
