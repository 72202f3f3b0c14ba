#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "checkpoints/internal.h"

enum { MAX_MANIFEST_BYTES = 64 << 20 };

bool checkpoint_manifest_reserves(const char *key) {
  static const char *const keys[] = {"format", "version", "step", "files", "crc32c"};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    if (strcmp(key, keys[i]) == 0) return true;
  }
  return false;
}

uint32_t checkpoint_manifest_crc(const json_t *manifest) {
  uint32_t crc = 0;
  json_t *rest = json_copy((json_t *)manifest);
  json_object_del(rest, "crc32c");
  char *dump = json_dumps(rest, JSON_COMPACT | JSON_SORT_KEYS);
  if (dump) crc = crc32c(0, dump, strlen(dump));
  free(dump);
  json_decref(rest);
  return crc;
}

static Status check_format(const char *path, const json_t *manifest, Error *error) {
  Status status = OK;
  const char *format;
  int64_t version, crc;
  TRY(json_get_string(manifest, path, "format", &format, error));
  if (strcmp(format, CHECKPOINT_FORMAT) != 0)
    FAIL(error, ERROR_DATA, "%s: format is \"%.80s\"; must be \"%s\"", path, format,
         CHECKPOINT_FORMAT);
  TRY(json_get_int(manifest, path, "version", 1, CHECKPOINT_VERSION, &version, error));
  TRY(json_get_int(manifest, path, "crc32c", 0, UINT32_MAX, &crc, error));
  uint32_t actual = checkpoint_manifest_crc(manifest);
  if (actual != crc)
    FAIL(error, ERROR_DATA, "%s: its own CRC-32C is %08x; it says %08x: the content has changed",
         path, actual, (uint32_t)crc);
done:
  return status;
}

/* The last part of a path, without slashes behind it; caller frees. */
static char *last_part(const char *path) {
  size_t end = strlen(path);
  while (end > 0 && path[end - 1] == '/') end--;
  size_t begin = end;
  while (begin > 0 && path[begin - 1] != '/') begin--;
  return mem_format("%.*s", (int)(end - begin), path + begin);
}

Status checkpoint_manifest_read(const char *checkpoint, json_t **out, int64_t *step, Error *error) {
  Status status = OK;
  json_t *manifest = NULL;
  char *path = path_join(checkpoint, CHECKPOINT_MANIFEST), *name = last_part(checkpoint);
  *out = NULL;
  if (!path_is_folder(checkpoint))
    FAIL(error, ERROR_DATA, "%s: is not a checkpoint's folder", checkpoint);
  if (!path_exists(path) && errno == ENOENT)
    FAIL(error, ERROR_DATA,
         "%s: has no %s: not a checkpoint, or its writing or removal was cut short", checkpoint,
         CHECKPOINT_MANIFEST);
  TRY(json_read_file(path, MAX_MANIFEST_BYTES, &manifest, error));
  TRY(check_format(path, manifest, error));
  TRY(json_get_int(manifest, path, "step", 0, INT64_MAX, step, error));
  int64_t named = step_of_name(name); /* a copy may have any other name */
  if (named >= 0 && named != *step)
    FAIL(error, ERROR_DATA, "%s: is of step %lld, but its folder is named %s", path,
         (long long)*step, name);
  *out = manifest;
  manifest = NULL;
done:
  json_decref(manifest);
  free(path);
  free(name);
  return status;
}
