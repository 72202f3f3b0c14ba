/* What failures leave of a run's time. */
#ifndef CELFORGE_TRAINER_SCALING_GOODPUT_H
#define CELFORGE_TRAINER_SCALING_GOODPUT_H

/* Seconds. A run computes for `interval`, saves for `stall`, and so on; failures come at random,
 * one each `mtbf` (0: none); after one it takes `restart` to be where the last checkpoint was. */
typedef struct Failures {
  double interval, stall, mtbf, restart;
} Failures;

/* The share of the time that counts: interval over the expected time for interval and stall,
 * mtbf exp(restart / mtbf) (exp((interval + stall) / mtbf) - 1)  (Daly 2006). */
double goodput_of(const Failures *failures);

/* The interval of the largest goodput: sqrt(2 stall mtbf) (Young 1974) with Daly's (2006)
 * terms of higher order: sqrt(2 d M) (1 + sqrt(d / 2M) / 3 + d / 18M) - d for d < 2M, else M. */
double goodput_best_interval(double stall, double mtbf);

#endif
