#include "base/config/config.h"

#include <stdlib.h>
#include <string.h>

#include "base/config/internal.h"
#include "base/files.h"
#include "base/memory.h"

enum { MAX_FILE_BYTES = 1 << 20 };

/* Parses the defaults as a YAML file, so that they pass the same checks as any other. */
Status config_set_defaults(const ConfigSchema *schema, void *config, Error *error) {
  Status status = OK;
  Text yaml = {0};
  ConfigValues values = {0};
  for (size_t i = 0; i < schema->count; i++) {
    const char *text = schema->keys[i].default_text;
    text_append(&yaml, "%s: %s\n", schema->keys[i].key, *text ? text : "\"\"");
  }
  if (config_yaml_read(schema, "defaults", yaml.data, yaml.length, &values, error) != OK) {
    /* the table is wrong, not the user */
    status = ERROR_INTERNAL;
    if (error) error->status = status;
    goto done;
  }
  for (size_t i = 0; i < values.count; i++) config_value_store(&values.items[i], config);
done:
  free(values.items);
  text_free(&yaml);
  return status;
}

Status config_parse(const ConfigSchema *schema, const char *name, const char *yaml, size_t size,
                    void *config, ConfigSources *sources, Error *error) {
  Status status = OK;
  ConfigValues values = {0};
  TRY(config_yaml_read(schema, name, yaml, size, &values, error));
  for (size_t i = 0; i < values.count; i++) {
    config_value_store(&values.items[i], config);
    config_sources_record(sources, values.items[i].key, values.items[i].location);
  }
done:
  free(values.items);
  return status;
}

Status config_load(const ConfigSchema *schema, const char *path, void *config,
                   ConfigSources *sources, Error *error) {
  Status status = OK;
  char *yaml = NULL;
  size_t size = 0;
  TRY(file_read(path, MAX_FILE_BYTES, &yaml, &size, error));
  TRY(config_parse(schema, path, yaml, size, config, sources, error));
done:
  free(yaml);
  return status;
}

Status config_assign(const ConfigSchema *schema, const char *assignment, void *config,
                     ConfigSources *sources, Error *error) {
  Status status = OK;
  ConfigValue value;
  Text name = {0};
  text_append(&name, "%s%s", schema->option ? schema->option : "", schema->option ? " " : "");
  config_append_excerpt(&name, assignment);
  ConfigLocation location = {.name = name.data};
  const char *equals = strchr(assignment, '=');
  char *path =
      mem_format("%.*s", equals ? (int)(equals - assignment) : (int)strlen(assignment), assignment);
  const ConfigKey *key = config_find_key(schema, path);
  if (!equals) {
    status = config_error_at(location, path, error, "has no value; write KEY=VALUE");
  } else if (key) {
    status = config_value_parse(key, (ConfigScalar){.text = equals + 1}, location, &value, error);
  } else if (config_find_section(schema, path)) {
    status = config_error_section_value(schema, location, path, error);
  } else {
    status = config_error_unknown_key(schema, location, path, error);
  }
  if (status != OK) goto done;
  config_value_store(&value, config);
  config_sources_record(sources, key, location);
done:
  text_free(&name);
  free(path);
  return status;
}
