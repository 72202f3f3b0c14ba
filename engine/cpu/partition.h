/* Partitioning of work among threads. */
#ifndef CELFORGE_ENGINE_CPU_PARTITION_H
#define CELFORGE_ENGINE_CPU_PARTITION_H

#include "engine/cpu/cpu.h"

/* The number of threads to use if each should get at least `grain` of `count` items. */
static inline int cpu_parts(const Backend *backend, int64_t count, int64_t grain) {
  const int64_t most = (count + grain - 1) / grain;
  const int threads = cpu_threads(backend);
  if (most <= 1) return 1;
  return most < threads ? (int)most : threads;
}

/* The first item of part `part` of `parts`; `count` for part `parts`. */
static inline int64_t cpu_part_begin(int64_t count, int part, int parts) {
  return count * part / parts;
}

#endif
