/* Reads a config file as libyaml events: one document, a mapping of keys or of sections of keys. */
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/config/internal.h"
#include "base/memory.h"

typedef struct Reader {
  const ConfigSchema *schema;
  const char *name, *yaml;
  size_t size;
  yaml_parser_t parser;
  yaml_event_t event; /* the current one */
  /* The line on which each key or section was first set, 0 before; indexed by key, and sections by
   * their first key. */
  size_t *key_lines, *section_lines;
  ConfigValues *values;
} Reader;

static ConfigLocation location_of(const Reader *reader, yaml_mark_t mark) {
  return (ConfigLocation){reader->name, mark.line + 1, mark.column + 1};
}

/* For bytes that are not valid characters libyaml reports only an offset. */
static ConfigLocation location_of_byte(const Reader *reader, size_t offset) {
  ConfigLocation location = {reader->name, 1, 1};
  for (size_t i = 0; i < offset && i < reader->size; i++) {
    unsigned char c = (unsigned char)reader->yaml[i];
    if (c == '\n') {
      location.line++;
      location.column = 1;
    } else if ((c & 0xc0) != 0x80) {
      location.column++;
    }
  }
  return location;
}

static Status fail_at(ConfigLocation location, Error *error, const char *problem) {
  return error_set(error, ERROR_USAGE, "%s:%zu:%zu: %s", location.name, location.line,
                   location.column, problem);
}

static Status invalid_yaml(const Reader *reader, Error *error) {
  const yaml_parser_t *parser = &reader->parser;
  if (parser->error == YAML_MEMORY_ERROR)
    return error_set(error, ERROR_INTERNAL, "%s: out of memory", reader->name);
  ConfigLocation location = parser->error == YAML_READER_ERROR
                                ? location_of_byte(reader, parser->problem_offset)
                                : location_of(reader, parser->problem_mark);
  return error_set(error, ERROR_USAGE, "%s:%zu:%zu: not valid YAML: %s%s%s", location.name,
                   location.line, location.column,
                   parser->problem ? parser->problem : "unknown problem",
                   parser->context ? " " : "", parser->context ? parser->context : "");
}

/* Advances to the next event; rejects aliases, anchors and tags. */
static Status next_event(Reader *reader, Error *error) {
  yaml_event_delete(&reader->event);
  if (!yaml_parser_parse(&reader->parser, &reader->event)) return invalid_yaml(reader, error);
  const yaml_event_t *event = &reader->event;
  ConfigLocation location = location_of(reader, event->start_mark);
  const yaml_char_t *anchor = NULL, *tag = NULL;
  if (event->type == YAML_ALIAS_EVENT)
    return fail_at(location, error, "aliases (*name) are not supported; write the value out");
  if (event->type == YAML_SCALAR_EVENT) {
    anchor = event->data.scalar.anchor;
    tag = event->data.scalar.tag;
  } else if (event->type == YAML_MAPPING_START_EVENT) {
    anchor = event->data.mapping_start.anchor;
    tag = event->data.mapping_start.tag;
  } else if (event->type == YAML_SEQUENCE_START_EVENT) {
    anchor = event->data.sequence_start.anchor;
    tag = event->data.sequence_start.tag;
  }
  if (anchor) return fail_at(location, error, "anchors (&name) are not supported; remove it");
  if (tag) return fail_at(location, error, "tags (!name) are not supported; remove it");
  return OK;
}

static bool is_plain(const yaml_event_t *event) {
  return event->type == YAML_SCALAR_EVENT && event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
}

static bool is_empty(const yaml_event_t *event) {
  return is_plain(event) && event->data.scalar.length == 0;
}

static bool is_null(const yaml_event_t *event) {
  static const char *const names[] = {"", "~", "null", "Null", "NULL"};
  for (size_t i = 0; i < sizeof names / sizeof *names && is_plain(event); i++)
    if (strcmp((const char *)event->data.scalar.value, names[i]) == 0) return true;
  return false;
}

static const char *kind_of(const yaml_event_t *event) {
  return event->type == YAML_SEQUENCE_START_EVENT ? "a list" : "a section";
}

static const char *kind_wanted(const ConfigKey *key) {
  switch (key->type) {
  case CONFIG_BOOL:
    return "true or false";
  case CONFIG_INT:
    return "an integer";
  case CONFIG_REAL:
    return "a number";
  case CONFIG_STRING:
    return "a string";
  case CONFIG_CHOICE:
    break;
  }
  return "one of its choices";
}

