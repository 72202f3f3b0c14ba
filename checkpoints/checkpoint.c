#include "checkpoints/checkpoint.h"

#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/files.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "checkpoints/internal.h"

enum { MAX_STATE_BYTES = 256 << 20 };

/* --- One checkpoint --------------------------------------------------------------------------- */

static Status read_state(const char *path, uint64_t size, uint32_t crc, json_t **out,
                         Error *error) {
  Status status = OK;
  char *text = NULL;
  size_t found = 0;
  TRY(file_read(path, MAX_STATE_BYTES, &text, &found, error));
  if (found != size)
    FAIL(error, ERROR_DATA, "%s: has %zu bytes; its manifest says %llu", path, found,
         (unsigned long long)size);
  uint32_t actual = crc32c(0, text, found);
  if (actual != crc)
    FAIL(error, ERROR_DATA, "%s: CRC-32C is %08x; its manifest says %08x: the file is damaged",
         path, actual, crc);
  TRY(json_parse(path, text, found, out, error));
done:
  free(text);
  return status;
}

/* Opens the file that one member of "files" in the manifest describes. */
static Status open_file(Checkpoint *checkpoint, const char *name, const json_t *entry,
                        const char *needed_file, Error *error) {
  Status status = OK;
  int64_t size, crc;
  char *path = path_join(checkpoint->path, name);
  char *where = mem_format("%s/%s: files.%.80s", checkpoint->path, CHECKPOINT_MANIFEST, name);
  if (name[0] == '.' || strchr(name, '/'))
    FAIL(error, ERROR_DATA, "%s: must be a file name without a folder", where);
  TRY(json_get_int(entry, where, "bytes", 0, INT64_MAX, &size, error));
  TRY(json_get_int(entry, where, "crc32c", 0, UINT32_MAX, &crc, error));
  bool exists;
  TRY(path_exists(path, &exists, error));
  if (!exists) FAIL(error, ERROR_DATA, "%s: is missing; the manifest lists it", path);
  if (strcmp(name, CHECKPOINT_STATE) == 0) {
    TRY(read_state(path, (uint64_t)size, (uint32_t)crc, &checkpoint->state, error));
    goto done;
  }
  if (checkpoint->file_count == CHECKPOINT_MAX_FILES)
    FAIL(error, ERROR_DATA, "%s: more than %d files", where, CHECKPOINT_MAX_FILES);
  const ExpectedFile expected = {(uint64_t)size, (uint32_t)crc};
  const bool with_data = !needed_file || strcmp(needed_file, name) == 0;
  TRY(safetensors_open_checked(path, &expected, with_data,
                               &checkpoint->files[checkpoint->file_count], error));
  checkpoint->names[checkpoint->file_count++] = mem_string(name);
done:
  free(path);
  free(where);
  return status;
}

/* Opens like checkpoint_open. *other_version: it failed because of the format version. */
static Status open_checkpoint(const char *path, const char *needed_file, Checkpoint **out,
                              bool *other_version, Error *error) {
  Status status = OK;
  const char *name;
  json_t *files, *entry;
  Checkpoint *checkpoint = mem_new(1, sizeof *checkpoint);
  checkpoint->path = mem_string(path);
  char *where = path_join(path, CHECKPOINT_MANIFEST);
  *out = NULL;
  TRY(checkpoint_manifest_read(path, &checkpoint->manifest, &checkpoint->step, other_version,
                               error));
  TRY(json_get_object(checkpoint->manifest, where, "files", &files, error));
  json_object_foreach(files, name, entry) {
    TRY(open_file(checkpoint, name, entry, needed_file, error));
  }
  if (!checkpoint->state)
    FAIL(error, ERROR_DATA, "%s: files: %s is missing", where, CHECKPOINT_STATE);
  *out = checkpoint;
  checkpoint = NULL;
done:
  checkpoint_close(checkpoint);
  free(where);
  return status;
}

Status checkpoint_open(const char *path, Checkpoint **out, Error *error) {
  bool other_version;
  return open_checkpoint(path, NULL, out, &other_version, error);
}

Status checkpoint_validate(const char *path, Error *error) {
  bool other_version;
  Checkpoint *checkpoint = NULL;
  Status status = open_checkpoint(path, "", &checkpoint, &other_version, error);
  checkpoint_close(checkpoint);
  return status;
}

