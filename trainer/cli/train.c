/* The commands train and config. */
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
    {"CONFIG", OPTION_ARGUMENT, offsetof(Train, config), true, .help = "YAML file"},
    {"set", OPTION_LIST, offsetof(Train, set), .value = "KEY=VALUE",
     .help = "override a key of the config; repeatable"},
    {"resume", OPTION_TEXT, offsetof(Train, resume), .value = "auto|none|PATH",
     .default_text = "none",
     .help =
         "auto: continue from the newest good checkpoint of run.dir, or start where there is none; "
         "PATH: continue from this checkpoint, or the newest of this run folder; none: start, and "
         "refuse a run folder that holds checkpoints"},
    {"plan", OPTION_FLAG, offsetof(Train, plan),
     .help = "print the ops, FLOPs and memory of a step, and stop"},
};

static void list_config_keys(Text *out) {
  text_append(out, "\nConfig keys (celforge config --defaults prints them as a file):\n");
  config_help(&config_schema, out);
}

Status command_load_config(const char *path, const TextList *assignments, Config *config,
                           ConfigSources *sources, Error *error) {
  Status status = OK;
  TRY(config_set_defaults(&config_schema, config, error));
  TRY(config_load(&config_schema, path, config, sources, error));
  for (int i = 0; assignments && i < assignments->count; i++)
    TRY(config_assign(&config_schema, assignments->items[i], config, sources, error));
done:
  return status;
}

static Status run_train(const void *values, const Invocation *invocation, Error *error) {
  const Train *train = values;
  Config config;
  Status status = preflight_check_environment(error);
  if (status != OK) return status;
  ConfigSources *sources = config_sources_new();
  TrainOptions options = {.resume = train->resume, .plan = train->plan, .sources = sources};
  status = command_load_config(train->config, &train->set, &config, sources, error);
  if (status == OK)
    status = train_run(&config, &options, invocation->argc, invocation->argv, error);
  else
    status = preflight_fail_together(invocation->argc, invocation->argv, status, error);
  config_sources_free(sources);
  return status;
}

const Command command_train = {.name = "train",
                               .summary = "train a model; on several ranks under mpirun or srun",
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
     .help = "print a config file with every key, its default and allowed values"},
    {"check", OPTION_TEXT, offsetof(ConfigCommand, check), .value = "FILE",
     .help = "check a config file, and print the place of the first error"},
};

static Status run_config(const void *values, const Invocation *invocation, Error *error) {
  Status status = OK;
  const ConfigCommand *command = values;
  (void)invocation;
  Config config;
  ConfigSources *sources = config_sources_new();
  Text text = {0};
  if (command->defaults == (command->check != NULL))
    FAIL(error, ERROR_USAGE, "config: give either --defaults or --check FILE");
  if (command->check) {
    TRY(command_load_config(command->check, NULL, &config, sources, error));
    TRY(config_check(&config, sources, 1, error));
    printf("%s: valid\n", command->check);
  } else {
    TRY(config_set_defaults(&config_schema, &config, error));
    config_write(&config_schema, &config, true, &text);
    fputs(text.data, stdout);
  }
done:
  config_sources_free(sources);
  text_free(&text);
  return status;
}

const Command command_config = {.name = "config",
                                .summary = "print the default config, or check a config file",
                                .options = CONFIG_OPTIONS,
                                .option_count = sizeof CONFIG_OPTIONS / sizeof *CONFIG_OPTIONS,
                                .values_size = sizeof(ConfigCommand),
                                .run = run_config};
