/* A config file as libyaml's events: one document, a mapping of keys or of sections of keys. */
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
  yaml_event_t event;                /* the current one */
  size_t *key_lines, *section_lines; /* where each was first met, 0 before; the latter stand at
                                        the section's first key */
  ConfigValues *values;
} Reader;

static ConfigPlace place_of(const Reader *reader, yaml_mark_t mark) {
  return (ConfigPlace){reader->name, mark.line + 1, mark.column + 1};
}

/* Bytes that are no characters have an offset only. */
static ConfigPlace place_of_byte(const Reader *reader, size_t offset) {
  ConfigPlace place = {reader->name, 1, 1};
  for (size_t i = 0; i < offset && i < reader->size; i++) {
    unsigned char c = (unsigned char)reader->yaml[i];
    if (c == '\n') {
      place.line++;
      place.column = 1;
    } else if ((c & 0xc0) != 0x80) {
      place.column++;
    }
  }
  return place;
}

static Status fail_at(ConfigPlace place, Error *error, const char *problem) {
  return error_set(error, ERROR_USAGE, "%s:%zu:%zu: %s", place.name, place.line, place.column,
                   problem);
}

static Status invalid_yaml(const Reader *reader, Error *error) {
  const yaml_parser_t *parser = &reader->parser;
  if (parser->error == YAML_MEMORY_ERROR)
    return error_set(error, ERROR_INTERNAL, "%s: no memory to read it", reader->name);
  ConfigPlace place = parser->error == YAML_READER_ERROR
                          ? place_of_byte(reader, parser->problem_offset)
                          : place_of(reader, parser->problem_mark);
  return error_set(error, ERROR_USAGE, "%s:%zu:%zu: not valid YAML: %s%s%s", place.name, place.line,
                   place.column, parser->problem ? parser->problem : "unknown problem",
                   parser->context ? " " : "", parser->context ? parser->context : "");
}

/* On to the next event; those that the format does not have are refused here. */
static Status next_event(Reader *reader, Error *error) {
  yaml_event_delete(&reader->event);
  if (!yaml_parser_parse(&reader->parser, &reader->event)) return invalid_yaml(reader, error);
  const yaml_event_t *event = &reader->event;
  ConfigPlace place = place_of(reader, event->start_mark);
  const yaml_char_t *anchor = NULL, *tag = NULL;
  if (event->type == YAML_ALIAS_EVENT)
    return fail_at(place, error, "aliases (*name) are not supported; write the value out");
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
  if (anchor) return fail_at(place, error, "anchors (&name) are not supported; remove it");
  if (tag) return fail_at(place, error, "tags (!name) are not supported; remove it");
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
    return "a text";
  case CONFIG_CHOICE:
    break;
  }
  return "one of its choices";
}

/* The current event as the value of `key`, whose own place is `place`. */
static Status read_value(Reader *reader, const ConfigKey *key, ConfigPlace place, Error *error) {
  const yaml_event_t *event = &reader->event;
  ConfigPlace at = place_of(reader, event->start_mark);
  size_t *first = &reader->key_lines[key - reader->schema->keys];
  if (*first) return config_wrong(place, key->key, error, "set twice; first in line %zu", *first);
  *first = place.line;
  if (event->type != YAML_SCALAR_EVENT)
    return config_wrong(at, key->key, error, "must be %s, not %s", kind_wanted(key),
                        kind_of(event));
  if (is_null(event))
    return config_wrong(at, key->key, error, "has no value; must be %s%s", kind_wanted(key),
                        key->type == CONFIG_STRING ? " (\"\" is the empty one)" : "");
  const char *text = (const char *)event->data.scalar.value;
  if (strlen(text) != event->data.scalar.length)
    return config_wrong(at, key->key, error, "holds a NUL character");
  ConfigValues *values = reader->values;
  MEM_PUSH_SLOT(values->items, values->count, values->capacity);
  ConfigScalar scalar = {text, !is_plain(event)};
  Status status = config_value_parse(key, scalar, at, &values->items[values->count], error);
  if (status == OK) values->count++;
  return status;
}

static Status read_mapping(Reader *reader, const char *section, Error *error);

static Status read_section(Reader *reader, const ConfigKey *first_key, const char *section,
                           ConfigPlace place, Error *error) {
  const yaml_event_t *event = &reader->event;
  size_t *first = &reader->section_lines[first_key - reader->schema->keys];
  if (*first) return config_wrong(place, section, error, "set twice; first in line %zu", *first);
  *first = place.line;
  if (is_empty(event)) return OK; /* all its keys are commented out */
  if (event->type != YAML_MAPPING_START_EVENT)
    return config_not_a_value(reader->schema, place_of(reader, event->start_mark), section, error);
  return read_mapping(reader, section, error);
}

/* The current event is a key. */
static Status read_pair(Reader *reader, const char *section, Error *error) {
  Status status = OK;
  char *path = NULL;
  ConfigPlace place = place_of(reader, reader->event.start_mark);
  if (reader->event.type != YAML_SCALAR_EVENT)
    return fail_at(place, error, "a key must be a word, not a list or a mapping");
  if (strlen((const char *)reader->event.data.scalar.value) != reader->event.data.scalar.length)
    return fail_at(place, error, "a key holds a NUL character");
  path = mem_format("%s%s%s", section ? section : "", section ? "." : "",
                    (const char *)reader->event.data.scalar.value);
  TRY(next_event(reader, error));
  const ConfigKey *key = config_find(reader->schema, path);
  const ConfigKey *first_key = section ? NULL : config_find_section(reader->schema, path);
  if (key)
    status = read_value(reader, key, place, error);
  else if (first_key)
    status = read_section(reader, first_key, path, place, error);
  else
    status = config_unknown(reader->schema, place, path, error);
done:
  free(path);
  return status;
}

/* The current event is a mapping's start; afterwards it is its end. */
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
    TRY(fail_at(place_of(reader, event->start_mark), error,
                "must hold keys and sections (\"key: value\"), not a list or a bare value"));
  TRY(next_event(reader, error)); /* the document's end */
  TRY(next_event(reader, error));
  if (event->type != YAML_STREAM_END_EVENT)
    TRY(fail_at(place_of(reader, event->start_mark), error,
                "a second document; a config is one document"));
done:
  return status;
}

Status config_yaml_read(const ConfigSchema *schema, const char *name, const char *yaml, size_t size,
                        ConfigValues *values, Error *error) {
  Status status = OK;
  Reader reader = {.schema = schema, .name = name, .yaml = yaml, .size = size, .values = values};
  if (!yaml_parser_initialize(&reader.parser))
    return error_set(error, ERROR_INTERNAL, "%s: no memory to read it", name);
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