/* Reads the current event as the value of `key`, which stands at `location`. */
static Status read_value(Reader *reader, const ConfigKey *key, ConfigLocation location,
                         Error *error) {
  const yaml_event_t *event = &reader->event;
  ConfigLocation value_location = location_of(reader, event->start_mark);
  size_t *first = &reader->key_lines[key - reader->schema->keys];
  if (*first)
    return config_error_at(location, key->key, error, "set twice; first on line %zu", *first);
  *first = location.line;
  if (event->type != YAML_SCALAR_EVENT)
    return config_error_at(value_location, key->key, error, "must be %s, not %s", kind_wanted(key),
                           kind_of(event));
  if (is_null(event))
    return config_error_at(value_location, key->key, error, "has no value; must be %s%s",
                           kind_wanted(key),
                           key->type == CONFIG_STRING ? " (\"\" is the empty string)" : "");
  const char *text = (const char *)event->data.scalar.value;
  if (strlen(text) != event->data.scalar.length)
    return config_error_at(value_location, key->key, error, "holds a NUL character");
  ConfigValues *values = reader->values;
  MEM_PUSH_SLOT(values->items, values->count, values->capacity);
  ConfigScalar scalar = {text, !is_plain(event)};
  Status status =
      config_value_parse(key, scalar, value_location, &values->items[values->count], error);
  if (status == OK) values->count++;
  return status;
}

static Status read_mapping(Reader *reader, const char *section, Error *error);

static Status read_section(Reader *reader, const ConfigKey *first_key, const char *section,
                           ConfigLocation location, Error *error) {
  const yaml_event_t *event = &reader->event;
  size_t *first = &reader->section_lines[first_key - reader->schema->keys];
  if (*first)
    return config_error_at(location, section, error, "set twice; first on line %zu", *first);
  *first = location.line;
  if (is_empty(event)) return OK; /* all its keys are commented out */
  if (event->type != YAML_MAPPING_START_EVENT)
    return config_error_section_value(reader->schema, location_of(reader, event->start_mark),
                                      section, error);
  return read_mapping(reader, section, error);
}

/* Reads a key, which is the current event, and its value. */
static Status read_pair(Reader *reader, const char *section, Error *error) {
  Status status = OK;
  char *path = NULL;
  ConfigLocation location = location_of(reader, reader->event.start_mark);
  if (reader->event.type != YAML_SCALAR_EVENT)
    return fail_at(location, error, "a key must be a string, not a list or a mapping");
  if (strlen((const char *)reader->event.data.scalar.value) != reader->event.data.scalar.length)
    return fail_at(location, error, "a key holds a NUL character");
  path = mem_format("%s%s%s", section ? section : "", section ? "." : "",
                    (const char *)reader->event.data.scalar.value);
  TRY(next_event(reader, error));
  const ConfigKey *key = config_find_key(reader->schema, path);
  const ConfigKey *first_key = section ? NULL : config_find_section(reader->schema, path);
  if (key)
    status = read_value(reader, key, location, error);
  else if (first_key)
    status = read_section(reader, first_key, path, location, error);
  else
    status = config_error_unknown_key(reader->schema, location, path, error);
done:
  free(path);
  return status;
}

/* Reads from a mapping's start, the current event, to its end. */
static Status read_mapping(Reader *reader, const char *section, Error *error) {
  Status status = OK;
  TRY(next_event(reader, error));
  while (reader->event.type != YAML_MAPPING_END_EVENT) {
    TRY(read_pair(reader, section, error));
    TRY(next_event(reader, error));
  }
done:
  return status;
}

static Status read_stream(Reader *reader, Error *error) {
  Status status = OK;
  const yaml_event_t *event = &reader->event;
  TRY(next_event(reader, error)); /* the stream's start */
  TRY(next_event(reader, error));
  if (event->type == YAML_STREAM_END_EVENT) goto done; /* nothing but comments */
  TRY(next_event(reader, error));
  if (event->type == YAML_MAPPING_START_EVENT)
    TRY(read_mapping(reader, NULL, error));
  else if (!is_empty(event))
    TRY(fail_at(location_of(reader, event->start_mark), error,
                "must hold keys and sections (\"key: value\"), not a list or a bare value"));
  TRY(next_event(reader, error)); /* the document's end */
  TRY(next_event(reader, error));
  if (event->type != YAML_STREAM_END_EVENT)
    TRY(fail_at(location_of(reader, event->start_mark), error,
                "a second YAML document; a config file has one"));
done:
  return status;
}

Status config_yaml_read(const ConfigSchema *schema, const char *name, const char *yaml, size_t size,
                        ConfigValues *values, Error *error) {
  Status status = OK;
  Reader reader = {.schema = schema, .name = name, .yaml = yaml, .size = size, .values = values};
  if (!yaml_parser_initialize(&reader.parser))
    return error_set(error, ERROR_INTERNAL, "%s: out of memory", name);
  reader.key_lines = mem_new(schema->count, sizeof *reader.key_lines);
  reader.section_lines = mem_new(schema->count, sizeof *reader.section_lines);
  yaml_parser_set_input_string(&reader.parser, (const unsigned char *)(yaml ? yaml : ""), size);
  status = read_stream(&reader, error);
  yaml_event_delete(&reader.event);
  yaml_parser_delete(&reader.parser);
  free(reader.key_lines);
  free(reader.section_lines);
  return status;
}
