/* Preflight checks. Without arguments it runs the cmocka tests. tests/distributed/test_preflight.sh
 * runs it as a rank under mpirun:
 *
 *     test_preflight UUID[,TARGETS] [KEY=VALUE ...]
 *
 * calls preflight_check with this dataset, that of the targets and config, and rank 0 prints the
 * result. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "trainer/run/preflight.h"

static const char uuid[] = "01234567-89ab-8def-8123-456789abcdef";
static Config config;
static Comm *group;

static Status check(const char *tasks, Error *error) {
  setenv("SLURM_STEP_NUM_TASKS", tasks, 1);
  setenv("SLURM_PROCID", "2", 1);
  setenv("SLURMD_NODENAME", "node7", 1);
  Status status = preflight_check(&config, group, uuid, NULL, error);
  unsetenv("SLURM_STEP_NUM_TASKS");
  unsetenv("SLURM_PROCID");
  unsetenv("SLURMD_NODENAME");
  return status;
}

static void test_alone(void **state) {
  (void)state;
  Error error = {0};
  assert_int_equal(preflight_check(&config, group, uuid, NULL, &error), OK);
}

static void test_step_of_one(void **state) {
  (void)state;
  Error error = {0};
  assert_int_equal(check("1", &error), OK);
}

static void test_singleton_of_a_step(void **state) {
  (void)state;
  Error error = {0};
  assert_int_equal(check("4", &error), ERROR_USAGE);
  assert_non_null(strstr(error.message, "srun started 4 tasks, but MPI connects 1"));
  assert_non_null(strstr(error.message, "task 2 on node node7"));
  assert_non_null(strstr(error.message, "srun --mpi=pmix"));
}

static void test_mpirun_counts_itself(void **state) {
  (void)state;
  static const char *const launchers[] = {"OMPI_MCA_orte_launch", "PRTE_LAUNCHED",
                                          "HYDI_CONTROL_FD"};
  for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
    Error error = {0};
    setenv(launchers[i], "1", 1);
    assert_int_equal(check("4", &error), OK);
    unsetenv(launchers[i]);
  }
}

/* srun --mpi=none sets none of these variables; a plugin adds one. */
static void test_environment(void **state) {
  (void)state;
  static const char *const ways[] = {"PMIX_RANK", "PMI_RANK", "OMPI_MCA_orte_launch"};
  Error error = {0};
  assert_int_equal(preflight_check_environment(&error), OK);
  setenv("SLURM_STEP_NUM_TASKS", "1", 1);
  assert_int_equal(preflight_check_environment(&error), OK);
  setenv("SLURM_STEP_NUM_TASKS", "3", 1);
  assert_int_equal(preflight_check_environment(&error), ERROR_USAGE);
  assert_non_null(strstr(error.message, "srun started 3 tasks, but MPI connects 1"));
  for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
    setenv(ways[i], "0", 1);
    assert_int_equal(preflight_check_environment(&error), OK);
    unsetenv(ways[i]);
  }
  unsetenv("SLURM_STEP_NUM_TASKS");
}

static int as_rank(int argc, char **argv) {
  Error error = {0};
  Status status = OK;
  char *targets = strchr(argv[1], ',');
  if (targets) *targets++ = '\0';
  for (int i = 2; i < argc; i++) TRY(config_assign(&config_schema, argv[i], &config, NULL, &error));
  status = preflight_check(&config, group, argv[1], targets, &error);
done:
  if (comm_rank(group) == 0) printf("status %d: %s\n", (int)status, error.message);
  fflush(stdout); /* mpirun kills the others when the first rank exits with an error */
  comm_close(group);
  return (int)status;
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_alone),
      cmocka_unit_test(test_step_of_one),
      cmocka_unit_test(test_singleton_of_a_step),
      cmocka_unit_test(test_mpirun_counts_itself),
      cmocka_unit_test(test_environment),
  };
  Error error = {0};
  if (config_set_defaults(&config_schema, &config, &error) != OK ||
      comm_open(&argc, &argv, &(CommOptions){.timeout = 100}, &group, &error) != OK) {
    fprintf(stderr, "%s\n", error.message);
    return (int)error.status;
  }
  if (argc > 1) return as_rank(argc, argv);
  int failed = cmocka_run_group_tests_name("preflight", tests, NULL, NULL);
  comm_close(group);
  return failed;
}
