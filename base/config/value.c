#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config/internal.h"

/* --- What is allowed -------------------------------------------------------------------------- */

/* Bounds are kept as doubles; those past the ends of int64_t mean that there is none. */
static int64_t lowest_of(const ConfigKey *key) {
  return key->minimum <= -0x1p63 ? INT64_MIN : (int64_t)ceil(key->minimum);
}

static int64_t highest_of(const ConfigKey *key) {
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
  /* YAML 1.1 takes 1e-05 for text and 1.0e-05 for a number. */
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
  bool below = key->minimum > -DBL_MAX, above = key->maximum < DBL_MAX;
  if (key->type == CONFIG_INT) {
    lowest = lowest_of(key);
    highest = highest_of(key);
    below = lowest > INT64_MIN;
    above = highest < INT64_MAX;
  }
  if (!below && !above) return;
  if (!above) text_append(out, "at least ");
  if (!below) text_append(out, "at most ");
  if (below) append_bound(key, key->minimum, lowest, out);
  if (below && above) text_append(out, " to ");
  if (above) append_bound(key, key->maximum, highest, out);
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

/* --- Reading a value -------------------------------------------------------------------------- */

static Status refuse(const ConfigKey *key, ConfigScalar scalar, ConfigPlace place, Error *error,
                     const char *problem) {
  Text text = {0};
  config_append_found(&text, scalar.text);
  text_append(&text, " %s", problem);
  size_t before = text.length;
  text_append(&text, "; allowed: ");
  size_t behind = text.length;
  config_append_allowed(key, &text);
  if (text.length == behind) text.data[before] = '\0';
  config_wrong(place, key->key, error, "%s", text.data);
  text_free(&text);
  return ERROR_USAGE;
}

static Status parse_bool(const ConfigKey *key, ConfigScalar scalar, ConfigPlace place, bool *out,
                         Error *error) {
  *out = strcmp(scalar.text, "true") == 0;
  if (*out || strcmp(scalar.text, "false") == 0) return OK;
  return refuse(key, scalar, place, error, "is not a truth value");
}

/* An optional sign and decimal digits; a leading zero, octal elsewhere, is not for guessing. */
static bool looks_whole(const char *text) {
  if (*text == '-' || *text == '+') text++;
  size_t digits = strspn(text, "0123456789");
  return digits > 0 && text[digits] == '\0' && (text[0] != '0' || digits == 1);
}

static Status parse_int(const ConfigKey *key, ConfigScalar scalar, ConfigPlace place, int64_t *out,
                        Error *error) {
  if (!looks_whole(scalar.text)) return refuse(key, scalar, place, error, "is not an integer");
  errno = 0;
  *out = strtoll(scalar.text, NULL, 10);
  if (errno == ERANGE || *out < lowest_of(key) || *out > highest_of(key))
    return refuse(key, scalar, place, error, "is out of range");
  return OK;
}

static Status parse_real(const ConfigKey *key, ConfigScalar scalar, ConfigPlace place, double *out,
                         Error *error) {
  char *end = NULL;
  /* strtod would also take "inf", "nan", "0x1p3" and leading space. */
  bool decimal = scalar.text[strspn(scalar.text, "+-.0123456789eE")] == '\0';
  *out = decimal ? strtod(scalar.text, &end) : 0;
  if (!decimal || end == scalar.text || *end != '\0')
    return refuse(key, scalar, place, error, "is not a number");
  if (!isfinite(*out) || *out < key->minimum || *out > key->maximum)
    return refuse(key, scalar, place, error, "is out of range");
  return OK;
}

int32_t config_next_character(const char **text) {
  const unsigned char *p = (const unsigned char *)*text;
  int more = *p < 0x80 ? 0 : *p >= 0xc2 && *p < 0xe0 ? 1 : *p >= 0xe0 && *p < 0xf0 ? 2 : 3;
  int32_t point = more == 0 ? *p : *p & (0x3f >> more);
  (*text)++;
  if (more == 0) return point;
  if (*p < 0xc2 || *p > 0xf4) return -1;
  for (int i = 1; i <= more; i++) {
    if ((p[i] & 0xc0) != 0x80) return -1;
    point = point << 6 | (p[i] & 0x3f);
  }
  static const int32_t least[] = {0, 0x80, 0x800, 0x10000}; /* shorter forms exist below */
  if (point < least[more] || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) return -1;
  *text += more;
  return point;
}

static Status parse_string(const ConfigKey *key, ConfigScalar scalar, ConfigPlace place,
                           ConfigString out, Error *error) {
  size_t length = strlen(scalar.text);
  if (length >= CONFIG_STRING_SIZE)
    return config_wrong(place, key->key, error, "has %zu bytes; allowed: at most %d", length,
                        CONFIG_STRING_SIZE - 1);
  for (const char *p = scalar.text; *p;)
    if (config_next_character(&p) < 0)
      return config_wrong(place, key->key, error, "is not valid UTF-8");
  memset(out, 0, CONFIG_STRING_SIZE);
  memcpy(out, scalar.text, length);
  return OK;
}

static Status parse_choice(const ConfigKey *key, ConfigScalar scalar, ConfigPlace place, int *out,
                           Error *error) {
  const char *choice;
  size_t length;
  for (int i = 0; (choice = config_choice(key, i, &length)); i++) {
    *out = i;
    if (strlen(scalar.text) == length && strncmp(scalar.text, choice, length) == 0) return OK;
  }
  return refuse(key, scalar, place, error, "is not one of the choices");
}

Status config_value_parse(const ConfigKey *key, ConfigScalar scalar, ConfigPlace place,
                          ConfigValue *value, Error *error) {
  value->key = key;
  value->place = place;
  if (scalar.quoted && key->type != CONFIG_STRING && key->type != CONFIG_CHOICE)
    return refuse(key, scalar, place, error, "is text, being in quotes");
  switch (key->type) {
  case CONFIG_BOOL:
    return parse_bool(key, scalar, place, &value->truth, error);
  case CONFIG_INT:
    return parse_int(key, scalar, place, &value->integer, error);
  case CONFIG_REAL:
    return parse_real(key, scalar, place, &value->real, error);
  case CONFIG_STRING:
    return parse_string(key, scalar, place, value->string, error);
  case CONFIG_CHOICE:
    return parse_choice(key, scalar, place, &value->choice, error);
  }
  return error_set(error, ERROR_INTERNAL, "%s: the table gives it no type", key->key);
}

void config_value_store(const ConfigValue *value, void *config) {
  char *field = (char *)config + value->key->offset;
  switch (value->key->type) {
  case CONFIG_BOOL:
    memcpy(field, &value->truth, sizeof value->truth);
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
