/* Preflight checks: whether all ranks were started the same way, before anything is computed. */
#ifndef CELFORGE_TRAINER_RUN_PREFLIGHT_H
#define CELFORGE_TRAINER_RUN_PREFLIGHT_H

#include "comm/comm.h"
#include "trainer/config/config.h"

/* Checks the environment before MPI is initialised. ERROR_USAGE if srun started several tasks
 * without a way to connect them (no --mpi option, or an unsuitable one): MPI would exit, or each
 * task would train alone. */
Status preflight_check_environment(Error *error);

/* Reports the failure `status` of a rank that happened before the group was opened (an invalid
 * command line or config) once for all ranks, see comm_report_startup_failure. If the ranks cannot
 * be connected, each reports its own. Returns the worst status of all ranks; the message of *error
 * is cleared if it has been reported. */
Status preflight_fail_together(int *argc, char ***argv, Status status, Error *error);

/* Checks that all ranks of the group run the same program (CRC-32C of its file) with the same
 * effective config on the same dataset (for unpaired data on the same two; target_uuid is NULL for
 * pairs), and that a job step of srun is one group with all its tasks. ERROR_USAGE, with ranks,
 * hosts and the difference; for configs this is the first key that differs, with both values. All
 * ranks call this together and return the same status. */
Status preflight_check(const Config *config, Comm *comm, const char *dataset_uuid,
                       const char *target_uuid, Error *error);

#endif
