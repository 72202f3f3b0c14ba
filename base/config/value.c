#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/config/internal.h"

static Status reject(const ConfigKey *key, ConfigScalar scalar, ConfigLocation location,
                     Error *error, const char *problem) {
  Text text = {0};
  text_append(&text, "\"");
  config_append_excerpt(&text, scalar.text);
  text_append(&text, "\" %s", problem);
  size_t end = text.length;
  text_append(&text, "; allowed: ");
  size_t start = text.length;
  config_append_allowed(key, &text);
  if (text.length == start) text.data[end] = '\0';
  config_error_at(location, key->key, error, "%s", text.data);
  text_free(&text);
  return ERROR_USAGE;
}

static Status parse_bool(const ConfigKey *key, ConfigScalar scalar, ConfigLocation location,
                         bool *out, Error *error) {
  *out = strcmp(scalar.text, "true") == 0;
  if (*out || strcmp(scalar.text, "false") == 0) return OK;
  return reject(key, scalar, location, error, "is not a boolean");
}

/* An optional sign and decimal digits. A leading zero is rejected: other readers take it as octal.
 */
static bool is_decimal_integer(const char *text) {
  if (*text == '-' || *text == '+') text++;
  size_t digits = strspn(text, "0123456789");
  return digits > 0 && text[digits] == '\0' && (text[0] != '0' || digits == 1);
}

static Status parse_int(const ConfigKey *key, ConfigScalar scalar, ConfigLocation location,
                        int64_t *out, Error *error) {
  if (!is_decimal_integer(scalar.text))
    return reject(key, scalar, location, error, "is not an integer");
  errno = 0;
  *out = strtoll(scalar.text, NULL, 10);
  if (errno == ERANGE || *out < config_lowest(key) || *out > config_highest(key))
    return reject(key, scalar, location, error, "is out of range");
  return OK;
}

static Status parse_real(const ConfigKey *key, ConfigScalar scalar, ConfigLocation location,
                         double *out, Error *error) {
  char *end = NULL;
  /* strtod would also accept "inf", "nan", "0x1p3" and leading space. */
  bool decimal = scalar.text[strspn(scalar.text, "+-.0123456789eE")] == '\0';
  *out = decimal ? strtod(scalar.text, &end) : 0;
  if (!decimal || end == scalar.text || *end != '\0')
    return reject(key, scalar, location, error, "is not a number");
  if (!isfinite(*out) || *out < key->minimum || *out > key->maximum)
    return reject(key, scalar, location, error, "is out of range");
  return OK;
}

static Status parse_string(const ConfigKey *key, ConfigScalar scalar, ConfigLocation location,
                           ConfigString out, Error *error) {
  size_t length = strlen(scalar.text);
  if (length >= CONFIG_STRING_SIZE)
    return config_error_at(location, key->key, error, "has %zu bytes; allowed: at most %d", length,
                           CONFIG_STRING_SIZE - 1);
  for (const char *p = scalar.text; *p;)
    if (text_next_code_point(&p) < 0)
      return config_error_at(location, key->key, error, "is not valid UTF-8");
  memset(out, 0, CONFIG_STRING_SIZE);
  memcpy(out, scalar.text, length);
  return OK;
}

static Status parse_choice(const ConfigKey *key, ConfigScalar scalar, ConfigLocation location,
                           int *out, Error *error) {
  const char *choice;
  size_t length;
  for (int i = 0; (choice = config_choice(key, i, &length)); i++) {
    *out = i;
    if (strlen(scalar.text) == length && strncmp(scalar.text, choice, length) == 0) return OK;
  }
  return reject(key, scalar, location, error, "is not one of the choices");
}

Status config_value_parse(const ConfigKey *key, ConfigScalar scalar, ConfigLocation location,
                          ConfigValue *value, Error *error) {
  value->key = key;
  value->location = location;
  if (scalar.quoted && key->type != CONFIG_STRING && key->type != CONFIG_CHOICE)
    return reject(key, scalar, location, error, "is in quotes, which make it a string");
  switch (key->type) {
  case CONFIG_BOOL:
    return parse_bool(key, scalar, location, &value->boolean, error);
  case CONFIG_INT:
    return parse_int(key, scalar, location, &value->integer, error);
  case CONFIG_REAL:
    return parse_real(key, scalar, location, &value->real, error);
  case CONFIG_STRING:
    return parse_string(key, scalar, location, value->string, error);
  case CONFIG_CHOICE:
    return parse_choice(key, scalar, location, &value->choice, error);
  }
  return error_set(error, ERROR_INTERNAL, "%s: has no type in the table of keys", key->key);
}

void config_value_store(const ConfigValue *value, void *config) {
  char *field = (char *)config + value->key->offset;
  switch (value->key->type) {
  case CONFIG_BOOL:
    memcpy(field, &value->boolean, sizeof value->boolean);
    break;
  case CONFIG_INT:
    memcpy(field, &value->integer, sizeof value->integer);
    break;
  case CONFIG_REAL:
    memcpy(field, &value->real, sizeof value->real);
    break;
  case CONFIG_STRING:
    memcpy(field, value->string, sizeof value->string);
    break;
  case CONFIG_CHOICE:
    memcpy(field, &value->choice, sizeof value->choice);
    break;
  }
}
