/* celforge: finds the subcommand and turns its Status into an exit code. */
#include <stdio.h>

#include "trainer/commandline.h"

static const Command *const COMMANDS[] = {
    &command_synth,     &command_pack, &command_verify, &command_train, &command_eval,
    &command_translate, &command_info, &command_config, &command_bench,
};

int main(int argc, char **argv) {
  Error error = {0};
  int count = (int)(sizeof COMMANDS / sizeof *COMMANDS);
  Status status = commandline_run(COMMANDS, count, &argc, &argv, &error);
  /* Ranks that leave the message to rank 0 return without one. */
  if (status != OK && error.message[0]) fprintf(stderr, "celforge: %s\n", error.message);
  return (int)status;
}
