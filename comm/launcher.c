#include "comm/launcher.h"

#include <stddef.h>
#include <stdlib.h>

static int environment_number(const char *name) {
  const char *text = getenv(name);
  return text ? atoi(text) : 0;
}

int launcher_announced_ranks(const char **variable) {
  static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS",
                                      "SLURM_NTASKS"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    int number = environment_number(names[i]);
    *variable = names[i];
    if (number > 0) return number;
  }
  return 0;
}

bool launcher_offers_pmi(void) {
  return getenv("PMIX_RANK") || getenv("PMI_RANK");
}

bool launcher_started_process(void) {
  const char *variable;
  return getenv("OMPI_COMM_WORLD_SIZE") || launcher_offers_pmi() ||
         launcher_announced_ranks(&variable) > 1;
}

/* Open MPI before version 5, Open MPI from 5 on, Hydra (MPICH, Intel MPI). */
static bool started_by_mpirun(void) {
  return getenv("OMPI_MCA_orte_launch") || getenv("PRTE_LAUNCHED") || getenv("HYDI_CONTROL_FD");
}

int launcher_srun_tasks(void) {
  return started_by_mpirun() ? 0 : environment_number("SLURM_STEP_NUM_TASKS");
}
