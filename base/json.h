/* JSON by Jansson, with errors in our form: "file:line:column: what is wrong".
 *
 * Values are Jansson's (json_t *, reference-counted: json_decref). Duplicate keys and invalid
 * UTF-8 are refused. The getters check type and range and name the file and the key's place
 * ("manifest.json: shards[3].clips: ..."). */
#ifndef CELFORGE_BASE_JSON_H
#define CELFORGE_BASE_JSON_H

#include <jansson.h>
#include <stdint.h>

#include "base/error.h"

/* `name` is what errors call the source. The root must be an object. Fails with ERROR_DATA. */
Status json_parse(const char *name, const char *text, size_t size, json_t **out, Error *error);
Status json_read_file(const char *path, size_t max_bytes, json_t **out, Error *error);

/* Indented by two, keys in the order of insertion, numbers such that they read back the same, one
 * newline at the end; replaces `path` whole (base/files.h). */
Status json_write_file(const char *path, const json_t *value, Error *error);

/* `where` describes the object in errors: "data/film/manifest.json: shards[3]", or the file's name
 * alone for its root. A getter leaves *out as it was when it fails with ERROR_DATA. */
Status json_get_int(const json_t *object, const char *where, const char *key, int64_t minimum,
                    int64_t maximum, int64_t *out, Error *error);
/* Integers are taken too. */
Status json_get_double(const json_t *object, const char *where, const char *key, double *out,
                       Error *error);
/* Borrowed from the object. */
Status json_get_string(const json_t *object, const char *where, const char *key, const char **out,
                       Error *error);
Status json_get_array(const json_t *object, const char *where, const char *key, json_t **out,
                      Error *error);
Status json_get_object(const json_t *object, const char *where, const char *key, json_t **out,
                       Error *error);

#endif
