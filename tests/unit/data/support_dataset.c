#include "support_dataset.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/files.h"
#include "base/memory.h"

char *temporary_folder(void) {
  const char *root = getenv("TMPDIR");
  char *path = mem_format("%s/celforge-data-XXXXXX", root && *root ? root : "/tmp");
  assert_non_null(mkdtemp(path));
  return path;
}

void remove_folder(char *path) {
  Error error;
  assert_int_equal(folder_remove(path, &error), OK);
  free(path);
}

const char *inside(const char *folder, const char *name) {
  static char buffers[64][512];
  static int next;
  char *path = buffers[next++ % 64];
  snprintf(path, sizeof buffers[0], "%s/%s", folder, name);
  return path;
}

DatasetSpec small_spec(void) {
  return (DatasetSpec){.shape = {.frames = 3,
                                 .source_height = 6,
                                 .source_width = 8,
                                 .source_channels = 3,
                                 .target_height = 12,
                                 .target_width = 16},
                       .fps_numerator = 25,
                       .fps_denominator = 1,
                       .clips_per_shard = 4,
                       .maker = "test --seed 1"};
}

DatasetSpec one_sided_spec(int side) {
  DatasetSpec spec = small_spec();
  if (side == 0)
    spec.shape.target_height = spec.shape.target_width = 0;
  else
    spec.shape.source_height = spec.shape.source_width = spec.shape.source_channels = 0;
  return spec;
}

void clip_bytes(int64_t index, int side, uint8_t *out, size_t size) {
  uint32_t state = (uint32_t)(index * 2 + side) * 2654435761u + 12345u;
  for (size_t i = 0; i < size; i++) {
    state = state * 1664525u + 1013904223u;
    out[i] = (uint8_t)(state >> 24);
  }
}

void add_clips(DatasetWriter *writer, const ClipShape *shape, int64_t first, int64_t count) {
  Error error;
  size_t source_bytes = clip_source_bytes(shape), target_bytes = clip_target_bytes(shape);
  uint8_t *source = mem_new(source_bytes, 1), *target = mem_new(target_bytes, 1);
  for (int64_t i = first; i < first + count; i++) {
    ClipName name = {.start_frame = i * 3};
    snprintf(name.id, sizeof name.id, "clip-%lld", (long long)i);
    snprintf(name.origin, sizeof name.origin, "live %lld.mp4", (long long)(i / 2));
    clip_bytes(i, 0, source, source_bytes);
    clip_bytes(i, 1, target, target_bytes);
    if (dataset_writer_add(writer, source_bytes ? source : NULL, target_bytes ? target : NULL,
                           &name, &error) != OK)
      fail_msg("clip %lld: %s", (long long)i, error.message);
  }
  free(target);
  free(source);
}

void make_dataset(const char *folder, const DatasetSpec *spec, int64_t clips) {
  Error error;
  DatasetWriter *writer;
  int64_t already;
  if (dataset_writer_open(inside(folder, "data"), spec, &writer, &already, &error) != OK)
    fail_msg("%s", error.message);
  assert_int_equal(already, 0);
  add_clips(writer, &spec->shape, 0, clips);
  if (dataset_writer_finish(writer, &error) != OK) fail_msg("%s", error.message);
}

void flip_byte(const char *path, int64_t offset) {
  FILE *file = fopen(path, "r+b");
  assert_non_null(file);
  fseek(file, (long)offset, SEEK_SET);
  int byte = fgetc(file);
  assert_true(byte != EOF);
  fseek(file, (long)offset, SEEK_SET);
  fputc(byte ^ 0xff, file);
  fclose(file);
}

int64_t file_bytes(const char *path) {
  struct stat info;
  assert_int_equal(stat(path, &info), 0);
  return info.st_size;
}

int64_t find_bytes(const char *path, const void *needle, size_t size) {
  Error error;
  char *data;
  size_t length;
  assert_int_equal(file_read(path, (size_t)1 << 28, &data, &length, &error), OK);
  const char *found = memmem(data, length, needle, size);
  assert_non_null(found);
  int64_t offset = found - data;
  free(data);
  return offset;
}

void assert_same_file(const char *a, const char *b) {
  Error error;
  char *data[2];
  size_t size[2];
  assert_int_equal(file_read(a, (size_t)1 << 28, &data[0], &size[0], &error), OK);
  assert_int_equal(file_read(b, (size_t)1 << 28, &data[1], &size[1], &error), OK);
  assert_int_equal(size[0], size[1]);
  assert_memory_equal(data[0], data[1], size[0]);
  free(data[0]);
  free(data[1]);
}

void assert_says(const Error *error, ...) {
  va_list texts;
  va_start(texts, error);
  for (const char *text; (text = va_arg(texts, const char *));)
    if (!strstr(error->message, text)) fail_msg("\"%s\" is not in \"%s\"", text, error->message);
  va_end(texts);
}
