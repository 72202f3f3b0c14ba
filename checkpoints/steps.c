/* The folders step-N in RUN/checkpoints: names, listing, removal. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"
#include "checkpoints/internal.h"

enum { MAX_DIGITS = 18 }; /* fits int64_t */

char *checkpoint_step_name(int64_t step, const char *suffix) {
  return mem_format("step-%08lld%s", (long long)step, suffix);
}

int64_t checkpoint_step_of_name(const char *name) {
  int64_t step = 0;
  if (strncmp(name, "step-", 5) != 0) return -1;
  size_t digits = strlen(name + 5);
  if (digits > MAX_DIGITS) return -1;
  for (size_t i = 0; i < digits; i++) {
    if (!isdigit((unsigned char)name[5 + i])) return -1;
    step = step * 10 + (name[5 + i] - '0');
  }
  char *canonical = checkpoint_step_name(step, "");
  bool same = strcmp(canonical, name) == 0;
  free(canonical);
  return same ? step : -1;
}

static int compare_steps(const void *a, const void *b) {
  int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
  return (left > right) - (left < right);
}

Status checkpoint_steps_list(const char *folder, int64_t **steps, size_t *count, Error *error) {
  Status status = OK;
  char **names = NULL;
  size_t name_count = 0;
  *steps = NULL;
  *count = 0;
  TRY(folder_list(folder, &names, &name_count, error));
  int64_t *found = mem_new(name_count + 1, sizeof *found);
  for (size_t i = 0; i < name_count; i++) {
    int64_t step = checkpoint_step_of_name(names[i]);
    if (step >= 0) found[(*count)++] = step;
  }
  qsort(found, *count, sizeof *found, compare_steps);
  *steps = found;
done:
  folder_list_free(names, name_count);
  return status;
}

Status checkpoint_step_remove(const char *folder, int64_t step, Error *error) {
  Status status = OK;
  char *name = checkpoint_step_name(step, ""), *path = path_join(folder, name);
  char *manifest = path_join(path, CHECKPOINT_MANIFEST);
  if (file_unlink(manifest) != 0 && errno != ENOENT) {
    status = error_errno(error, errno, "%s: cannot remove", manifest);
    goto done;
  }
  TRY(file_sync(path, error)); /* the manifest must be gone before any data is */
  TRY(folder_remove(path, error));
done:
  free(name);
  free(path);
  free(manifest);
  return status;
}

Status checkpoint_step_discard(const char *folder, int64_t step, Error *error) {
  Status status = OK;
  char *name = checkpoint_step_name(step, ""), *path = path_join(folder, name);
  char *discarded = mem_format("%s%s", path, CHECKPOINT_DISCARDED);
  TRY(folder_remove(discarded, error));
  if (file_rename(path, discarded, 0) != 0)
    status = error_errno(error, errno, "%s: cannot rename to %s", path, discarded);
done:
  free(name);
  free(path);
  free(discarded);
  return status;
}

Status checkpoint_step_set_aside(const char *folder, int64_t step, int64_t saved_step,
                                 Error *error) {
  Status status = OK;
  char *name = checkpoint_step_name(step, ""), *path = path_join(folder, name);
  char *aside = mem_format("%s.left", path);
  bool exists;
  for (int i = 2;; i++) {
    TRY(path_exists(aside, &exists, error));
    if (!exists) break;
    free(aside);
    aside = mem_format("%s.left-%d", path, i);
  }
  if (file_rename(path, aside, 0) != 0) {
    status = error_errno(error, errno, "%s: cannot rename to %s", path, aside);
    goto done;
  }
  log_warning(
      "%s: from before a rollback to an earlier step (the run now saves step %lld): renamed "
      "to %s; remove it if it is not needed",
      path, (long long)saved_step, aside);
done:
  free(name);
  free(path);
  free(aside);
  return status;
}
