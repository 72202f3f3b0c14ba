/* JSON through Jansson, with errors of the form "file:line:column: problem".
 *
 * Values are Jansson's json_t, which are reference-counted (json_decref). The parser rejects
 * duplicate keys and invalid UTF-8. The getters check type and range and name the file and the
 * path of the key ("manifest.json: shards[3].clips: ..."). */
#ifndef CELFORGE_BASE_JSON_H
#define CELFORGE_BASE_JSON_H

#include <jansson.h>
#include <stdint.h>

#include "base/error.h"

/* Parses a text whose root must be an object. `name` names the source in errors. Fails with
 * ERROR_DATA; the caller releases *out, which is NULL after a failure. */
Status json_parse(const char *name, const char *text, size_t size, json_t **out, Error *error);
/* Reads and parses a file of at most `max_bytes`. ERROR_IO or ERROR_DATA. */
Status json_read_file(const char *path, size_t max_bytes, json_t **out, Error *error);

/* Replaces the file at `path` atomically (base/files.h) with `value`: indented by two, keys in
 * insertion order, numbers with enough digits to read back the same, one newline at the end.
 * ERROR_INTERNAL, and nothing is written, if `value` is NULL or holds text that is not UTF-8. */
Status json_write_file(const char *path, const json_t *value, Error *error);

/* The next three catch the NULL that json_pack, json_real and json_string return for a number that
 * is NaN or infinite and for text that is not UTF-8; Jansson would drop it without a word. They
 * fail with ERROR_INTERNAL. `what` names the value in the error: "metrics.jsonl", or a path.
 *
 *     json_t *json = json_pack("{s:f}", "seconds", seconds);
 *     TRY(json_built(json, options->json, error));
 */
Status json_built(const json_t *json, const char *what, Error *error);
/* Appends `value` to `array`, and takes over the reference to it. */
Status json_append(json_t *array, json_t *value, const char *what, Error *error);
/* Sets `key` of `object` to `value`, and takes over the reference to it. */
Status json_set(json_t *object, const char *key, json_t *value, const char *what, Error *error);

/* `where` names the object in errors: "data/demo/manifest.json: shards[3]", or the file alone for
 * its root. A getter fails with ERROR_DATA and then leaves *out unchanged. */
Status json_get_int(const json_t *object, const char *where, const char *key, int64_t minimum,
                    int64_t maximum, int64_t *out, Error *error);
/* Also accepts integers. */
Status json_get_double(const json_t *object, const char *where, const char *key, double *out,
                       Error *error);
/* The results of the next three are borrowed from `object`. */
Status json_get_string(const json_t *object, const char *where, const char *key, const char **out,
                       Error *error);
Status json_get_array(const json_t *object, const char *where, const char *key, json_t **out,
                      Error *error);
Status json_get_object(const json_t *object, const char *where, const char *key, json_t **out,
                       Error *error);

#endif
