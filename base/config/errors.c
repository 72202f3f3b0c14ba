#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config/internal.h"
#include "base/memory.h"

enum { MAX_EXCERPT_BYTES = 80 };

void config_append_excerpt(Text *out, const char *text) {
  const char *at = text;
  while (*at) {
    const char *character = at;
    int32_t code = text_next_code_point(&at);
    size_t bytes = (size_t)(at - character);
    if ((size_t)(at - text) > MAX_EXCERPT_BYTES) {
      text_append(out, "...");
      return;
    }
    bool visible = code >= 0x20 && code != 0x7f;
    text_append_bytes(out, visible ? character : "?", visible ? bytes : 1);
  }
}

Status config_error_at(ConfigLocation location, const char *path, Error *error, const char *format,
                       ...) {
  char *message = NULL;
  Text shown = {0};
  va_list arguments;
  va_start(arguments, format);
  if (vasprintf(&message, format, arguments) < 0) message = NULL;
  va_end(arguments);
  config_append_excerpt(&shown, path);
  if (location.line > 0)
    error_set(error, ERROR_USAGE, "%s:%zu:%zu: %s: %s", location.name, location.line,
              location.column, shown.data ? shown.data : "\"\"", message ? message : format);
  else
    error_set(error, ERROR_USAGE, "%s: %s", location.name, message ? message : format);
  text_free(&shown);
  free(message);
  return ERROR_USAGE;
}

/* --- Unknown keys ----------------------------------------------------------------------------- */

/* The best suggestion so far, and the largest edit distance that still counts as a misspelling. */
typedef struct Nearest {
  const char *text;
  size_t length;
  int distance, limit;
} Nearest;

static void consider(Nearest *nearest, const char *written, const char *known, size_t known_length,
                     const char *suggestion, size_t length, int penalty) {
  char *copy = mem_format("%.*s", (int)known_length, known);
  int distance = text_distance(written, copy);
  free(copy);
  if (distance > nearest->limit || distance + penalty >= nearest->distance) return;
  *nearest = (Nearest){suggestion, length, distance + penalty, nearest->limit};
}

/* Compares with whole keys, with sections, and with names alone, in case the section is wrong or
 * missing. About a quarter of the name may be misspelt. */
static Nearest find_nearest(const ConfigSchema *schema, const char *path) {
  const char *name = config_name_in_section(path);
  Nearest nearest = {NULL, 0, 1 << 20, 0};
  if (strlen(path) > MAX_EXCERPT_BYTES) return nearest;
  for (size_t i = 0; i < schema->count; i++) {
    const char *key = schema->keys[i].key, *key_name = config_name_in_section(key);
    size_t length = strlen(key), section = config_section_length(key);
    nearest.limit = 1 + (int)strlen(name) / 4;
    consider(&nearest, path, key, length, key, length, 0);
    if (name == path && section > 0) consider(&nearest, path, key, section, key, section, 0);
    nearest.limit = (int)strlen(name) / 4;
    consider(&nearest, name, key_name, strlen(key_name), key, length, 1);
  }
  return nearest;
}

/* Appends the sections and the keys outside of one. */
static void append_sections(const ConfigSchema *schema, Text *out) {
  const char *previous = "";
  size_t previous_length = 0;
  for (size_t i = 0; i < schema->count; i++) {
    const char *key = schema->keys[i].key;
    size_t length = config_section_length(key);
    if (length == previous_length && strncmp(key, previous, length) == 0 && length > 0) continue;
    text_append(out, "%s%.*s", out->length ? ", " : "", length ? (int)length : (int)strlen(key),
                key);
    previous = key;
    previous_length = length;
  }
}

/* Appends the names of a section's keys. */
static void append_keys(const ConfigSchema *schema, const char *section, size_t length, Text *out) {
  for (size_t i = 0; i < schema->count; i++) {
    const char *key = schema->keys[i].key;
    if (config_section_length(key) == length && strncmp(key, section, length) == 0)
      text_append(out, "%s%s", out->length ? ", " : "", config_name_in_section(key));
  }
}

Status config_error_unknown_key(const ConfigSchema *schema, ConfigLocation location,
                                const char *path, Error *error) {
  const char *renamed = config_find_renamed(schema, path);
  if (renamed) return config_error_at(location, path, error, "this key is now %s", renamed);
  Nearest nearest = find_nearest(schema, path);
  if (nearest.text)
    return config_error_at(location, path, error, "unknown key; did you mean \"%.*s\"?",
                           (int)nearest.length, nearest.text);
  Text known = {0};
  size_t length = config_section_length(path);
  if (length > 0) append_keys(schema, path, length, &known);
  bool in_section = known.length > 0;
  if (!in_section) append_sections(schema, &known);
  if (in_section)
    config_error_at(location, path, error, "unknown key; section \"%.*s\" has the keys %s",
                    (int)length, path, known.data);
  else
    config_error_at(location, path, error, "unknown key; expected one of %s",
                    known.data ? known.data : "none");
  text_free(&known);
  return ERROR_USAGE;
}

Status config_error_section_value(const ConfigSchema *schema, ConfigLocation location,
                                  const char *section, Error *error) {
  Text known = {0};
  append_keys(schema, section, strlen(section), &known);
  config_error_at(location, section, error, "is a section, not a key; it has the keys %s",
                  known.data);
  text_free(&known);
  return ERROR_USAGE;
}
