/* What the files of the config reader and writer share. Keys are looked up by "section.name"; a
 * value is checked where its place is still known, and stored when all values are good. */
#ifndef CELFORGE_BASE_CONFIG_INTERNAL_H
#define CELFORGE_BASE_CONFIG_INTERNAL_H

#include "base/config/config.h"

/* Line and column count from 1, in characters. An assignment has neither: its name says all. */
typedef struct ConfigPlace {
  const char *name; /* of the file, or "--set train.steps=5" */
  size_t line, column;
} ConfigPlace;

/* A scalar as it was found. Quoted ones are text: neither numbers nor true nor false. */
typedef struct ConfigScalar {
  const char *text;
  bool quoted;
} ConfigScalar;

typedef struct ConfigValue {
  const ConfigKey *key;
  ConfigPlace place;
  union {
    bool truth;
    int64_t integer;
    double real;
    int choice;
    ConfigString string; /* zeros behind the end */
  };
} ConfigValue;

typedef struct ConfigValues {
  ConfigValue *items;
  size_t count, capacity;
} ConfigValues;

/* config.c */
const ConfigKey *config_find(const ConfigSchema *schema, const char *path);
/* The length of "train" in "train.steps"; 0 for a key without a section. */
size_t config_section_length(const char *key);
/* The first key of a section, or NULL. */
const ConfigKey *config_find_section(const ConfigSchema *schema, const char *section);

/* config_error.c: all fail with ERROR_USAGE and "NAME:LINE:COLUMN: path: ...", or "NAME: ..." for
 * an assignment */
Status config_wrong(ConfigPlace place, const char *path, Error *error, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
Status config_unknown(const ConfigSchema *schema, ConfigPlace place, const char *path,
                      Error *error);
Status config_not_a_value(const ConfigSchema *schema, ConfigPlace place, const char *section,
                          Error *error);
void config_forget_places(void);
void config_remember_place(const ConfigKey *key, ConfigPlace place);
/* `text` on one line, as UTF-8, cut where it is long: for what stands in errors. */
void config_append_shown(Text *out, const char *text);
/* The same in quotes: for values. */
void config_append_found(Text *out, const char *text);

/* config_value.c */
Status config_value_parse(const ConfigKey *key, ConfigScalar scalar, ConfigPlace place,
                          ConfigValue *value, Error *error);
void config_value_store(const ConfigValue *value, void *config);
/* "1 to 10", "at least 0", "true or false", "lsgan, bce"; nothing where anything is allowed. */
void config_append_allowed(const ConfigKey *key, Text *out);
/* The shortest decimal that reads back as the same double. */
void config_append_real(Text *out, double value);
/* The name of choice `index` and its length; NULL past the last. */
const char *config_choice(const ConfigKey *key, int index, size_t *length);
/* The code point at *text, which moves behind it; -1, moving one byte, where it is not UTF-8. */
int32_t config_next_character(const char **text);

/* config_yaml.c: checks all of a YAML text. The caller frees `items`. */
Status config_yaml_read(const ConfigSchema *schema, const char *name, const char *yaml, size_t size,
                        ConfigValues *values, Error *error);

#endif
