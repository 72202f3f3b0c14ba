#include "base/json.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "base/temporary.h"
#include "base/text.h"

Status json_parse(const char *name, const char *text, size_t size, json_t **out, Error *error) {
  json_error_t found;
  *out = NULL;
  json_t *value = json_loadb(text, size, JSON_REJECT_DUPLICATES, &found);
  if (!value)
    return error_set(error, ERROR_DATA, "%s:%d:%d: %s", name, found.line < 1 ? 1 : found.line,
                     found.column < 1 ? 1 : found.column, found.text);
  if (!json_is_object(value)) {
    json_decref(value);
    return error_set(error, ERROR_DATA, "%s:1:1: the root must be an object, {...}, not an array",
                     name);
  }
  *out = value;
  return OK;
}

Status json_read_file(const char *path, size_t max_bytes, json_t **out, Error *error) {
  Status status = OK;
  char *text = NULL;
  size_t size = 0;
  *out = NULL;
  TRY(file_read(path, max_bytes, &text, &size, error));
  TRY(json_parse(path, text, size, out, error));
done:
  free(text);
  return status;
}

Status json_write_file(const char *path, const json_t *value, Error *error) {
  Status status = OK;
  Text text = {0};
  char *dump = NULL;
  TRY(json_built(value, path, error));
  dump = json_dumps(value, JSON_INDENT(2) | JSON_ENCODE_ANY);
  if (!dump)
    FAIL(error, ERROR_INTERNAL, "%s: cannot be written as JSON: holds text that is not UTF-8",
         path);
  text_append_bytes(&text, dump, strlen(dump));
  text_append_bytes(&text, "\n", 1);
  temporary_remove_leftovers_of(path);
  TRY(atomic_file_replace(path, text.data, text.length, error));
done:
  text_free(&text);
  free(dump);
  return status;
}

Status json_built(const json_t *json, const char *what, Error *error) {
  if (json) return OK;
  return error_set(error, ERROR_INTERNAL,
                   "%s: cannot be written as JSON: a number is NaN or infinite, or a text is not "
                   "UTF-8",
                   what);
}

Status json_append(json_t *array, json_t *value, const char *what, Error *error) {
  Status status = json_built(value, what, error);
  if (status == OK && json_array_append_new(array, value) != 0)
    status = error_set(error, ERROR_INTERNAL, "%s: cannot append to a JSON array", what);
  return status;
}

Status json_set(json_t *object, const char *key, json_t *value, const char *what, Error *error) {
  if (!value)
    return error_set(error, ERROR_INTERNAL,
                     "%s: %s cannot be written as JSON: a number is NaN or infinite, or a text is "
                     "not UTF-8",
                     what, key);
  if (json_object_set_new(object, key, value) != 0)
    return error_set(error, ERROR_INTERNAL, "%s: cannot set %s of a JSON object", what, key);
  return OK;
}

/* "file: place.key", or "file: key" for the root. */
static Status wrong(const char *where, const char *key, const json_t *found, Error *error,
                    const char *expected) {
  const char *joint = strstr(where, ": ") ? "." : ": ";
  if (!found)
    return error_set(error, ERROR_DATA, "%s%s%s: missing; must be %s", where, joint, key, expected);
  if (json_is_object(found) || json_is_array(found))
    return error_set(error, ERROR_DATA, "%s%s%s: is %s; must be %s", where, joint, key,
                     json_is_object(found) ? "an object" : "an array", expected);
  char *dump = json_dumps(found, JSON_ENCODE_ANY);
  Status status = error_set(error, ERROR_DATA, "%s%s%s: is %.80s; must be %s", where, joint, key,
                            dump ? dump : "unreadable", expected);
  free(dump);
  return status;
}

Status json_get_int(const json_t *object, const char *where, const char *key, int64_t minimum,
                    int64_t maximum, int64_t *out, Error *error) {
  json_t *value = json_object_get(object, key);
  int64_t number = json_integer_value(value);
  if (json_is_integer(value) && number >= minimum && number <= maximum) {
    *out = number;
    return OK;
  }
  char *expected =
      mem_format("an integer from %lld to %lld", (long long)minimum, (long long)maximum);
  Status status = wrong(where, key, value, error, expected);
  free(expected);
  return status;
}

Status json_get_double(const json_t *object, const char *where, const char *key, double *out,
                       Error *error) {
  json_t *value = json_object_get(object, key);
  if (!json_is_number(value)) return wrong(where, key, value, error, "a number");
  *out = json_number_value(value);
  return OK;
}

Status json_get_string(const json_t *object, const char *where, const char *key, const char **out,
                       Error *error) {
  json_t *value = json_object_get(object, key);
  if (!json_is_string(value)) return wrong(where, key, value, error, "a string");
  *out = json_string_value(value);
  return OK;
}

Status json_get_array(const json_t *object, const char *where, const char *key, json_t **out,
                      Error *error) {
  json_t *value = json_object_get(object, key);
  if (!json_is_array(value)) return wrong(where, key, value, error, "an array");
  *out = value;
  return OK;
}

Status json_get_object(const json_t *object, const char *where, const char *key, json_t **out,
                       Error *error) {
  json_t *value = json_object_get(object, key);
  if (!json_is_object(value)) return wrong(where, key, value, error, "an object");
  *out = value;
  return OK;
}
