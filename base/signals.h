/* Stop signals: INT, TERM, USR1 and USR2. The first one asks the run to save a checkpoint and stop.
 * A second one ends the process at once with exit code 128 + its number, without cleaning up. The
 * same signal again within one second counts as the first: a launcher forwards a signal that the
 * whole process group has already received. */
#ifndef CELFORGE_BASE_SIGNALS_H
#define CELFORGE_BASE_SIGNALS_H

#include <stdbool.h>

/* Installs the handlers for the rest of the process. Interrupted system calls are restarted. */
void signals_install(void);
/* Returns whether this process has received a stop signal. May be called from any thread. */
bool signals_stop_requested(void);

#endif
