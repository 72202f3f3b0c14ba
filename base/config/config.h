/* YAML config over libyaml, driven by one table of keys.
 *
 * The table says for every key its type, place in the config struct, range, default and help; from
 * it come the parser's checks, the commented file of defaults, --help and the error texts. Keys are
 * "section.name" (one level of nesting in YAML, or dots written out). Errors read
 *
 *     run.yaml:12:9: optim.generator_lr: "fast" is not a number; allowed: 0 to 1
 *     run.yaml:3:1: modle: unknown key; did you mean "model"?
 *
 * and for an assignment of the command line
 *
 *     --set train.steps=x: "x" is not an integer; allowed: 1 to 1000000000000
 *
 * Duplicate keys, aliases, anchors, tags and multiple documents are refused. */
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
  CONFIG_BOOL,   /* bool; true or false */
  CONFIG_INT,    /* int64_t, in [minimum, maximum]; 1_000, 4k and 2M are not numbers */
  CONFIG_REAL,   /* double, finite, in [minimum, maximum] */
  CONFIG_STRING, /* ConfigString */
  CONFIG_CHOICE, /* int, the index into `choices` */
} ConfigType;

typedef struct ConfigKey {
  const char *key; /* "train.steps" */
  ConfigType type;
  size_t offset;            /* into the config struct */
  double minimum, maximum;  /* of INT and REAL; at or past 2^63 or DBL_MAX: no bound */
  const char *default_text; /* as it would stand in YAML */
  const char *choices;      /* of CHOICE: "lsgan|bce|hinge" */
  const char *help;         /* one sentence, with the unit */
} ConfigKey;

typedef struct ConfigSchema {
  const ConfigKey *keys; /* keys of a section stand together */
  size_t count;
  const char *(*section_help)(const char *section); /* may be NULL */
  const char *option; /* of the command line that assigns its keys: "--set" */
} ConfigSchema;

/* Every function below leaves *config untouched when it fails. ERROR_USAGE on bad content.
 *
 * Defaults come first; what is loaded or assigned then sets the keys that it names and leaves the
 * others as they are. A default that its own table does not allow is ERROR_INTERNAL. */
Status config_set_defaults(const ConfigSchema *schema, void *config, Error *error);
Status config_load(const ConfigSchema *schema, const char *path, void *config, Error *error);
/* As config_load, from memory; `name` stands for the file in errors. */
Status config_parse(const ConfigSchema *schema, const char *name, const char *yaml, size_t size,
                    void *config, Error *error);
/* `assignment` is "key=value"; a text stands as it is, without quotes. */
Status config_assign(const ConfigSchema *schema, const char *assignment, void *config,
                     Error *error);

/* Appends a valid YAML file with every key, its value in `config`, and with `comments` its help
 * and what is allowed. Loading it gives the same struct, bit for bit. */
void config_write(const ConfigSchema *schema, const void *config, bool comments, Text *out);
/* Appends one key's value as it stands in such a file; the key must be the schema's. */
void config_write_value(const ConfigSchema *schema, const char *key, const void *config, Text *out);
/* One line a key, for --help. */
void config_help(const ConfigSchema *schema, Text *out);
/* Fails with "FILE:LINE:COLUMN: key: ", or "--set key=value: ", before the message, for a check
 * across keys made after loading: the place where `key` was last set is remembered by the last
 * config_load/parse/assign of this thread; a key left at its default is named "default: key". */
Status config_error(const char *key, Error *error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* For whoever loads another config beside the one in force, a checkpoint's say, and goes on to
 * check the latter: puts the places remembered so far aside, and back in the stead of the other's.
 */
typedef struct ConfigPlaces ConfigPlaces;
ConfigPlaces *config_places_put_aside(void);
void config_places_put_back(ConfigPlaces *places);

#endif
