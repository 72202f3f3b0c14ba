/* celforge: runs the subcommand and turns its Status into the exit code. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/process.h"
#include "trainer/cli/options.h"

static const Command *const COMMANDS[] = {
    &command_synth,  &command_pack, &command_join,      &command_verify,
    &command_train,  &command_eval, &command_translate, &command_export,
    &command_models, &command_info, &command_config,    &command_bench,
};

/* Limits how long libgomp's threads spin while they wait for each other. By default they spin for
 * longer than a scheduler's time slice, so that a step takes several times as long when another
 * program wants a core, too; some ten microseconds are enough between two kernels. Values that the
 * user has set are kept. Returns whether the environment has changed. */
static bool limit_spinning(void) {
  if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY")) return false;
  return setenv("GOMP_SPINCOUNT", "2000", 1) == 0;
}

/* libgomp reads its variables before main begins and has no function for some of them, so the
 * program executes itself again if they have changed. */
static Status prepare_openmp(char **argv, Error *error) {
  bool bounded;
  Status status = process_check_openmp(&bounded, error);
  if (status != OK) return status;
  if (limit_spinning() || bounded) execv("/proc/self/exe", argv);
  return OK; /* continues with the variables as they were where /proc is missing */
}

static Status run(int argc, char **argv, Error *error) {
  Status status = OK;
  process_ignore_file_size_signal();
  TRY(prepare_openmp(argv, error));
  TRY(commandline_run(COMMANDS, (int)(sizeof COMMANDS / sizeof *COMMANDS), &argc, &argv, error));
done:
  return status;
}

int main(int argc, char **argv) {
  Error error = {0};
  if (process_open_standard_streams() != OK) return ERROR_IO;
  Status status = run(argc, argv, &error);
  /* An error common to all ranks has been printed by one of them, and its message is empty here. */
  if (status != OK && error.message[0]) fprintf(stderr, "celforge: %s\n", error.message);
  return (int)status;
}
