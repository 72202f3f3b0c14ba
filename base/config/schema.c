#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config/internal.h"

/* --- Lookups ---------------------------------------------------------------------------------- */

const ConfigKey *config_find_key(const ConfigSchema *schema, const char *path) {
  for (size_t i = 0; i < schema->count; i++)
    if (strcmp(schema->keys[i].key, path) == 0) return &schema->keys[i];
  return NULL;
}

const ConfigKey *config_find_section(const ConfigSchema *schema, const char *section) {
  size_t length = strlen(section);
  for (size_t i = 0; i < schema->count && length > 0; i++) {
    const char *key = schema->keys[i].key;
    if (config_section_length(key) == length && strncmp(key, section, length) == 0)
      return &schema->keys[i];
  }
  return NULL;
}

const char *config_find_renamed(const ConfigSchema *schema, const char *path) {
  for (size_t i = 0; i < schema->renamed_count; i++)
    if (strcmp(schema->renamed[i].old_key, path) == 0) return schema->renamed[i].new_key;
  return NULL;
}

size_t config_section_length(const char *key) {
  const char *dot = strchr(key, '.');
  return dot ? (size_t)(dot - key) : 0;
}

const char *config_name_in_section(const char *key) {
  const char *dot = strchr(key, '.');
  return dot ? dot + 1 : key;
}

const char *config_choice(const ConfigKey *key, int index, size_t *length) {
  const char *choice = key->choices;
  for (int i = 0; i < index && choice; i++) {
    choice = strchr(choice, '|');
    if (choice) choice++;
  }
  if (index < 0 || !choice) return NULL;
  *length = strcspn(choice, "|");
  return choice;
}

/* --- Allowed values --------------------------------------------------------------------------- */

int64_t config_lowest(const ConfigKey *key) {
  return key->minimum <= -0x1p63 ? INT64_MIN : (int64_t)ceil(key->minimum);
}

int64_t config_highest(const ConfigKey *key) {
  return key->maximum >= 0x1p63 ? INT64_MAX : (int64_t)floor(key->maximum);
}

void config_append_real(Text *out, double value) {
  char digits[32];
  if (value == floor(value) && fabs(value) < 1e15) { /* 10, not 1e+01 */
    text_append(out, "%.0f", value);
    return;
  }
  for (int precision = 1; precision <= 17; precision++) {
    snprintf(digits, sizeof digits, "%.*g", precision, value);
    if (strtod(digits, NULL) == value) break;
  }
  /* YAML 1.1 reads 1e-05 as a string and 1.0e-05 as a number. */
  char *exponent = strchr(digits, 'e');
  if (exponent && !strchr(digits, '.'))
    text_append(out, "%.*s.0%s", (int)(exponent - digits), digits, exponent);
  else
    text_append(out, "%s", digits);
}

static void append_bound(const ConfigKey *key, double bound, int64_t whole, Text *out) {
  if (key->type == CONFIG_INT)
    text_append(out, "%lld", (long long)whole);
  else
    config_append_real(out, bound);
}

static void append_range(const ConfigKey *key, Text *out) {
  int64_t lowest = INT64_MIN, highest = INT64_MAX;
  bool has_minimum = key->minimum > -DBL_MAX, has_maximum = key->maximum < DBL_MAX;
  if (key->type == CONFIG_INT) {
    lowest = config_lowest(key);
    highest = config_highest(key);
    has_minimum = lowest > INT64_MIN;
    has_maximum = highest < INT64_MAX;
  }
  if (!has_minimum && !has_maximum) return;
  if (!has_maximum) text_append(out, "at least ");
  if (!has_minimum) text_append(out, "at most ");
  if (has_minimum) append_bound(key, key->minimum, lowest, out);
  if (has_minimum && has_maximum) text_append(out, " to ");
  if (has_maximum) append_bound(key, key->maximum, highest, out);
}

void config_append_allowed(const ConfigKey *key, Text *out) {
  const char *choice;
  size_t length;
  switch (key->type) {
  case CONFIG_BOOL:
    text_append(out, "true or false");
    break;
  case CONFIG_INT:
  case CONFIG_REAL:
    append_range(key, out);
    break;
  case CONFIG_CHOICE:
    for (int i = 0; (choice = config_choice(key, i, &length)); i++)
      text_append(out, "%s%.*s", i ? ", " : "", (int)length, choice);
    break;
  case CONFIG_STRING:
    break;
  }
}
