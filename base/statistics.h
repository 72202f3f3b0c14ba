#ifndef CELFORGE_BASE_STATISTICS_H
#define CELFORGE_BASE_STATISTICS_H

#include <stdint.h>

/* Of at least one value; of an even number the mean of the middle two. Leaves them ascending. */
double median(double *values, int64_t count);

#endif
