/* celforge: runs the subcommand and turns its Status into the exit code. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "trainer/cli/options.h"

static const Command *const COMMANDS[] = {
    &command_synth,  &command_pack, &command_join,      &command_verify,
    &command_train,  &command_eval, &command_translate, &command_export,
    &command_models, &command_info, &command_config,    &command_bench,
};

/* Limits how long libgomp's threads spin while they wait for each other. By default they spin for
 * longer than a scheduler's time slice, so that a step takes several times as long when another
 * program wants a core, too; some ten microseconds are enough between two kernels. libgomp reads
 * the variable before main begins and has no function for it, so the program executes itself again.
 * Values that the user has set are kept. */
static void limit_spinning(char **argv) {
  if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY")) return;
  if (setenv("GOMP_SPINCOUNT", "2000", 1) == 0) execv("/proc/self/exe", argv);
}

int main(int argc, char **argv) {
  limit_spinning(argv);
  Error error = {0};
  int count = (int)(sizeof COMMANDS / sizeof *COMMANDS);
  Status status = commandline_run(COMMANDS, count, &argc, &argv, &error);
  /* An error common to all ranks has been printed by one of them, and its message is empty here. */
  if (status != OK && error.message[0]) fprintf(stderr, "celforge: %s\n", error.message);
  return (int)status;
}
