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

static Status describe_run(const char *run, const CheckpointOptions *options, Text *out,
                           Error *error) {
  Status status = OK;
  Checkpoint *checkpoint = NULL;
  char *folder = path_join(run, "checkpoints");
  bool is_folder;
  text_append(out, "run %s\n", run);
  TRY(path_is_folder(folder, &is_folder, error));
  if (is_folder) TRY(checkpoint_open_latest(folder, options, &checkpoint, error));
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

static Status describe_folder(const char *path, const CheckpointOptions *options, Text *out,
                              Error *error) {
  Status status = OK;
  bool metrics, checkpoints, state, manifest;
  TRY(holds(path, "metrics.jsonl", &metrics, error));
  TRY(holds(path, "checkpoints", &checkpoints, error));
  TRY(holds(path, "state.json", &state, error));
  TRY(holds(path, "manifest.json", &manifest, error));
  if (metrics || checkpoints)
    TRY(describe_run(path, options, out, error));
  else if (state)
    TRY(checkpoint_describe(path, options, out, error));
  else if (manifest)
    TRY(dataset_describe(path, out, error));
  else
    FAIL(error, ERROR_DATA,
         "%s: neither a dataset or a checkpoint (no manifest.json) nor a run (no metrics.jsonl, no "
         "checkpoints/)",
         path);
done:
  return status;
}

Status info_run(const char *path, bool allow_older, Error *error) {
  Status status = OK;
  Text text = {0};
  bool is_folder;
  const CheckpointOptions options = {.allow_older = allow_older,
                                     .advice = "--allow-older takes the newest whole one",
                                     .needed_file = ""};
  TRY(path_is_folder(path, &is_folder, error));
  if (is_folder)
    TRY(describe_folder(path, &options, &text, error));
  else
    TRY(dataset_describe(path, &text, error));
  fputs(text.data, stdout);
done:
  text_free(&text);
  return status;
}
