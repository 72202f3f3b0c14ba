#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/json.h"
#include "checkpoints/checkpoint.h"
#include "data/dataset/dataset.h"
#include "trainer/cli/info.h"
#include "trainer/run/metrics_log.h"

static Status holds(const char *folder, const char *name, bool *out, Error *error) {
  char *path = path_join(folder, name);
  Status status = path_exists(path, out, error);
  free(path);
  return status;
}

/* Appends how many sample sheets the run has, and the newest one; names sort by step. */
static Status describe_samples(const char *run, Text *out, Error *error) {
  Status status = OK;
  char *folder = path_join(run, "samples"), **names = NULL;
  size_t count = 0;
  bool is_folder;
  TRY(path_is_folder(folder, &is_folder, error));
  if (is_folder) TRY(folder_list(folder, &names, &count, error));
  text_append(out, "  samples     %zu", count);
  if (count > 0) text_append(out, ", the newest %s/%s", folder, names[count - 1]);
  text_append(out, "\n");
done:
  folder_list_free(names, count);
  free(folder);
  return status;
}

static void describe_record(json_t *record, Text *out) {
  const char *key;
  json_t *value;
  json_object_foreach(record, key, value) {
    if (json_is_integer(value))
      text_append(out, "    %-24s %lld\n", key, (long long)json_integer_value(value));
    else if (json_is_number(value))
      text_append(out, "    %-24s %.6g\n", key, json_number_value(value));
  }
}

/* Appends the last record of metrics.jsonl. */
static Status describe_metrics(const char *run, Text *out, Error *error) {
  Status status = OK;
  char *path = path_join(run, "metrics.jsonl");
  json_t *record = NULL;
  TRY(metrics_log_read_last(path, &record, error));
  text_append(out, "  metrics     %s\n", record ? "the last record:" : "none yet");
  if (record) describe_record(record, out);
done:
  json_decref(record);
  free(path);
  return status;
}

static Status describe_run(const char *run, Text *out, Error *error) {
  Status status = OK;
  Checkpoint *checkpoint = NULL;
  char *folder = path_join(run, "checkpoints");
  bool is_folder;
  text_append(out, "run %s\n", run);
  TRY(path_is_folder(folder, &is_folder, error));
  if (is_folder) TRY(checkpoint_open_latest(folder, &checkpoint, error));
  if (checkpoint)
    text_append(out, "  checkpoint  %s, step %lld\n", checkpoint->path,
                (long long)checkpoint->step);
  else
    text_append(out, "  checkpoint  none yet\n");
  TRY(describe_samples(run, out, error));
  TRY(describe_metrics(run, out, error));
done:
  checkpoint_close(checkpoint);
  free(folder);
  return status;
}

static Status describe(const char *path, Text *out, Error *error) {
  static const struct {
    const char *member; /* the first one that the folder holds decides */
    Status (*describe)(const char *path, Text *out, Error *error);
  } kinds[] = {{"metrics.jsonl", describe_run},
               {"checkpoints", describe_run},
               {"state.json", checkpoint_describe},
               {"manifest.json", dataset_describe}};
  bool found;
  Status status = path_is_folder(path, &found, error);
  if (status != OK) return status;
  if (!found) return dataset_describe(path, out, error);
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    status = holds(path, kinds[i].member, &found, error);
    if (status != OK) return status;
    if (found) return kinds[i].describe(path, out, error);
  }
  return error_set(error, ERROR_DATA,
                   "%s: neither a dataset or a checkpoint (no manifest.json) nor a run (no "
                   "metrics.jsonl, no checkpoints/)",
                   path);
}

Status info_run(const char *path, Error *error) {
  Text text = {0};
  Status status = describe(path, &text, error);
  if (status == OK) fputs(text.data, stdout);
  text_free(&text);
  return status;
}
