/* Shared by the tests of checkpoints: a temporary folder, content to write, ways to damage files.
 */
#ifndef CELFORGE_TESTS_UNIT_CHECKPOINTS_SUPPORT_H
#define CELFORGE_TESTS_UNIT_CHECKPOINTS_SUPPORT_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "checkpoints/checkpoint.h"

extern Error error; /* filled by every call in the tests */

#define MUST_OK(call)                 must_ok((call), __FILE__, __LINE__)
#define MUST_FAIL(call, status, text) must_fail((call), (status), (text), __FILE__, __LINE__)
void must_ok(Status status, const char *file, int line);
/* Asserts that the call failed with `status` and a message that contains `text`. */
void must_fail(Status found, Status status, const char *text, const char *file, int line);

/* Setup and teardown for cmocka: create and remove a temporary folder. */
int make_folder(void **state);
int remove_folder(void **state);
/* Paths in the folder; valid until the test ends. */
const char *in_folder(const char *name);
const char *step_path(int64_t step);
const char *step_file(int64_t step, const char *name);

/* Content whose values are a function of the step; `elements` values in each file. */
typedef struct TestContent {
  CheckpointContent content;
  CheckpointFile files[2];
  NamedTensor tensors[2][3];
  float *values;
} TestContent;
TestContent make_content(int64_t step, int64_t elements);
void free_content(TestContent *content);
/* Asserts that an opened checkpoint holds exactly the content of make_content. */
void check_content(const Checkpoint *checkpoint, int64_t elements);

/* Submits the step, then overwrites and frees the submitted memory. */
Status submit(CheckpointWriter *writer, int64_t step, int64_t elements);
/* Submits the step and waits until it is written. */
void write_step(CheckpointWriter *writer, int64_t step, int64_t elements);

void write_bytes(const char *path, const void *data, size_t size);
void flip_bit(const char *path, size_t byte, int bit);
size_t size_of(const char *path);

/* Returns the log output of `call`, captured by redirecting standard error; caller frees. */
char *logged_by(void (*call)(void *), void *argument);

#endif
