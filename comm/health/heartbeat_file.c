/* Reading and writing FOLDER/RANK.json, the heartbeat of one rank. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "comm/health/internal.h"

enum { MAX_FILE_BYTES = 4096 };

/* Caller frees. */
static char *file_path(const char *folder, int rank) {
  return mem_format("%s/%d.json", folder, rank);
}

static char *record_to_json(const HeartbeatRecord *record) {
  json_t *waiting = record->waiting[0] ? json_string(record->waiting) : json_null();
  json_t *value =
      json_pack("{s:s, s:i, s:i, s:s, s:i, s:f, s:I, s:f, s:s, s:f, s:I, s:I, s:o}", "run",
                record->run, "rank", record->rank, "world_size", record->world_size, "host",
                record->host, "pid", record->pid, "started", record->started, "beat",
                (json_int_t)record->beat, "time", record->time, "phase", phase_name(record->phase),
                "since", record->since, "step", (json_int_t)record->step, "operations_started",
                (json_int_t)record->operations_started, "waiting", waiting);
  char *text = value ? json_dumps(value, JSON_REAL_PRECISION(14)) : NULL;
  json_decref(value);
  return text;
}

static Status write_and_rename(const char *temporary, const char *final, const char *text,
                               Error *error) {
  Status status = OK;
  int descriptor = file_open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW);
  if (descriptor < 0) return error_errno(error, errno, "%s", temporary);
  TRY(file_write(descriptor, temporary, text, strlen(text), error));
  TRY(file_write(descriptor, temporary, "\n", 1, error));
  if (file_rename(temporary, final, 0) != 0) status = error_errno(error, errno, "%s", final);
done:
  file_close(&descriptor);
  if (status != OK) file_unlink(temporary);
  return status;
}

Status heartbeat_file_write(const char *folder, const HeartbeatRecord *record, Error *error) {
  Status status = OK;
  char *final = file_path(folder, record->rank), *temporary = mem_format("%s.tmp", final);
  char *text = record_to_json(record); /* NULL: the host name is not UTF-8 */
  if (!text)
    FAIL(error, ERROR_INTERNAL, "%s: cannot be written as JSON (host name not UTF-8)", final);
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
    if (strcmp(name, phase_name((Phase)i)) != 0) continue;
    *phase = (Phase)i;
    return OK;
  }
  return error_set(error, ERROR_DATA, "%s: phase: \"%s\" is unknown", path, name);
}

/* Reads seconds that fit a time_t, and whose differences fit a report. */
static Status parse_seconds(const json_t *value, const char *path, const char *key, double *out,
                            Error *error) {
  const double largest = 1e11; /* the year 5138 */
  Status status = json_get_double(value, path, key, out, error);
  if (status == OK && !(*out >= 0 && *out <= largest))
    return error_set(error, ERROR_DATA, "%s: %s: is %g; must be 0 to %g s", path, key, *out,
                     largest);
  return status;
}

static Status parse(const json_t *value, const char *path, HeartbeatRecord *record, Error *error) {
  Status status = OK;
  const char *run, *host;
  int64_t pid = 0, world_size = 0;
  TRY(json_get_string(value, path, "run", &run, error));
  TRY(json_get_string(value, path, "host", &host, error));
  TRY(json_get_int(value, path, "pid", 1, INT32_MAX, &pid, error));
  TRY(json_get_int(value, path, "world_size", 1, INT32_MAX, &world_size, error));
  TRY(json_get_int(value, path, "beat", 0, INT64_MAX, &record->beat, error));
  TRY(json_get_int(value, path, "step", INT64_MIN, INT64_MAX, &record->step, error));
  TRY(json_get_int(value, path, "operations_started", 0, INT64_MAX, &record->operations_started,
                   error));
  TRY(parse_seconds(value, path, "started", &record->started, error));
  TRY(parse_seconds(value, path, "time", &record->time, error));
  TRY(parse_seconds(value, path, "since", &record->since, error));
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

HeartbeatRecord heartbeat_file_read(const char *folder, int rank, const char *run) {
  HeartbeatRecord record = {.rank = rank};
  json_t *value = NULL;
  Error ignored = {0}; /* a file that cannot be read counts as missing */
  char *path = file_path(folder, rank);
  if (json_read_file(path, MAX_FILE_BYTES, &value, &ignored) == OK)
    record.valid = parse(value, path, &record, &ignored) == OK && strcmp(record.run, run) == 0;
  json_decref(value);
  free(path);
  return record;
}

/* "12.json", "12.json.tmp", "diagnosis-...". */
static bool is_heartbeat_file(const char *name) {
  size_t digits = strspn(name, "0123456789");
  const char *rest = name + digits;
  if (strncmp(name, "diagnosis-", strlen("diagnosis-")) == 0) return true;
  return digits > 0 && (strcmp(rest, ".json") == 0 || strcmp(rest, ".json.tmp") == 0);
}

Status heartbeat_files_remove(const char *folder, Error *error) {
  Status status = OK;
  char **names = NULL;
  size_t count = 0;
  TRY(folder_list(folder, &names, &count, error));
  for (size_t i = 0; i < count; i++) {
    if (!is_heartbeat_file(names[i])) continue;
    char *path = path_join(folder, names[i]);
    if (unlink(path) != 0 && errno != ENOENT) status = error_errno(error, errno, "%s", path);
    free(path);
    if (status != OK) goto done;
  }
done:
  folder_list_free(names, count);
  return status;
}

/* --- This rank's heartbeat -------------------------------------------------------------------- */

void heartbeat_write(Heartbeat *heartbeat) {
  Error error = {0};
  Location location = presence_location(&heartbeat->comm->presence);
  HeartbeatRecord *self = &heartbeat->self;
  self->beat++;
  self->time = clock_wall_seconds();
  self->phase = location.phase;
  self->since = fmax(0, clock_seconds() - location.since);
  self->step = atomic_load(&heartbeat->comm->presence.step);
  self->operations_started = atomic_load(&heartbeat->comm->operations_started);
  snprintf(self->waiting, sizeof self->waiting, "%s", location.waiting ? location.waiting : "");
  heartbeat_file_write(heartbeat->folder, self, &error);
  if (error.status != OK && heartbeat->write_error.status == OK)
    log_warning("heartbeat not written, the other ranks do not see it: %s", error.message);
  heartbeat->write_error = error;
}
