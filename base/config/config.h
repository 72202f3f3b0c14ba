/* YAML config files, read with libyaml into a struct that a table of keys describes.
 *
 * The table gives each key's type, offset in the config struct, range, default and help text. The
 * parser's checks, the commented file of defaults, --help and the error texts all come from it.
 * Keys are "section.name": one level of nesting in YAML, or written with a dot. Errors read
 *
 *     run.yaml:12:9: optim.generator_lr: "fast" is not a number; allowed: 0 to 1
 *     run.yaml:3:1: modle: unknown key; did you mean "model"?
 *     run.yaml:5:3: optim.step_size: this key is now optim.generator_lr
 *
 * and for an assignment on the command line
 *
 *     --set train.steps=x: "x" is not an integer; allowed: 1 to 1000000000000
 *
 * Duplicate keys, aliases, anchors, tags and multiple documents are rejected. */
#ifndef CELFORGE_BASE_CONFIG_CONFIG_H
#define CELFORGE_BASE_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/text.h"

enum { CONFIG_STRING_SIZE = 512 };
typedef char ConfigString[CONFIG_STRING_SIZE];

typedef enum ConfigType {
  CONFIG_BOOL,   /* bool: true or false */
  CONFIG_INT,    /* int64_t in [minimum, maximum]; 1_000, 4k and 2M are rejected */
  CONFIG_REAL,   /* double, finite, in [minimum, maximum] */
  CONFIG_STRING, /* ConfigString, valid UTF-8 */
  CONFIG_CHOICE, /* int: the index into `choices` */
} ConfigType;

typedef struct ConfigKey {
  const char *key; /* "train.steps" */
  ConfigType type;
  size_t offset;            /* of the field in the config struct */
  double minimum, maximum;  /* for INT and REAL; beyond 2^63 or DBL_MAX: unbounded */
  const char *default_text; /* in YAML syntax */
  const char *choices;      /* for CHOICE: "lsgan|bce|hinge" */
  const char *help;         /* one sentence, with the unit */
} ConfigKey;

/* A key that was renamed; both names are full ("optim.step_size"). */
typedef struct ConfigRenamed {
  const char *old_key, *new_key;
} ConfigRenamed;

typedef struct ConfigSchema {
  const ConfigKey *keys; /* keys of a section are adjacent */
  size_t count;
  const char *(*section_help)(const char *section); /* or NULL */
  const char *option;           /* command line option that assigns keys: "--set" */
  const ConfigRenamed *renamed; /* rejected with the name of the new key */
  size_t renamed_count;
} ConfigSchema;

/* Records where each key of a config was last set, so that checks made after loading can name the
 * file and line. Belongs to one config; independent of other configs and threads. Functions that
 * take one accept NULL: then nothing is recorded. */
typedef struct ConfigSources ConfigSources;

ConfigSources *config_sources_new(void); /* empty */
void config_sources_free(ConfigSources *sources);

/* The functions below leave *config and *sources unchanged when they fail. Bad content is
 * ERROR_USAGE.
 *
 * Sets every key to its default. A default that its own table does not allow is ERROR_INTERNAL. */
Status config_set_defaults(const ConfigSchema *schema, void *config, Error *error);
/* Reads a file of at most 1 MiB and sets the keys that it names; other keys keep their values. */
Status config_load(const ConfigSchema *schema, const char *path, void *config,
                   ConfigSources *sources, Error *error);
/* Like config_load, from memory; `name` replaces the path in errors. */
Status config_parse(const ConfigSchema *schema, const char *name, const char *yaml, size_t size,
                    void *config, ConfigSources *sources, Error *error);
/* Sets one key from "key=value"; a string value is taken literally, without quotes. */
Status config_assign(const ConfigSchema *schema, const char *assignment, void *config,
                     ConfigSources *sources, Error *error);

/* Fails with ERROR_USAGE and the message after "FILE:LINE:COLUMN: key: " or "--set key=value: ",
 * whichever set `key` last; after "default: key: " if `sources` has no record of it, and after
 * "key: " if `sources` is NULL. */
Status config_error(const ConfigSources *sources, const char *key, Error *error, const char *format,
                    ...) __attribute__((format(printf, 4, 5)));

/* Appends a valid YAML file with every key and its value in `config`; `comments` adds the help and
 * the allowed values. Loading the file restores the same struct, bit for bit. */
void config_write(const ConfigSchema *schema, const void *config, bool comments, Text *out);
/* Appends the value of one key of the schema in YAML syntax. */
void config_write_value(const ConfigSchema *schema, const char *key, const void *config, Text *out);
/* Appends one line per key, for --help. */
void config_help(const ConfigSchema *schema, Text *out);

#endif
