/* Stop signals: INT, TERM, USR1 and USR2; HUP (the terminal or the connection is gone); and PIPE
 * (nobody reads the log any more). The first one asks the run to save a checkpoint and stop.
 *
 * A second one of INT, TERM, USR1 and USR2 ends the process at once with exit code 128 + its
 * number, without cleaning up. The same signal again within one second counts as the first: a
 * launcher forwards a signal that the whole process group has already received. HUP and PIPE never
 * count as the first or second: HUP accompanies other signals, and PIPE is raised again by every
 * line of the log. */
#ifndef CELFORGE_BASE_SIGNALS_H
#define CELFORGE_BASE_SIGNALS_H

#include <stdbool.h>

/* Installs the handlers for the rest of the process. Interrupted system calls are restarted. HUP
 * and PIPE stay ignored if they are (nohup, service managers). */
void signals_install(void);
/* Returns whether this process has received a stop signal. May be called from any thread. */
bool signals_stop_requested(void);

#endif
