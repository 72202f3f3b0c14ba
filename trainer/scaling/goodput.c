#include "trainer/scaling/goodput.h"

#include <math.h>

double goodput_of(const Failures *failures) {
  double interval = failures->interval, stall = failures->stall, mtbf = failures->mtbf;
  if (mtbf <= 0) return interval / (interval + stall);
  return interval / (mtbf * exp(failures->restart / mtbf) * expm1((interval + stall) / mtbf));
}

double goodput_best_interval(double stall, double mtbf) {
  if (stall >= 2 * mtbf) return mtbf;
  double ratio = stall / (2 * mtbf);
  return sqrt(2 * stall * mtbf) * (1 + sqrt(ratio) / 3 + ratio / 9) - stall;
}
