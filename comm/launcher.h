/* How this process was started, from the environment variables of mpirun, srun and PMI. */
#ifndef CELFORGE_COMM_LAUNCHER_H
#define CELFORGE_COMM_LAUNCHER_H

#include <stdbool.h>

/* The number of ranks that a launcher or scheduler announced, and the variable that says so; 0 if
 * none did. A variable of the launcher that started this process takes precedence over the size of
 * the job's allocation. */
int launcher_announced_ranks(const char **variable);
/* Whether a launcher started this process as a rank. */
bool launcher_started_process(void);
/* Whether the launcher offers a process management interface (PMIx or PMI) to connect the ranks. */
bool launcher_offers_pmi(void);
/* The number of tasks of the job step in which srun started this process; 0 if srun did not start
 * it. (Under mpirun the variable counts mpirun's own daemons.) */
int launcher_srun_tasks(void);

#endif
