/* The machine that the process runs on. */
#ifndef CELFORGE_BASE_HOST_H
#define CELFORGE_BASE_HOST_H

#include <sched.h>

enum { HOST_NAME_SIZE = 64 };

/* Writes the host name, NUL-terminated and cut to fit; "unknown" if the system does not report one.
 */
void host_name(char out[HOST_NAME_SIZE]);

/* Returns the affinity mask of the calling thread, or all online processors if the mask cannot be
 * read (hosts with more processors than a cpu_set_t holds). */
cpu_set_t host_processor_set(void);
/* Returns the number of processors in that set, at least 1. */
int host_processor_count(void);
/* Returns how many threads of one kind a process may be asked to start: 8 for each processor that
 * is online (whether or not in the set), and at least 64. More would only slow the work down, and
 * where the system cannot start them, libgomp ends the process. */
int host_thread_limit(void);

#endif
