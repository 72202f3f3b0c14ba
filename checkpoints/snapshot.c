/* A copy of a checkpoint's content, and writing it to a folder. */
#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/crc32c.h"
#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "checkpoints/internal.h"

enum { ALIGNMENT = 64 };
static const char EXTENSION[] = ".safetensors";

static size_t padded(size_t bytes) {
  return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* --- Checking --------------------------------------------------------------------------------- */

static Status check_file(const CheckpointContent *content, int index, Error *error) {
  const char *name = content->files[index].name;
  size_t length = strlen(name), extension = strlen(EXTENSION);
  if (length <= extension || strcmp(name + length - extension, EXTENSION) != 0 ||
      strchr(name, '/') || name[0] == '.')
    return error_set(error, ERROR_INTERNAL,
                     "checkpoint of step %lld: file \"%s\": must be a file name ending in %s",
                     (long long)content->step, name, EXTENSION);
  for (int i = 0; i < index; i++) {
    if (strcmp(content->files[i].name, name) == 0)
      return error_set(error, ERROR_INTERNAL, "checkpoint of step %lld: two files named %s",
                       (long long)content->step, name);
  }
  return OK;
}

Status checkpoint_snapshot_check(const CheckpointContent *content, Error *error) {
  Status status = OK;
  const char *key;
  json_t *value;
  long long step = content->step;
  if (step < 0) FAIL(error, ERROR_INTERNAL, "checkpoint of step %lld", step);
  if (content->file_count < 0 || content->file_count > CHECKPOINT_MAX_FILES)
    FAIL(error, ERROR_INTERNAL, "checkpoint of step %lld: %d files; at most %d", step,
         content->file_count, CHECKPOINT_MAX_FILES);
  for (int i = 0; i < content->file_count; i++) TRY(check_file(content, i, error));
  if (!json_is_object(content->state))
    FAIL(error, ERROR_INTERNAL, "checkpoint of step %lld: the state must be an object", step);
  json_object_foreach((json_t *)content->manifest, key, value) {
    if (checkpoint_manifest_reserves(key))
      FAIL(error, ERROR_INTERNAL, "checkpoint of step %lld: manifest member \"%s\" is reserved",
           step, key);
  }
done:
  return status;
}

/* --- Copying ---------------------------------------------------------------------------------- */

static size_t content_bytes(const CheckpointContent *content) {
  size_t bytes = 0;
  for (int f = 0; f < content->file_count; f++) {
    for (int t = 0; t < content->files[f].tensor_count; t++)
      bytes += padded(named_tensor_bytes(&content->files[f].tensors[t]));
  }
  return bytes;
}

/* Copies a file's tensors to *place and advances *place past them. */
static void copy_file(const CheckpointFile *from, CheckpointFile *to, char **place) {
  NamedTensor *tensors = mem_new((size_t)from->tensor_count + 1, sizeof *tensors);
  for (int t = 0; t < from->tensor_count; t++) {
    size_t bytes = named_tensor_bytes(&from->tensors[t]);
    tensors[t] = from->tensors[t];
    tensors[t].name = mem_string(from->tensors[t].name);
    tensors[t].data = *place;
    if (bytes > 0) memcpy(*place, from->tensors[t].data, bytes);
    *place += padded(bytes);
  }
  *to = (CheckpointFile){mem_string(from->name), tensors, from->tensor_count};
}

Status checkpoint_snapshot_take(CheckpointSnapshot *snapshot, const CheckpointContent *content,
                                Error *error) {
  size_t bytes = content_bytes(content);
  if (bytes > snapshot->capacity || !snapshot->data) {
    void *data;
    Status status =
        mem_bulk(bytes + ALIGNMENT, "the copy that the checkpoint is written from", &data, error);
    if (status != OK) return status;
    free(snapshot->data);
    snapshot->data = data;
    snapshot->capacity = bytes;
  }
  char *place = snapshot->data;
  for (int f = 0; f < content->file_count; f++)
    copy_file(&content->files[f], &snapshot->files[f], &place);
  snapshot->content = (CheckpointContent){
      .step = content->step,
      .rollback_step = content->rollback_step,
      .files = snapshot->files,
      .file_count = content->file_count,
      .state = json_deep_copy(content->state),
      .manifest = content->manifest ? json_deep_copy(content->manifest) : json_object(),
  };
  return OK;
}

void checkpoint_snapshot_clear(CheckpointSnapshot *snapshot) {
  for (int f = 0; f < snapshot->content.file_count; f++) {
    CheckpointFile *file = &snapshot->files[f];
    for (int t = 0; t < file->tensor_count; t++) free((char *)file->tensors[t].name);
    free((NamedTensor *)file->tensors);
    free((char *)file->name);
  }
  json_decref((json_t *)snapshot->content.state);
  json_decref((json_t *)snapshot->content.manifest);
  snapshot->content = (CheckpointContent){0};
}

void checkpoint_snapshot_free(CheckpointSnapshot *snapshot) {
  checkpoint_snapshot_clear(snapshot);
  free(snapshot->data);
  *snapshot = (CheckpointSnapshot){0};
}

/* --- Writing ---------------------------------------------------------------------------------- */

static Status list_file(json_t *files, const char *name, uint64_t size, uint32_t crc,
                        Error *error) {
  return json_set(files, name,
                  json_pack("{s:I, s:I}", "bytes", (json_int_t)size, "crc32c", (json_int_t)crc),
                  name, error);
}

static Status write_json(const char *folder, const char *name, const json_t *value, uint64_t *size,
                         uint32_t *crc, Error *error) {
  Status status = OK;
  Text text = {0};
  char *path = path_join(folder, name), *dump = json_dumps(value, JSON_INDENT(2));
  if (!dump) FAIL(error, ERROR_INTERNAL, "%s: the value is not valid JSON", path);
  text_append_bytes(&text, dump, strlen(dump));
  text_append_bytes(&text, "\n", 1);
  TRY(atomic_file_replace(path, text.data, text.length, error));
  *size = text.length;
  *crc = crc32c(0, text.data, text.length);
done:
  text_free(&text);
  free(dump);
  free(path);
  return status;
}

Status checkpoint_snapshot_write(const CheckpointSnapshot *snapshot, const char *folder,
                                 Error *error) {
  Status status = OK;
  const CheckpointContent *content = &snapshot->content;
  json_t *files = json_object();
  json_t *manifest =
      json_pack("{s:s, s:i, s:I, s:o}", "format", CHECKPOINT_FORMAT, "version", CHECKPOINT_VERSION,
                "step", (json_int_t)content->step, "files", files);
  uint64_t size = 0;
  uint32_t crc = 0;
  TRY(json_built(manifest, CHECKPOINT_MANIFEST, error));
  for (int f = 0; f < content->file_count; f++) {
    const CheckpointFile *file = &content->files[f];
    char *path = path_join(folder, file->name);
    status = safetensors_write(path, file->tensors, file->tensor_count, NULL, &crc, &size, error);
    free(path);
    if (status != OK) goto done;
    TRY(list_file(files, file->name, size, crc, error));
  }
  TRY(write_json(folder, CHECKPOINT_STATE, content->state, &size, &crc, error));
  TRY(list_file(files, CHECKPOINT_STATE, size, crc, error));
  json_object_update(manifest, (json_t *)content->manifest);
  TRY(json_set(manifest, "crc32c", json_integer((json_int_t)checkpoint_manifest_crc(manifest)),
               CHECKPOINT_MANIFEST, error));
  TRY(write_json(folder, CHECKPOINT_MANIFEST, manifest, &size, &crc, error));
done:
  json_decref(manifest);
  return status;
}
