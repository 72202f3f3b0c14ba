#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config/internal.h"
#include "base/memory.h"

enum { LONGEST_SHOWN = 80 };

/* --- Where each key was last set, a table for each thread ------------------------------------- */

struct ConfigPlaces {
  struct {
    char *key, *place;
  } * items;
  size_t count, capacity;
};

static pthread_key_t places_key;
static pthread_once_t places_once = PTHREAD_ONCE_INIT;

static void empty_places(ConfigPlaces *places) {
  for (size_t i = 0; i < places->count; i++) {
    free(places->items[i].key);
    free(places->items[i].place);
  }
  free(places->items);
  *places = (ConfigPlaces){0};
}

static void free_places(void *places) {
  empty_places(places);
  free(places);
}

static void make_places_key(void) {
  pthread_key_create(&places_key, free_places);
}

static ConfigPlaces *own_places(void) {
  pthread_once(&places_once, make_places_key);
  ConfigPlaces *places = pthread_getspecific(places_key);
  if (!places) {
    places = mem_new(1, sizeof *places);
    pthread_setspecific(places_key, places);
  }
  return places;
}

void config_forget_places(void) {
  empty_places(own_places());
}

ConfigPlaces *config_places_put_aside(void) {
  ConfigPlaces *places = own_places(), *aside = mem_new(1, sizeof *aside);
  *aside = *places;
  *places = (ConfigPlaces){0};
  return aside;
}

void config_places_put_back(ConfigPlaces *places) {
  ConfigPlaces *own = own_places();
  empty_places(own);
  *own = *places;
  free(places);
}

void config_remember_place(const ConfigKey *key, ConfigPlace place) {
  ConfigPlaces *places = own_places();
  char *text = place.line > 0
                   ? mem_format("%s:%zu:%zu: %s", place.name, place.line, place.column, key->key)
                   : mem_string(place.name);
  for (size_t i = 0; i < places->count; i++) {
    if (strcmp(places->items[i].key, key->key) != 0) continue;
    free(places->items[i].place);
    places->items[i].place = text;
    return;
  }
  MEM_PUSH_SLOT(places->items, places->count, places->capacity);
  places->items[places->count].key = mem_string(key->key);
  places->items[places->count++].place = text;
}

Status config_error(const char *key, Error *error, const char *format, ...) {
  const ConfigPlaces *places = own_places();
  const char *place = NULL;
  for (size_t i = 0; i < places->count; i++)
    if (strcmp(places->items[i].key, key) == 0) place = places->items[i].place;
  char *message = NULL;
  va_list arguments;
  va_start(arguments, format);
  if (vasprintf(&message, format, arguments) < 0) message = NULL;
  va_end(arguments);
  error_set(error, ERROR_USAGE, "%s%s: %s", place ? "" : "default: ", place ? place : key,
            message ? message : format);
  free(message);
  return ERROR_USAGE;
}

/* --- The texts -------------------------------------------------------------------------------- */

void config_append_shown(Text *out, const char *text) {
  const char *at = text;
  while (*at) {
    const char *character = at;
    int32_t code = config_next_character(&at);
    size_t width = (size_t)(at - character);
    if ((size_t)(at - text) > LONGEST_SHOWN) {
      text_append(out, "...");
      return;
    }
    bool visible = code >= 0x20 && code != 0x7f;
    text_append_bytes(out, visible ? character : "?", visible ? width : 1);
  }
}

void config_append_found(Text *out, const char *text) {
  text_append(out, "\"");
  config_append_shown(out, text);
  text_append(out, "\"");
}

Status config_wrong(ConfigPlace place, const char *path, Error *error, const char *format, ...) {
  char *message = NULL;
  Text shown = {0};
  va_list arguments;
  va_start(arguments, format);
  if (vasprintf(&message, format, arguments) < 0) message = NULL;
  va_end(arguments);
  config_append_shown(&shown, path);
  if (place.line > 0)
    error_set(error, ERROR_USAGE, "%s:%zu:%zu: %s: %s", place.name, place.line, place.column,
              shown.data ? shown.data : "\"\"", message ? message : format);
  else
    error_set(error, ERROR_USAGE, "%s: %s", place.name, message ? message : format);
  text_free(&shown);
  free(message);
  return ERROR_USAGE;
}

/* The best suggestion so far. About a quarter of the name may be wrong. */
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

static const char *name_of(const char *path) {
  const char *dot = strchr(path, '.');
  return dot ? dot + 1 : path;
}

/* Whole keys, sections, and names whose section is wrong or was left out. */
static Nearest find_nearest(const ConfigSchema *schema, const char *path) {
  const char *name = name_of(path);
  Nearest nearest = {NULL, 0, 1 << 20, 0};
  if (strlen(path) > LONGEST_SHOWN) return nearest;
  for (size_t i = 0; i < schema->count; i++) {
    const char *key = schema->keys[i].key;
    size_t length = strlen(key), section = config_section_length(key);
    nearest.limit = 1 + (int)strlen(name) / 4;
    consider(&nearest, path, key, length, key, length, 0);
    if (name == path && section > 0) consider(&nearest, path, key, section, key, section, 0);
    nearest.limit = (int)strlen(name) / 4;
    consider(&nearest, name, name_of(key), strlen(name_of(key)), key, length, 1);
  }
  return nearest;
}

static void append_sections(const ConfigSchema *schema, Text *out) {
  const char *before = "";
  size_t before_length = 0;
  for (size_t i = 0; i < schema->count; i++) {
    const char *key = schema->keys[i].key;
    size_t length = config_section_length(key);
    if (length == before_length && strncmp(key, before, length) == 0 && length > 0) continue;
    text_append(out, "%s%.*s", out->length ? ", " : "", length ? (int)length : (int)strlen(key),
                key);
    before = key;
    before_length = length;
  }
}

static void append_keys(const ConfigSchema *schema, const char *section, size_t length, Text *out) {
  for (size_t i = 0; i < schema->count; i++) {
    const char *key = schema->keys[i].key;
    if (config_section_length(key) == length && strncmp(key, section, length) == 0)
      text_append(out, "%s%s", out->length ? ", " : "", name_of(key));
  }
}

Status config_unknown(const ConfigSchema *schema, ConfigPlace place, const char *path,
                      Error *error) {
  Nearest nearest = find_nearest(schema, path);
  if (nearest.text)
    return config_wrong(place, path, error, "unknown key; did you mean \"%.*s\"?",
                        (int)nearest.length, nearest.text);
  Text known = {0};
  size_t length = config_section_length(path);
  if (length > 0) append_keys(schema, path, length, &known);
  bool in_section = known.length > 0;
  if (!in_section) append_sections(schema, &known);
  if (in_section)
    config_wrong(place, path, error, "unknown key; section \"%.*s\" has %s", (int)length, path,
                 known.data);
  else
    config_wrong(place, path, error, "unknown key; known are %s", known.data ? known.data : "none");
  text_free(&known);
  return ERROR_USAGE;
}

Status config_not_a_value(const ConfigSchema *schema, ConfigPlace place, const char *section,
                          Error *error) {
  Text known = {0};
  append_keys(schema, section, strlen(section), &known);
  config_wrong(place, section, error, "is a section, not a key; it has %s", known.data);
  text_free(&known);
  return ERROR_USAGE;
}
