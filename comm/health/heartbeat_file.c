#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "comm/health/internal.h"

enum { RECORD_MOST_BYTES = 4096 };

static const char *const PHASES[PHASE_COUNT] = {"start",      "data",       "step", "reduce",
                                                "evaluation", "checkpoint", "end"};

const char *phase_name(Phase phase) {
  return PHASES[phase];
}

/* Caller frees. */
static char *record_path(const char *folder, int rank) {
  return mem_format("%s/%d.json", folder, rank);
}

static char *record_text(const Record *record) {
  json_t *waiting = record->waiting[0] ? json_string(record->waiting) : json_null();
  json_t *value = json_pack(
      "{s:s, s:i, s:i, s:s, s:i, s:f, s:I, s:f, s:s, s:f, s:I, s:I, s:o}", "run", record->run,
      "rank", record->rank, "world_size", record->world_size, "host", record->host, "pid",
      record->pid, "started", record->started, "beat", (json_int_t)record->beat, "time",
      record->time, "phase", phase_name(record->phase), "since", record->since, "step",
      (json_int_t)record->step, "begun", (json_int_t)record->begun, "waiting", waiting);
  char *text = value ? json_dumps(value, JSON_REAL_PRECISION(14)) : NULL;
  json_decref(value);
  return text;
}

static Status write_and_rename(const char *temporary, const char *final, const char *text,
                               Error *error) {
  Status status = OK;
  int descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor < 0) return error_errno(error, errno, "%s", temporary);
  TRY(file_write(descriptor, temporary, text, strlen(text), error));
  TRY(file_write(descriptor, temporary, "\n", 1, error));
  if (rename(temporary, final) != 0) status = error_errno(error, errno, "%s", final);
done:
  close(descriptor);
  if (status != OK) unlink(temporary);
  return status;
}

Status record_write(const char *folder, const Record *record, Error *error) {
  Status status = OK;
  char *final = record_path(folder, record->rank), *temporary = mem_format("%s.tmp", final);
  char *text = record_text(record); /* NULL: a host name that is no UTF-8 */
  if (!text) FAIL(error, ERROR_INTERNAL, "%s: cannot be written as JSON", final);
  TRY(write_and_rename(temporary, final, text, error));
done:
  free(text);
  free(temporary);
  free(final);
  return status;
}

static Status parse_phase(const json_t *value, const char *path, Phase *phase, Error *error) {
  const char *name;
  Status status = json_get_string(value, path, "phase", &name, error);
  if (status != OK) return status;
  for (int i = 0; i < PHASE_COUNT; i++) {
    if (strcmp(name, PHASES[i]) != 0) continue;
    *phase = (Phase)i;
    return OK;
  }
  return error_set(error, ERROR_DATA, "%s: phase: \"%s\" is unknown", path, name);
}

static Status parse(const json_t *value, const char *path, Record *record, Error *error) {
  Status status = OK;
  const char *run, *host;
  int64_t pid = 0, world_size = 0;
  TRY(json_get_string(value, path, "run", &run, error));
  TRY(json_get_string(value, path, "host", &host, error));
  TRY(json_get_int(value, path, "pid", 1, INT32_MAX, &pid, error));
  TRY(json_get_int(value, path, "world_size", 1, INT32_MAX, &world_size, error));
  TRY(json_get_int(value, path, "beat", 0, INT64_MAX, &record->beat, error));
  TRY(json_get_int(value, path, "step", INT64_MIN, INT64_MAX, &record->step, error));
  TRY(json_get_int(value, path, "begun", 0, INT64_MAX, &record->begun, error));
  TRY(json_get_double(value, path, "started", &record->started, error));
  TRY(json_get_double(value, path, "time", &record->time, error));
  TRY(json_get_double(value, path, "since", &record->since, error));
  TRY(parse_phase(value, path, &record->phase, error));
  snprintf(record->run, sizeof record->run, "%s", run);
  snprintf(record->host, sizeof record->host, "%s", host);
  const char *waiting = json_string_value(json_object_get(value, "waiting"));
  snprintf(record->waiting, sizeof record->waiting, "%s", waiting ? waiting : "");
  record->pid = (int)pid;
  record->world_size = (int)world_size;
done:
  return status;
}

Record record_read(const char *folder, int rank, const char *run) {
  Record record = {.rank = rank};
  json_t *value = NULL;
  Error ignored = {0}; /* whatever is wrong with it, the rank has not said a word */
  char *path = record_path(folder, rank);
  if (json_read_file(path, RECORD_MOST_BYTES, &value, &ignored) == OK)
    record.valid = parse(value, path, &record, &ignored) == OK && strcmp(record.run, run) == 0;
  json_decref(value);
  free(path);
  return record;
}

/* "12.json", "12.json.tmp", "diagnosis-...": what this room writes. */
static bool is_ours(const char *name) {
  size_t digits = strspn(name, "0123456789");
  const char *rest = name + digits;
  if (strncmp(name, "diagnosis-", strlen("diagnosis-")) == 0) return true;
  return digits > 0 && (strcmp(rest, ".json") == 0 || strcmp(rest, ".json.tmp") == 0);
}

Status record_clear(const char *folder, Error *error) {
  Status status = OK;
  char **names = NULL;
  size_t count = 0;
  TRY(folder_list(folder, &names, &count, error));
  for (size_t i = 0; i < count; i++) {
    if (!is_ours(names[i])) continue;
    char *path = path_join(folder, names[i]);
    if (unlink(path) != 0 && errno != ENOENT) status = error_errno(error, errno, "%s", path);
    free(path);
    if (status != OK) goto done;
  }
done:
  folder_list_free(names, count);
  return status;
}
