#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/config/internal.h"
#include "base/memory.h"

enum { COMMENT_WIDTH = 100, HELP_COLUMN = 30 };

/* Words that other YAML readers do not read as strings. */
static bool is_reserved(const char *text) {
  static const char *const words[] = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (strcasecmp(text, words[i]) == 0) return true;
  return false;
}

/* Whether every YAML reader reads the unquoted text as the same string. */
static bool is_plain_safe(const char *text) {
  static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  if (!strchr(letters, text[0]) && text[0] != '/' && text[0] != '_') return false;
  for (const char *p = text; *p; p++)
    if (!strchr(letters, *p) && !strchr("0123456789_./-", *p)) return false;
  return text[0] != '\0' && !is_reserved(text);
}

/* Escapes what YAML does not allow literally, line breaks, and the byte order mark. */
static void append_character(Text *out, int32_t point, const char *bytes, size_t size) {
  if (point == '"' || point == '\\')
    text_append(out, "\\%c", (int)point);
  else if (point == '\n')
    text_append(out, "\\n");
  else if (point == '\t')
    text_append(out, "\\t");
  else if (point < 0x20 || (point >= 0x7f && point < 0xa0))
    text_append(out, "\\x%02X", (unsigned)point);
  else if (point == 0x2028 || point == 0x2029 || point == 0xfeff || point == 0xfffe ||
           point == 0xffff)
    text_append(out, "\\u%04X", (unsigned)point);
  else
    text_append_bytes(out, bytes, size);
}

static void append_string(Text *out, const char *text) {
  if (is_plain_safe(text)) {
    text_append(out, "%s", text);
    return;
  }
  text_append(out, "\"");
  while (*text) {
    const char *start = text;
    int32_t point = text_next_code_point(&text);
    append_character(out, point < 0 ? 0xfffd : point, point < 0 ? "\xef\xbf\xbd" : start,
                     point < 0 ? 3 : (size_t)(text - start));
  }
  text_append(out, "\"");
}

static void append_value(const ConfigKey *key, const void *config, Text *out) {
  const char *field = (const char *)config + key->offset;
  ConfigValue value;
  const char *choice;
  size_t length = 0;
  switch (key->type) {
  case CONFIG_BOOL:
    memcpy(&value.boolean, field, sizeof value.boolean);
    text_append(out, "%s", value.boolean ? "true" : "false");
    break;
  case CONFIG_INT:
    memcpy(&value.integer, field, sizeof value.integer);
    text_append(out, "%lld", (long long)value.integer);
    break;
  case CONFIG_REAL:
    memcpy(&value.real, field, sizeof value.real);
    config_append_real(out, value.real);
    break;
  case CONFIG_STRING:
    append_string(out, field);
    break;
  case CONFIG_CHOICE:
    memcpy(&value.choice, field, sizeof value.choice);
    choice = config_choice(key, value.choice, &length);
    text_append(out, "%.*s", (int)length, choice ? choice : "");
    break;
  }
}

/* Appends the words of `text` as lines that start with `indent` and "# ". */
static void append_comment(Text *out, const char *indent, const char *text) {
  size_t column = 0;
  while (*text) {
    size_t word = strcspn(text, " \n");
    if (column == 0 || column + 1 + word > COMMENT_WIDTH) {
      text_append(out, "%s%s# %.*s", column ? "\n" : "", indent, (int)word, text);
      column = strlen(indent) + 2 + word;
    } else {
      text_append(out, " %.*s", (int)word, text);
      column += 1 + word;
    }
    text += word;
    text += strspn(text, " \n");
  }
  text_append(out, "\n");
}

/* "Steps to train; 1 to 10; default: 5", without the full stop of the help; the caller frees. */
static char *describe(const ConfigKey *key) {
  Text text = {0};
  size_t length = strlen(key->help);
  if (length > 0 && key->help[length - 1] == '.') length--;
  text_append(&text, "%.*s", (int)length, key->help);
  text_append(&text, "; ");
  size_t start = text.length;
  if (key->type == CONFIG_CHOICE) text_append(&text, "one of ");
  config_append_allowed(key, &text);
  if (text.length > start) text_append(&text, "; ");
  text_append(&text, "default: %s", *key->default_text ? key->default_text : "\"\"");
  return text.data;
}

/* Appends the line that opens a section, if `key` is its first. */
static void append_section(const ConfigSchema *schema, const ConfigKey *key, bool comments,
                           Text *out) {
  size_t length = config_section_length(key->key);
  char *section = mem_format("%.*s", (int)length, key->key);
  if (length > 0 && config_find_section(schema, section) == key) {
    const char *help = schema->section_help ? schema->section_help(section) : NULL;
    if (comments && key != schema->keys) text_append(out, "\n");
    if (comments && help) append_comment(out, "", help);
    text_append(out, "%s:\n", section);
  }
  free(section);
}

void config_write(const ConfigSchema *schema, const void *config, bool comments, Text *out) {
  for (size_t i = 0; i < schema->count; i++) {
    const ConfigKey *key = &schema->keys[i];
    size_t section = config_section_length(key->key);
    const char *indent = section ? "  " : "", *name = config_name_in_section(key->key);
    append_section(schema, key, comments, out);
    if (comments) {
      char *description = describe(key);
      append_comment(out, indent, description);
      free(description);
    }
    text_append(out, "%s%s: ", indent, name);
    append_value(key, config, out);
    text_append(out, "\n");
  }
}

void config_write_value(const ConfigSchema *schema, const char *key, const void *config,
                        Text *out) {
  append_value(config_find_key(schema, key), config, out);
}

void config_help(const ConfigSchema *schema, Text *out) {
  for (size_t i = 0; i < schema->count; i++) {
    char *description = describe(&schema->keys[i]);
    text_append(out, "  %-*s %s\n", HELP_COLUMN, schema->keys[i].key, description);
    free(description);
  }
}
