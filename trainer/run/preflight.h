/* Is this one run? Whether all ranks were started alike, before anything is computed or written. */
#ifndef CELFORGE_TRAINER_RUN_PREFLIGHT_H
#define CELFORGE_TRAINER_RUN_PREFLIGHT_H

#include "comm/comm.h"
#include "trainer/config/config.h"

/* Before MPI is started: a task of several of a job step that was given no way to the others (srun
 * without --mpi, or with one that does not fit) is ERROR_USAGE here. MPI itself would end the
 * process, or train N times alone. */
Status launch_check_environment(Error *error);

/* What is wrong with a rank's command line or config, before its group is there, becomes all ranks'
 * failure and is said once (comm_open_failed); where there is no way to the others, each speaks for
 * itself. Returns the worst status; *error is left without a message where it has been said. */
Status launch_refuse(int *argc, char ***argv, Status status, Error *error);

/* Every rank of the group must run the same program (the CRC-32C of its file), with the same
 * effective config, on the same dataset; and a job step that srun started must be one group of
 * SLURM_STEP_NUM_TASKS ranks. Under mpirun that variable counts mpirun's own daemons and says
 * nothing. Called by all ranks together; all return the same status. ERROR_USAGE, with ranks,
 * hosts and what differs: for a config the first key that does, with both values. */
Status launch_check(const Config *config, Comm *comm, const char *dataset_uuid, Error *error);

#endif
