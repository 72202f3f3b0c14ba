/* train, config: what a config file is for. */
#include <stddef.h>
#include <stdio.h>

#include "trainer/cli/options.h"
#include "trainer/run/preflight.h"
#include "trainer/run/train.h"

/* --- train ------------------------------------------------------------------------------------ */

typedef struct Train {
  const char *config, *resume;
  TextList set;
  bool plan;
} Train;

static const Option TRAIN_OPTIONS[] = {
    {"CONFIG", OPTION_ARGUMENT, offsetof(Train, config), true, .help = "a YAML file"},
    {"set", OPTION_LIST, offsetof(Train, set), .value = "KEY=VALUE",
     .help = "change a key of the config; may be given again"},
    {"resume", OPTION_TEXT, offsetof(Train, resume), .value = "auto|none|PATH",
     .default_text = "none",
     .help =
         "auto: go on from the run's newest good checkpoint, or begin where there is none; PATH: "
         "go on from this checkpoint (of a run's folder its newest); none: begin, and refuse a "
         "folder that holds checkpoints"},
    {"plan", OPTION_FLAG, offsetof(Train, plan),
     .help = "print what a step would run, its FLOPs and memory, and stop"},
};

static void list_config_keys(Text *out) {
  text_append(out, "\nConfig keys (celforge config --defaults writes them as a file):\n");
  config_help(&config_schema, out);
}

Status command_load_config(const char *path, const TextList *assignments, Config *config,
                           Error *error) {
  Status status = OK;
  TRY(config_set_defaults(&config_schema, config, error));
  TRY(config_load(&config_schema, path, config, error));
  for (int i = 0; assignments && i < assignments->count; i++)
    TRY(config_assign(&config_schema, assignments->items[i], config, error));
done:
  return status;
}

static Status run_train(const void *values, const Invocation *invocation, Error *error) {
  const Train *train = values;
  Config config;
  Status status = launch_check_environment(error);
  if (status != OK) return status;
  status = command_load_config(train->config, &train->set, &config, error);
  if (status != OK) return launch_refuse(invocation->argc, invocation->argv, status, error);
  TrainOptions options = {.resume = train->resume, .plan = train->plan};
  return train_run(&config, &options, invocation->argc, invocation->argv, error);
}

const Command command_train = {.name = "train",
                               .summary = "trains a model; under mpirun or srun, with every rank",
                               .options = TRAIN_OPTIONS,
                               .option_count = sizeof TRAIN_OPTIONS / sizeof *TRAIN_OPTIONS,
                               .values_size = sizeof(Train),
                               .more_help = list_config_keys,
                               .by_ranks = true,
                               .run = run_train};

/* --- config ----------------------------------------------------------------------------------- */

typedef struct ConfigCommand {
  bool defaults;
  const char *check;
} ConfigCommand;

static const Option CONFIG_OPTIONS[] = {
    {"defaults", OPTION_FLAG, offsetof(ConfigCommand, defaults),
     .help = "print a config file with every key, its default and what is allowed"},
    {"check", OPTION_TEXT, offsetof(ConfigCommand, check), .value = "FILE",
     .help = "say whether a config is valid, and where it is not"},
};

static Status run_config(const void *values, const Invocation *invocation, Error *error) {
  Status status = OK;
  const ConfigCommand *command = values;
  (void)invocation;
  Config config;
  Text text = {0};
  if (command->defaults == (command->check != NULL))
    FAIL(error, ERROR_USAGE, "config: give one of --defaults and --check FILE");
  if (command->check) {
    TRY(command_load_config(command->check, NULL, &config, error));
    TRY(config_check(&config, 1, error));
    printf("%s: valid\n", command->check);
  } else {
    TRY(config_set_defaults(&config_schema, &config, error));
    config_write(&config_schema, &config, true, &text);
    fputs(text.data, stdout);
  }
done:
  text_free(&text);
  return status;
}

const Command command_config = {.name = "config",
                                .summary = "prints the default config, or checks one",
                                .options = CONFIG_OPTIONS,
                                .option_count = sizeof CONFIG_OPTIONS / sizeof *CONFIG_OPTIONS,
                                .values_size = sizeof(ConfigCommand),
                                .run = run_config};
