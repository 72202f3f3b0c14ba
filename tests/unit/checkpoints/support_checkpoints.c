#include "support_checkpoints.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"

Error error;

static char *folder;
static char **paths; /* returned to this test */
static size_t path_count, path_capacity;

void must_ok(Status status, const char *file, int line) {
  if (status == OK) return;
  print_error("%s\n", error.message);
  _fail(file, line);
}

void must_fail(Status found, Status status, const char *text, const char *file, int line) {
  if (found == status && error.status == status && strstr(error.message, text)) return;
  print_error("status %d: \"%s\"; wanted status %d: \"%s\"\n", (int)found,
              found == OK ? "" : error.message, (int)status, text);
  _fail(file, line);
}

int make_folder(void **state) {
  (void)state;
  const char *base = getenv("TMPDIR");
  folder = mem_format("%s/celforge-test-XXXXXX", base ? base : "/tmp");
  return mkdtemp(folder) ? 0 : -1;
}

int remove_folder(void **state) {
  (void)state;
  Status status = folder_remove(folder, &error);
  folder_list_free(paths, path_count);
  paths = NULL;
  path_count = path_capacity = 0;
  free(folder);
  return status == OK ? 0 : -1;
}

static const char *keep(char *path) {
  MEM_PUSH_SLOT(paths, path_count, path_capacity);
  return paths[path_count++] = path;
}

const char *in_folder(const char *name) {
  return keep(mem_format("%s/%s", folder, name));
}

const char *step_path(int64_t step) {
  return keep(mem_format("%s/checkpoints/step-%08lld", folder, (long long)step));
}

const char *step_file(int64_t step, const char *name) {
  return keep(mem_format("%s/checkpoints/step-%08lld/%s", folder, (long long)step, name));
}

static float value_of(int64_t step, int64_t i) {
  return (float)(step % 1000) + (float)(i % 4096) / 4096;
}

TestContent make_content(int64_t step, int64_t elements) {
  TestContent made = {0};
  made.values = mem_new((size_t)elements + 1, sizeof *made.values);
  for (int64_t i = 0; i < elements; i++) made.values[i] = value_of(step, i);
  NamedTensor tensors[3] = {
      {"parameters", TENSOR_F32, 1, {elements}, made.values},
      {"counter", TENSOR_F32, 0, {0}, made.values},
      {"empty", TENSOR_BF16, 2, {0, 3}, NULL},
  };
  memcpy(made.tensors[0], tensors, sizeof tensors);
  memcpy(made.tensors[1], tensors, sizeof tensors);
  json_t *state =
      json_pack("{s:I, s:f, s:s}", "step", (json_int_t)step, "rate", 1.0 / 3, "phase", "train");
  json_t *manifest =
      json_pack("{s:s, s:s}", "dataset", "0c6f-uuid", "config", "train:\n  steps: 400\n");
  made.content =
      (CheckpointContent){.step = step, .file_count = 2, .state = state, .manifest = manifest};
  return made;
}

/* Sets the pointers between the members: a TestContent is returned by value. */
static const CheckpointContent *linked(TestContent *made) {
  made->files[0] = (CheckpointFile){"generator.safetensors", made->tensors[0], 3};
  made->files[1] = (CheckpointFile){"optimizer.safetensors", made->tensors[1], 3};
  made->content.files = made->files;
  return &made->content;
}

void free_content(TestContent *made) {
  json_decref((json_t *)made->content.state);
  json_decref((json_t *)made->content.manifest);
  free(made->values);
}

void check_content(const Checkpoint *checkpoint, int64_t elements) {
  assert_int_equal(checkpoint->file_count, 2);
  assert_int_equal(json_integer_value(json_object_get(checkpoint->state, "step")),
                   checkpoint->step);
  assert_true(json_real_value(json_object_get(checkpoint->state, "rate")) == 1.0 / 3);
  const Safetensors *file = checkpoint_file(checkpoint, "optimizer.safetensors");
  assert_non_null(file);
  assert_null(checkpoint_file(checkpoint, "other.safetensors"));
  const NamedTensor *tensor = safetensors_find(file, "parameters");
  assert_non_null(tensor);
  assert_int_equal(tensor->shape[0], elements);
  const float *values = tensor->data;
  int64_t wrong = 0;
  for (int64_t i = 0; i < elements; i++) wrong += values[i] != value_of(checkpoint->step, i);
  assert_int_equal(wrong, 0);
}

Status submit(CheckpointWriter *writer, int64_t step, int64_t elements) {
  TestContent made = make_content(step, elements);
  Status status = checkpoint_writer_submit(writer, linked(&made), &error);
  memset(made.values, 0xff,
         (size_t)elements * sizeof *made.values); /* as the next training step does */
  free_content(&made);
  return status;
}

void write_step(CheckpointWriter *writer, int64_t step, int64_t elements) {
  MUST_OK(submit(writer, step, elements));
  MUST_OK(checkpoint_writer_wait(writer, 60, &error));
}

void write_bytes(const char *path, const void *data, size_t size) {
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(data, 1, size, file), size);
  assert_int_equal(fclose(file), 0);
}

void flip_bit(const char *path, size_t byte, int bit) {
  unsigned char value;
  int descriptor = open(path, O_RDWR);
  assert_true(descriptor >= 0);
  assert_int_equal(pread(descriptor, &value, 1, (off_t)byte), 1);
  value = (unsigned char)(value ^ (1U << bit));
  assert_int_equal(pwrite(descriptor, &value, 1, (off_t)byte), 1);
  close(descriptor);
}

size_t size_of(const char *path) {
  struct stat info;
  assert_int_equal(stat(path, &info), 0);
  return (size_t)info.st_size;
}

char *logged_by(void (*call)(void *), void *argument) {
  char *text;
  size_t size;
  const char *path = in_folder("log");
  int before = dup(STDERR_FILENO), log = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
  assert_true(before >= 0 && log >= 0);
  dup2(log, STDERR_FILENO);
  call(argument);
  dup2(before, STDERR_FILENO);
  close(before);
  close(log);
  MUST_OK(file_read(path, 1 << 20, &text, &size, &error));
  return text;
}
