/* Signals that ask a run to stop: INT, TERM, USR1, USR2. The first one asks for a checkpoint and
 * the end; a second one ends the process at once, with 128 + its number, and touches nothing. The
 * same one again within a second counts as the first: a launcher passes on what the whole process
 * group has got. */
#ifndef CELFORGE_BASE_SIGNALS_H
#define CELFORGE_BASE_SIGNALS_H

#include <stdbool.h>

/* From now on. */
void signals_catch(void);
/* Whether this process was asked to stop. */
bool signals_ask_to_stop(void);

#endif
