#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config/internal.h"
#include "base/memory.h"

typedef struct Source {
  char *key;
  char *prefix; /* of an error: "run.yaml:2:10: train.steps" or "--set train.steps=5" */
} Source;

struct ConfigSources {
  Source *items;
  size_t count, capacity;
};

ConfigSources *config_sources_new(void) {
  return mem_new(1, sizeof(ConfigSources));
}

void config_sources_free(ConfigSources *sources) {
  if (!sources) return;
  for (size_t i = 0; i < sources->count; i++) {
    free(sources->items[i].key);
    free(sources->items[i].prefix);
  }
  free(sources->items);
  free(sources);
}

static Source *find_source(const ConfigSources *sources, const char *key) {
  for (size_t i = 0; i < sources->count; i++)
    if (strcmp(sources->items[i].key, key) == 0) return &sources->items[i];
  return NULL;
}

void config_sources_record(ConfigSources *sources, const ConfigKey *key, ConfigLocation location) {
  if (!sources) return;
  Source *source = find_source(sources, key->key);
  if (!source) {
    MEM_PUSH_SLOT(sources->items, sources->count, sources->capacity);
    source = &sources->items[sources->count++];
    *source = (Source){.key = mem_string(key->key)};
  }
  free(source->prefix);
  source->prefix = location.line > 0 ? mem_format("%s:%zu:%zu: %s", location.name, location.line,
                                                  location.column, key->key)
                                     : mem_string(location.name);
}

Status config_error(const ConfigSources *sources, const char *key, Error *error, const char *format,
                    ...) {
  const Source *source = sources ? find_source(sources, key) : NULL;
  char *message = NULL;
  va_list arguments;
  va_start(arguments, format);
  if (vasprintf(&message, format, arguments) < 0) message = NULL;
  va_end(arguments);
  error_set(error, ERROR_USAGE, "%s%s: %s",
            source || !sources ? "" : "default: ", source ? source->prefix : key,
            message ? message : format);
  free(message);
  return ERROR_USAGE;
}
