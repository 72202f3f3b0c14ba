/* The machine that a process runs on. */
#ifndef CELFORGE_BASE_HOST_H
#define CELFORGE_BASE_HOST_H

#include <sched.h>

enum { HOST_NAME_SIZE = 64 };

/* Writes the host's name, cut to fit; "unknown" where the system does not tell. */
void host_name(char out[HOST_NAME_SIZE]);

/* The processors that the calling thread may run on: its affinity mask, or all that are online
 * where the mask cannot be read (hosts with more processors than a cpu_set_t holds). */
cpu_set_t host_processor_set(void);
/* How many these are; at least 1. */
int host_processor_count(void);

#endif
