/* Statistics of small samples. */
#ifndef CELFORGE_BASE_STATISTICS_H
#define CELFORGE_BASE_STATISTICS_H

#include <stdint.h>

/* Returns the median of values[count], the mean of the middle two for an even count. `count` is at
 * least 1 and no value is NaN. Sorts the values in ascending order. */
double median(double *values, int64_t count);

#endif