void checkpoint_close(Checkpoint *checkpoint) {
  if (!checkpoint) return;
  for (int i = 0; i < checkpoint->file_count; i++) {
    safetensors_close(checkpoint->files[i]);
    free(checkpoint->names[i]);
  }
  json_decref(checkpoint->state);
  json_decref(checkpoint->manifest);
  free(checkpoint->path);
  free(checkpoint);
}

const Safetensors *checkpoint_file(const Checkpoint *checkpoint, const char *name) {
  for (int i = 0; i < checkpoint->file_count; i++) {
    if (strcmp(checkpoint->names[i], name) == 0) return checkpoint->files[i];
  }
  return NULL;
}

/* --- Choosing a checkpoint -------------------------------------------------------------------- */

static const CheckpointOptions DEFAULT_OPTIONS = {0};

/* Tries the checkpoint of `step`. A damaged one leaves *out NULL and is logged, if an older one may
 * be taken. `is_oldest`: there is no older one. */
static Status try_step(const char *folder, int64_t step, bool is_oldest,
                       const CheckpointOptions *options, Checkpoint **out, Error *error) {
  Status status = OK;
  Error found = {0};
  bool other_version = false;
  char *name = checkpoint_step_name(step, ""), *path = path_join(folder, name);
  status = open_checkpoint(path, options->needed_file, out, &other_version, &found);
  if (status == OK) goto done;
  if (status != ERROR_DATA)
    FAIL(error, status,
         "%s: no older checkpoint is used, because this one may be whole; try again, or name "
         "another checkpoint",
         found.message);
  if (other_version) FAIL(error, status, "%s", found.message);
  if (!options->allow_older)
    FAIL(error, status, "%s: the newest checkpoint is damaged%s%s", found.message,
         options->advice ? "; " : "", options->advice ? options->advice : "");
  log_warning("%s; %s", found.message,
              is_oldest ? "there is no earlier checkpoint" : "trying the previous checkpoint");
  status = OK;
done:
  free(name);
  free(path);
  return status;
}

Status checkpoint_open_up_to(const char *folder, int64_t step, const CheckpointOptions *options,
                             Checkpoint **out, Error *error) {
  Status status = OK;
  int64_t *steps = NULL;
  size_t count = 0;
  bool exists;
  *out = NULL;
  if (!options) options = &DEFAULT_OPTIONS;
  TRY(path_exists(folder, &exists, error));
  if (!exists) return OK;
  TRY(checkpoint_steps_list(folder, &steps, &count, error));
  while (count > 0 && steps[count - 1] > step) count--;
  for (size_t i = count; i-- > 0 && !*out;)
    TRY(try_step(folder, steps[i], i == 0, options, out, error));
  if (count > 0 && !*out)
    FAIL(error, ERROR_DATA, "%s: all checkpoints are damaged (tried %zu, reasons above)", folder,
         count);
  if (*out && (*out)->step != steps[count - 1])
    log_warning("%s: an older checkpoint is used, of step %lld instead of %lld", (*out)->path,
                (long long)(*out)->step, (long long)steps[count - 1]);
done:
  free(steps);
  return status;
}

Status checkpoint_open_latest(const char *folder, const CheckpointOptions *options,
                              Checkpoint **out, Error *error) {
  return checkpoint_open_up_to(folder, INT64_MAX, options, out, error);
}

static Status open_latest_of(const char *folder, const CheckpointOptions *options, Checkpoint **out,
                             Error *error) {
  Status status = checkpoint_open_latest(folder, options, out, error);
  if (status == OK && !*out)
    return error_set(error, ERROR_DATA, "%s: contains no checkpoint", folder);
  return status;
}

static Status holds_steps(const char *folder, bool *out, Error *error) {
  int64_t *steps;
  size_t count;
  Status status = checkpoint_steps_list(folder, &steps, &count, error);
  *out = count > 0;
  free(steps);
  return status;
}

/* The kinds of folders that a path to a checkpoint can name. */
typedef enum PathKind { KIND_CHECKPOINT, KIND_RUN, KIND_STEPS, KIND_OTHER } PathKind;

