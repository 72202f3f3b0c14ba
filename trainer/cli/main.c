/* celforge: finds the subcommand and turns its Status into an exit code. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "trainer/cli/options.h"

static const Command *const COMMANDS[] = {
    &command_synth, &command_pack,   &command_join,      &command_verify,
    &command_train, &command_eval,   &command_translate, &command_export,
    &command_info,  &command_config, &command_bench,
};

/* Threads of libgomp wait for each other in a loop, for longer than a scheduler's time slice. Where
 * another program wants a core as well, a step then takes several times as long as it must. Some
 * ten microseconds are enough between two kernels. libgomp reads this before main begins, so the
 * program starts itself again; whoever has set either variable knows better. */
static void shorten_spinning(char **argv) {
  if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY")) return;
  if (setenv("GOMP_SPINCOUNT", "2000", 1) == 0) execv("/proc/self/exe", argv);
}

int main(int argc, char **argv) {
  shorten_spinning(argv);
  Error error = {0};
  int count = (int)(sizeof COMMANDS / sizeof *COMMANDS);
  Status status = commandline_run(COMMANDS, count, &argc, &argv, &error);
  /* What ranks have in common is said already, by one of them. */
  if (status != OK && error.message[0]) fprintf(stderr, "celforge: %s\n", error.message);
  return (int)status;
}
