/* Writes datasets under limits on file sizes that stop each write of the files once. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "base/files.h"
#include "base/memory.h"
#include "support_dataset.h"

static int set_up(void **state) {
  signal(SIGXFSZ, SIG_IGN);
  *state = temporary_folder();
  return 0;
}

static int tear_down(void **state) {
  remove_folder(*state);
  return 0;
}

static Status write_dataset(const char *folder, const DatasetSpec *spec, int64_t clips,
                            Error *error) {
  DatasetWriter *writer;
  int64_t already;
  Status status = dataset_writer_open(folder, spec, &writer, &already, error);
  if (status != OK) return status;
  size_t source_bytes = clip_source_bytes(&spec->shape);
  size_t target_bytes = clip_target_bytes(&spec->shape);
  uint8_t *clip = mem_new(source_bytes + target_bytes, 1);
  const ClipName name = {.id = "clip", .origin = "test"};
  for (int64_t i = already; i < clips && status == OK; i++) {
    clip_bytes(i, 0, clip, source_bytes);
    clip_bytes(i, 1, clip + source_bytes, target_bytes);
    status = dataset_writer_add(writer, clip, clip + source_bytes, &name, error);
  }
  free(clip);
  if (status == OK) return dataset_writer_finish(writer, error);
  dataset_writer_abandon(writer);
  return status;
}

static void assert_no_temporary_files(const char *folder) {
  Error error;
  char **names = NULL;
  size_t count = 0;
  if (folder_list(folder, &names, &count, &error) != OK) return; /* the folder was removed, too */
  for (size_t i = 0; i < count; i++) {
    assert_null(strstr(names[i], ".tmp"));
    assert_string_not_equal(names[i], "manifest.json");
  }
  folder_list_free(names, count);
}

/* Tries limits from 0 in steps of `step` until the dataset is whole. An attempt continues the one
 * before, as a second command would, or begins anew. */
static void fill_disks(const char *folder, const DatasetSpec *spec, int64_t clips, rlim_t step,
                       bool anew) {
  struct rlimit before;
  Error error;
  Status status = ERROR_IO;
  int failures = 0;
  const char *data = inside(folder, "data");
  getrlimit(RLIMIT_FSIZE, &before);
  for (rlim_t limit = 0; status != OK; limit += step) {
    const struct rlimit small = {limit, before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    status = write_dataset(data, spec, clips, &error);
    setrlimit(RLIMIT_FSIZE, &before);
    if (status == OK) break;
    failures++;
    assert_int_equal(status, ERROR_IO);
    assert_says(&error, data, "File too large", NULL);
    assert_no_temporary_files(data);
    if (anew) assert_int_equal(folder_remove(data, &error), OK);
  }
  assert_true(failures > 10);
  if (dataset_verify(data, NULL, &error) != OK) fail_msg("%s", error.message);
  assert_int_equal(folder_remove(data, &error), OK);
}

static void full_disks_give_errors_and_leave_nothing(void **state) {
  for (int deflate = 0; deflate < 2; deflate++) {
    DatasetSpec spec = small_spec();
    spec.deflate = deflate;
    fill_disks(*state, &spec, 4, 253, true); /* one full shard */
    fill_disks(*state, &spec, 3, 509, true); /* a shard that is copied to a smaller one */
    fill_disks(*state, &spec, 6, 509, false);
  }
}

static void full_disks_with_large_clips(void **state) {
  DatasetSpec spec = small_spec();
  spec.shape.source_height = spec.shape.source_width = 160;
  fill_disks(*state, &spec, 5, 65521, true);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(full_disks_give_errors_and_leave_nothing, set_up, tear_down),
      cmocka_unit_test_setup_teardown(full_disks_with_large_clips, set_up, tear_down),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
