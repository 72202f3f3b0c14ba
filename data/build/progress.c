#include "data/build/build.h"

Status build_report(BuildProgress progress, void *context, int64_t done, int64_t total,
                    const char *unit, Error *error) {
  if (!progress || progress(context, done, total, unit) || done == total) return OK;
  return error_set(error, STOPPED,
                   "stopped by a signal after %lld %s; the same command continues, or starts again "
                   "where nothing is complete yet",
                   (long long)done, unit);
}
