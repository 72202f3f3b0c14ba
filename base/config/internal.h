/* Parts shared by the files of the config reader and writer. A value is checked while its location
 * in the file is known, and stored once all values of the file are valid.
 *
 * Calls go one way: load -> yaml -> value -> errors -> schema; write -> schema; load -> sources. */
#ifndef CELFORGE_BASE_CONFIG_INTERNAL_H
#define CELFORGE_BASE_CONFIG_INTERNAL_H

#include "base/config/config.h"

/* Line and column start at 1 and count characters. An assignment has line 0 and a name only. */
typedef struct ConfigLocation {
  const char *name; /* the file, or "--set train.steps=5" */
  size_t line, column;
} ConfigLocation;

/* A scalar of the file. A quoted one is a string: never a number or a boolean. */
typedef struct ConfigScalar {
  const char *text;
  bool quoted;
} ConfigScalar;

typedef struct ConfigValue {
  const ConfigKey *key;
  ConfigLocation location;
  union {
    bool boolean;
    int64_t integer;
    double real;
    int choice;
    ConfigString string; /* zero-filled after its end */
  };
} ConfigValue;

typedef struct ConfigValues {
  ConfigValue *items;
  size_t count, capacity;
} ConfigValues;

/* --- schema.c: lookups in the table ----------------------------------------------------------- */

/* The key called `path`, or NULL. */
const ConfigKey *config_find_key(const ConfigSchema *schema, const char *path);
/* The first key of a section, or NULL. */
const ConfigKey *config_find_section(const ConfigSchema *schema, const char *section);
/* The new name of a renamed key, or NULL. */
const char *config_find_renamed(const ConfigSchema *schema, const char *path);
/* The length of "train" in "train.steps"; 0 for a key without a section. */
size_t config_section_length(const char *key);
/* "steps" of "train.steps". */
const char *config_name_in_section(const char *key);
/* The name of choice `index` and its length; NULL past the last. */
const char *config_choice(const ConfigKey *key, int index, size_t *length);
/* The bounds of an INT; INT64_MIN and INT64_MAX where it is unbounded. */
int64_t config_lowest(const ConfigKey *key);
int64_t config_highest(const ConfigKey *key);
/* Appends "1 to 10", "at least 0", "true or false" or "lsgan, bce"; nothing if all is allowed. */
void config_append_allowed(const ConfigKey *key, Text *out);
/* Appends the shortest decimal that reads back as the same double. */
void config_append_real(Text *out, double value);

/* --- sources.c -------------------------------------------------------------------------------- */

void config_sources_record(ConfigSources *sources, const ConfigKey *key, ConfigLocation location);

/* --- errors.c: all fail with ERROR_USAGE ------------------------------------------------------ */

/* "NAME:LINE:COLUMN: path: ...", or "NAME: ..." for an assignment. */
Status config_error_at(ConfigLocation location, const char *path, Error *error, const char *format,
                       ...) __attribute__((format(printf, 4, 5)));
/* `path` is no key: names its new name if it was renamed, else suggests the nearest key. */
Status config_error_unknown_key(const ConfigSchema *schema, ConfigLocation location,
                                const char *path, Error *error);
/* A section was given a value. */
Status config_error_section_value(const ConfigSchema *schema, ConfigLocation location,
                                  const char *section, Error *error);
/* Appends `text` to an error text: on one line, as UTF-8, cut if it is long. */
void config_append_excerpt(Text *out, const char *text);

/* --- value.c ---------------------------------------------------------------------------------- */

Status config_value_parse(const ConfigKey *key, ConfigScalar scalar, ConfigLocation location,
                          ConfigValue *value, Error *error);
void config_value_store(const ConfigValue *value, void *config);

/* --- yaml.c ----------------------------------------------------------------------------------- */

/* Checks a whole YAML text and returns its values. The caller frees values->items. */
Status config_yaml_read(const ConfigSchema *schema, const char *name, const char *yaml, size_t size,
                        ConfigValues *values, Error *error);

#endif
