/* The command line: subcommands, each with one table of options from which the parser, its errors
 * and --help come. Options have long names only: --name value or --name=value; "--" ends them. */
#ifndef CELFORGE_TRAINER_CLI_OPTIONS_H
#define CELFORGE_TRAINER_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/text.h"
#include "engine/graph/tensor.h"
#include "trainer/config/config.h"

typedef struct TextList {
  int count, capacity;
  const char **items; /* borrowed from argv */
} TextList;

typedef struct PictureSize {
  int width, height; /* 0: not given */
} PictureSize;

typedef enum OptionKind {
  OPTION_ARGUMENT, /* const char *; a positional one, in the order of the table */
  OPTION_FLAG,     /* bool */
  OPTION_TEXT,     /* const char * */
  OPTION_LIST,     /* TextList; may be given again */
  OPTION_NUMBER,   /* int64_t, in [minimum, maximum] */
  OPTION_SIZE,     /* PictureSize: "WxH" */
  OPTION_SIDES,    /* PictureSize: "WxH", "W", "Wx" or "xH"; the side left out is 0 */
} OptionKind;

typedef struct Option {
  /* "frames"; of arguments what help calls them: "OUT". "step|data": one of these words, the
   * command's mode. */
  const char *name;
  OptionKind kind;
  size_t offset; /* of the value, into the command's struct of values */
  bool required;
  int64_t minimum, maximum; /* of NUMBER */
  const char *value;        /* what help calls the value: "T" */
  const char *default_text; /* taken where the option is not given; NULL: zero */
  const char *modes;        /* "step|data": the only modes that take it; NULL: all */
  const char *help;
} Option;

/* How the process was started, for commands that hand it on. */
typedef struct Invocation {
  int *argc;
  char ***argv;
  const char *line; /* "celforge synth data/demo --clips 256" */
} Invocation;

typedef struct Command {
  const char *name, *summary;
  const Option *options;
  int option_count;
  size_t values_size;
  void (*more_help)(Text *out); /* or NULL */
  bool by_ranks;                /* run by all ranks of a group: they fail together */
  Status (*run)(const void *values, const Invocation *invocation, Error *error);
} Command;

/* Finds the command, parses its options and runs it; --help and --version print to standard output.
 * ERROR_USAGE for what the tables do not allow, naming the nearest known word. */
Status commandline_run(const Command *const *commands, int count, int *argc, char ***argv,
                       Error *error);

/* What a config file and --set assignments say, over the defaults. */
Status command_load_config(const char *path, const TextList *assignments, Config *config,
                           Error *error);
/* What --device and --precision say (command_use.c). */
Status command_parse_device(const char *text, Device *out, Error *error);
Status command_parse_precision(const char *text, DType *out, Error *error);

extern const Command command_synth, command_pack, command_verify; /* command_data.c */
extern const Command command_join;                                /* command_data.c */
extern const Command command_train, command_config;               /* command_train.c */
/* command_use.c */
extern const Command command_eval, command_translate, command_export, command_info;
extern const Command command_bench; /* command_bench.c */

#endif
