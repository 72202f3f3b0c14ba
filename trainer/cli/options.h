/* The command line. Each subcommand has one table of options; the parser, its error messages and
 * --help are derived from it. Options have long names only: --name value or --name=value; "--" ends
 * them. */
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
  OPTION_ARGUMENT, /* const char *; positional, in the order of the table */
  OPTION_FLAG,     /* bool */
  OPTION_TEXT,     /* const char * */
  OPTION_LIST,     /* TextList; repeatable */
  OPTION_NUMBER,   /* int64_t, in [minimum, maximum] */
  OPTION_SIZE,     /* PictureSize: "WxH" */
  OPTION_SIDES,    /* PictureSize: "WxH", "W", "Wx" or "xH"; the omitted side is 0 */
} OptionKind;

typedef struct Option {
  /* "frames"; for arguments the name shown in help: "OUT". An argument named "step|data" takes one
   * of these words, the command's mode. */
  const char *name;
  OptionKind kind;
  size_t offset; /* of the value in the command's struct of values */
  bool required;
  int64_t minimum, maximum; /* for OPTION_NUMBER, both included */
  const char *value;        /* name of the value in help: "T" */
  const char *default_text; /* parsed when the option is not given; NULL: zero */
  const char *modes;        /* "step|data": the modes that accept it; NULL: all */
  const char *help;
} Option;

/* How the process was started, for commands that pass it to MPI or record it in a dataset. */
typedef struct Invocation {
  int *argc;
  char ***argv;
  const char *line; /* "celforge synth datasets/demo --clips 256" */
} Invocation;

typedef struct Command {
  const char *name, *summary;
  const Option *options;
  int option_count;
  size_t values_size;
  void (*more_help)(Text *out); /* or NULL */
  bool by_ranks;                /* runs on all ranks of a group, which fail together */
  Status (*run)(const void *values, const Invocation *invocation, Error *error);
} Command;

/* Finds the command, parses its options and runs it; --help and --version print to standard output.
 * ERROR_USAGE for anything the tables do not allow, naming the nearest known word. */
Status commandline_run(const Command *const *commands, int count, int *argc, char ***argv,
                       Error *error);

/* Loads a config: the defaults, then the file, then the --set assignments. `sources` (or NULL)
 * records where each key was set. */
Status command_load_config(const char *path, const TextList *assignments, Config *config,
                           ConfigSources *sources, Error *error);
/* Parse the values of --device and --precision. */
Status command_parse_device(const char *text, Device *out, Error *error);
Status command_parse_precision(const char *text, DType *out, Error *error);

extern const Command command_synth, command_pack, command_verify; /* data.c */
extern const Command command_join;                                /* data.c */
extern const Command command_train, command_config;               /* train.c */
/* inference_commands.c */
extern const Command command_eval, command_translate, command_export, command_info;
extern const Command command_models; /* models_command.c */
extern const Command command_bench;  /* bench_command.c */

#endif
