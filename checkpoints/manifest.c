/* manifest.json of a checkpoint: its checksum, its format version, reading it. */
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

static Status refuse_version(const char *checkpoint, int64_t version, Error *error) {
  if (version == 1)
    return error_set(error, ERROR_DATA,
                     "%s: was written by Celforge 0.1 (checkpoint version 1); this version reads "
                     "version %d: continue training with 0.1, or start a new run",
                     checkpoint, CHECKPOINT_VERSION);
  return error_set(error, ERROR_DATA,
                   "%s: was written by a later Celforge (checkpoint version %lld); this version "
                   "reads version %d: use the later one, or start a new run",
                   checkpoint, (long long)version, CHECKPOINT_VERSION);
}

static Status check_format(const char *path, const json_t *manifest, int64_t *version,
                           Error *error) {
  Status status = OK;
  const char *format;
  int64_t crc;
  TRY(json_get_string(manifest, path, "format", &format, error));
  if (strcmp(format, CHECKPOINT_FORMAT) != 0)
    FAIL(error, ERROR_DATA, "%s: format is \"%.80s\"; must be \"%s\"", path, format,
         CHECKPOINT_FORMAT);
  TRY(json_get_int(manifest, path, "version", 1, INT32_MAX, version, error));
  TRY(json_get_int(manifest, path, "crc32c", 0, UINT32_MAX, &crc, error));
  uint32_t actual = checkpoint_manifest_crc(manifest);
  if (actual != crc)
    FAIL(error, ERROR_DATA, "%s: its CRC-32C is %08x; it should be %08x: the file is damaged", path,
         actual, (uint32_t)crc);
done:
  return status;
}

/* Returns the last component of a path, without trailing slashes; caller frees. */
static char *last_component(const char *path) {
  size_t end = strlen(path);
  while (end > 0 && path[end - 1] == '/') end--;
  size_t begin = end;
  while (begin > 0 && path[begin - 1] != '/') begin--;
  return mem_format("%.*s", (int)(end - begin), path + begin);
}

Status checkpoint_manifest_read(const char *checkpoint, json_t **out, int64_t *step,
                                bool *other_version, Error *error) {
  Status status = OK;
  int64_t version = 0;
  json_t *manifest = NULL;
  char *path = path_join(checkpoint, CHECKPOINT_MANIFEST), *name = last_component(checkpoint);
  *out = NULL;
  *other_version = false;
  bool found;
  TRY(path_is_folder(checkpoint, &found, error));
  if (!found) FAIL(error, ERROR_DATA, "%s: is not a checkpoint folder", checkpoint);
  TRY(path_exists(path, &found, error));
  if (!found)
    FAIL(error, ERROR_DATA,
         "%s: has no %s: not a checkpoint, or one whose writing or removal was interrupted",
         checkpoint, CHECKPOINT_MANIFEST);
  TRY(json_read_file(path, MAX_MANIFEST_BYTES, &manifest, error));
  TRY(check_format(path, manifest, &version, error));
  *other_version = version != CHECKPOINT_VERSION;
  if (*other_version) TRY(refuse_version(checkpoint, version, error));
  TRY(json_get_int(manifest, path, "step", 0, CHECKPOINT_MAX_STEP, step, error));
  int64_t named = checkpoint_step_of_name(name); /* -1 for a copy with any other name */
  if (named >= 0 && named != *step)
    FAIL(error, ERROR_DATA, "%s: step is %lld, but the folder is named %s", path, (long long)*step,
         name);
  *out = manifest;
  manifest = NULL;
done:
  json_decref(manifest);
  free(path);
  free(name);
  return status;
}

Status checkpoint_refuse_other_versions(const char *folder, Error *error) {
  Status status = OK;
  int64_t *steps = NULL;
  size_t count;
  TRY(checkpoint_steps_list(folder, &steps, &count, error));
  for (size_t i = count; i-- > 0;) {
    char *name = checkpoint_step_name(steps[i], ""), *path = path_join(folder, name);
    json_t *manifest = NULL;
    int64_t step;
    bool other_version;
    Error found = {0};
    Status read = checkpoint_manifest_read(path, &manifest, &step, &other_version, &found);
    json_decref(manifest);
    free(name);
    free(path);
    if (other_version || (read != OK && read != ERROR_DATA))
      FAIL(error, found.status, "%s", found.message);
  }
done:
  free(steps);
  return status;
}