static Status find_kind(const char *path, PathKind *out, Error *error) {
  Status status = OK;
  char *manifest = path_join(path, CHECKPOINT_MANIFEST), *state = path_join(path, CHECKPOINT_STATE);
  char *folder = path_join(path, "checkpoints");
  bool found;
  *out = KIND_CHECKPOINT;
  TRY(path_exists(manifest, &found, error));
  if (found) goto done;
  TRY(path_exists(state, &found, error));
  if (found) goto done;
  *out = KIND_RUN;
  TRY(path_is_folder(folder, &found, error));
  if (found) goto done;
  TRY(holds_steps(path, &found, error));
  *out = found ? KIND_STEPS : KIND_OTHER;
done:
  free(manifest);
  free(state);
  free(folder);
  return status;
}

Status checkpoint_open_path(const char *path, const CheckpointOptions *options, Checkpoint **out,
                            Error *error) {
  Status status = OK;
  PathKind kind;
  bool found, other_version;
  char *folder = path_join(path, "checkpoints");
  *out = NULL;
  TRY(path_exists(path, &found, error));
  if (!found)
    FAIL(error, ERROR_IO, "%s: cannot open as a checkpoint or a run: No such file or directory",
         path);
  TRY(path_is_folder(path, &found, error));
  if (!found)
    FAIL(error, ERROR_DATA, "%s: is a file; must be the folder of a checkpoint or a run", path);
  TRY(find_kind(path, &kind, error));
  if (kind == KIND_OTHER)
    FAIL(error, ERROR_DATA, "%s: is neither a checkpoint (no %s) nor a run (no checkpoints/)", path,
         CHECKPOINT_MANIFEST);
  if (kind == KIND_CHECKPOINT)
    TRY(open_checkpoint(path, options ? options->needed_file : NULL, out, &other_version, error));
  else
    TRY(open_latest_of(kind == KIND_RUN ? folder : path, options, out, error));
done:
  free(folder);
  return status;
}

/* --- Description ------------------------------------------------------------------------------ */

static void describe_shape(const NamedTensor *tensor, Text *out) {
  text_append(out, "    %-4s ", tensor_type_name(tensor->type));
  tensor_shape_append(out, tensor->shape, tensor->rank);
  text_append(out, " %s\n", tensor->name);
}

static void describe_file(const char *name, const Safetensors *file, Text *out) {
  size_t bytes = 0;
  for (int i = 0; i < safetensors_count(file); i++)
    bytes += named_tensor_bytes(safetensors_tensor(file, i));
  text_append(out, "  %s: %d tensors, ", name, safetensors_count(file));
  text_append_size(out, (double)bytes);
  text_append(out, "\n");
  for (int i = 0; i < safetensors_count(file); i++)
    describe_shape(safetensors_tensor(file, i), out);
}

/* Appends the lines of a string (a config), indented. */
static void describe_lines(const char *text, Text *out) {
  while (*text) {
    size_t length = strcspn(text, "\n");
    text_append(out, "    %.*s\n", (int)length, text);
    text += length + (text[length] == '\n');
  }
}

static void describe_member(const char *key, const json_t *value, Text *out) {
  const char *string = json_string_value(value);
  char *dump = string ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_INDENT(2));
  const char *text = string ? string : dump;
  if (text && !strchr(text, '\n')) {
    text_append(out, "  %s: %s\n", key, text);
  } else if (text) {
    text_append(out, "  %s:\n", key);
    describe_lines(text, out);
  }
  free(dump);
}

Status checkpoint_describe(const char *path, const CheckpointOptions *options, Text *out,
                           Error *error) {
  const char *key;
  json_t *value;
  Checkpoint *checkpoint;
  Status status = checkpoint_open_path(path, options, &checkpoint, error);
  if (status != OK) return status;
  text_append(out, "checkpoint %s\n  step: %lld\n", checkpoint->path, (long long)checkpoint->step);
  for (int i = 0; i < checkpoint->file_count; i++)
    describe_file(checkpoint->names[i], checkpoint->files[i], out);
  json_object_foreach(checkpoint->manifest, key, value) {
    if (!checkpoint_manifest_reserves(key)) describe_member(key, value, out);
  }
  checkpoint_close(checkpoint);
  return OK;
}
