#include "base/host.h"

#include <string.h>
#include <unistd.h>

void host_name(char out[HOST_NAME_SIZE]) {
  memset(out, 0, HOST_NAME_SIZE); /* gethostname need not terminate a name that it cuts */
  if (gethostname(out, HOST_NAME_SIZE - 1) != 0 || out[0] == '\0') strcpy(out, "unknown");
}

cpu_set_t host_processor_set(void) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return set;
  CPU_ZERO(&set);
  for (long i = 0; i < sysconf(_SC_NPROCESSORS_ONLN) && i < CPU_SETSIZE; i++)
    CPU_SET((size_t)i, &set);
  return set;
}

int host_processor_count(void) {
  cpu_set_t set = host_processor_set();
  int count = CPU_COUNT(&set);
  return count > 0 ? count : 1;
}

int host_thread_limit(void) {
  const long per_processor = 8, least = 64, most = 1 << 20;
  long online = sysconf(_SC_NPROCESSORS_ONLN);
  long limit = online < most / per_processor ? online * per_processor : most;
  return (int)(limit > least ? limit : least);
}
