/* Reads that fail for a moment (EIO, ESTALE, ENOMEM) are I/O errors with errno's text, never bad
 * data; EINTR and short reads are not seen at all. pread and read are replaced by functions that
 * fail on the Nth call. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/files.h"
#include "base/memory.h"
#include "data/build/build.h"
#include "data/dataset/dataset.h"
#include "data/dataset/shard.h"
#include "data/video/image.h"
#include "support_dataset.h"

static int fault;           /* errno of the failing call; 0: none; SHORT: it reads one byte */
static long calls, failing; /* calls so far; the number of the one that fails */
enum { SHORT = -1 };

static bool is_due(size_t *size) {
  if (fault == 0 || ++calls != failing) return false;
  if (fault == SHORT && *size > 1) *size = 1;
  return fault > 0;
}

/* They take the place of libc's functions in this program. */
ssize_t pread(int descriptor, void *data, size_t size, off_t offset) {
  if (is_due(&size)) {
    errno = fault;
    return -1;
  }
  return syscall(SYS_pread64, descriptor, data, size, offset);
}

ssize_t read(int descriptor, void *data, size_t size) {
  if (is_due(&size)) {
    errno = fault;
    return -1;
  }
  return syscall(SYS_read, descriptor, data, size);
}

typedef Status (*Reader)(const char *path, Error *error);

static Status verify(const char *path, Error *error) {
  return dataset_verify(path, NULL, error);
}

/* With a report, verify goes past bad data, but not past errors. */
static Status report(const char *path, Error *error) {
  Text text = {0};
  Status status = dataset_verify(path, &text, error);
  text_free(&text);
  return status;
}

static Status describe(const char *path, Error *error) {
  Text text = {0};
  Status status = dataset_describe(path, &text, error);
  text_free(&text);
  return status;
}

static Status inspect(const char *path, Error *error) {
  Shard shard;
  Status status = shard_inspect(path, true, &shard, error);
  shard_free(&shard);
  return status;
}

static Status read_image(const char *path, Error *error) {
  Image image;
  Status status = image_read_png(path, &image, error);
  image_free(&image);
  return status;
}

/* Lets each call fail once, with each errno. */
static void fail_each_read(const char *path, Reader reader) {
  static const int faults[] = {EIO, ESTALE, ENOMEM, EINTR, SHORT};
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
    bool harmless = faults[i] == EINTR || faults[i] == SHORT;
    for (failing = 1;; failing++) {
      Error error = {0};
      fault = faults[i];
      calls = 0;
      Status status = reader(path, &error);
      fault = 0;
      if (calls < failing) break; /* it needed fewer reads */
      if (status != (harmless ? OK : ERROR_IO))
        fail_msg("%s: read %ld with errno %d: status %d: %s", path, failing, faults[i], status,
                 error.message);
      if (!harmless) assert_says(&error, path, strerror(faults[i]), NULL);
    }
    assert_true(failing > 1);
  }
}

static void failed_reads_of_datasets_are_io_errors(void **state) {
  (void)state;
  for (int deflate = 0; deflate < 2; deflate++) {
    char *folder = temporary_folder();
    DatasetSpec spec = small_spec();
    spec.deflate = deflate;
    make_dataset(folder, &spec, 6);
    fail_each_read(inside(folder, "data"), verify);
    fail_each_read(inside(folder, "data"), report);
    fail_each_read(inside(folder, "data"), describe);
    fail_each_read(inside(folder, "data/shard-00000.h5"), describe);
    fail_each_read(inside(folder, "data/shard-00001.h5"), inspect);
    remove_folder(folder);
  }
  fail_each_read("tests/unit/data/dense_attributes.h5", inspect);
}

/* Continues a run that was interrupted behind its last shard. */
static Status continue_run(const char *path, Error *error) {
  DatasetWriter *writer;
  DatasetSpec spec = small_spec();
  int64_t already;
  Status status = dataset_writer_open(path, &spec, &writer, &already, error);
  if (status == OK) dataset_writer_abandon(writer);
  return status;
}

/* Shards that cannot be read for a moment are kept. */
static void failed_reads_do_not_remove_shards(void **state) {
  (void)state;
  char *folder = temporary_folder();
  DatasetSpec spec = small_spec();
  make_dataset(folder, &spec, 8);
  assert_int_equal(unlink(inside(folder, "data/manifest.json")), 0);
  fail_each_read(inside(folder, "data"), continue_run);
  assert_true(is_there(inside(folder, "data/shard-00000.h5")));
  assert_true(is_there(inside(folder, "data/shard-00001.h5")));
  remove_folder(folder);
}

/* Continues a join that was interrupted behind the copy of its only shard; `path` has both. */
static Status continue_join(const char *path, Error *error) {
  JoinOptions options = {.out = inside(path, "joined"), .parts = inside(path, "parts")};
  Status status = join_run(&options, error);
  if (status == OK) assert_int_equal(unlink(inside(path, "joined/manifest.json")), 0);
  assert_true(is_there(inside(path, "joined/shard-00000.h5")));
  return status;
}

static void failed_reads_do_not_remove_copies(void **state) {
  (void)state;
  Error error;
  char *bytes, *folder = temporary_folder();
  size_t size;
  struct stat before, after;
  DatasetSpec spec = small_spec();
  make_dataset(folder, &spec, 4);
  char *joined = mem_string(inside(folder, "joined/shard-00000.h5"));
  assert_int_equal(folder_create(inside(folder, "parts"), &error), OK);
  assert_int_equal(folder_create(inside(folder, "joined"), &error), OK);
  assert_int_equal(rename(inside(folder, "data"), inside(folder, "parts/a")), 0);
  assert_int_equal(
      file_read(inside(folder, "parts/a/shard-00000.h5"), 1 << 24, &bytes, &size, &error), OK);
  assert_int_equal(atomic_file_replace(joined, bytes, size, &error), OK);
  assert_int_equal(stat(joined, &before), 0);
  fail_each_read(folder, continue_join);
  assert_int_equal(stat(joined, &after), 0);
  assert_int_equal(after.st_ino, before.st_ino); /* neither copied again nor linked */
  free(bytes);
  free(joined);
  remove_folder(folder);
}

static void failed_reads_of_images_are_io_errors(void **state) {
  (void)state;
  Error error;
  Image image;
  char *folder = temporary_folder();
  assert_int_equal(image_new(40, 30, &image, &error), OK);
  for (int i = 0; i < 40 * 30 * 3; i++) image.pixels[i] = (uint8_t)(i * i);
  assert_int_equal(image_write_png(inside(folder, "a.png"), &image, &error), OK);
  fail_each_read(inside(folder, "a.png"), read_image);
  image_free(&image);
  remove_folder(folder);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(failed_reads_of_datasets_are_io_errors),
      cmocka_unit_test(failed_reads_do_not_remove_shards),
      cmocka_unit_test(failed_reads_do_not_remove_copies),
      cmocka_unit_test(failed_reads_of_images_are_io_errors),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
