/* TensorBoard event files: each byte, compared with an independent encoder; file names; errors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "base/text.h"
#include "data/video/image.h"
#include "trainer/run/tensorboard.h"

static char *folder, *events, *sheet;
static Error error;

static int set_up(void **state) {
  (void)state;
  const char *root = getenv("TMPDIR");
  folder = mem_format("%s/celforge-test-XXXXXX", root && *root ? root : "/tmp");
  if (!mkdtemp(folder)) return -1;
  events = path_join(folder, "tensorboard");
  sheet = path_join(folder, "sheet.png");
  return 0;
}

static int tear_down(void **state) {
  (void)state;
  Status status = folder_remove(folder, &error);
  free(folder);
  free(events);
  free(sheet);
  return status == OK ? 0 : -1;
}

static Tensorboard *open_board(int64_t step) {
  Tensorboard *board = NULL;
  if (tensorboard_open(folder, step, &board, &error) != OK) fail_msg("%s", error.message);
  return board;
}

/* Lists the event files and asserts that there are `count`. */
static char **list_events(size_t count) {
  char **names = NULL;
  size_t found = 0;
  assert_int_equal(folder_list(events, &names, &found, &error), OK);
  assert_int_equal(found, count);
  return names;
}

static char *read_only_file(size_t *size) {
  char *data = NULL, **names = list_events(1), *path = path_join(events, names[0]);
  assert_int_equal(file_read(path, 1 << 20, &data, size, &error), OK);
  folder_list_free(names, 1);
  free(path);
  return data;
}

/* --- An independent encoder ------------------------------------------------------------------- */

static void put(Text *out, const void *bytes, size_t size) {
  text_append_bytes(out, bytes, size);
}

static void put_byte(Text *out, int byte) {
  put(out, &(uint8_t){(uint8_t)byte}, 1);
}

static void put_little(Text *out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; i++) put_byte(out, (int)(value >> 8 * i & 255));
}

static void put_varint(Text *out, uint64_t value) {
  for (; value > 127; value /= 128) put_byte(out, (int)(value % 128 + 128));
  put_byte(out, (int)value);
}

/* CRC-32C, computed bit by bit, masked. */
static void put_checksum(Text *out, const char *bytes, size_t size) {
  uint32_t crc = 0xffffffff;
  for (size_t i = 0; i < size; i++) {
    crc ^= (uint8_t)bytes[i];
    for (int bit = 0; bit < 8; bit++) crc = crc % 2 ? crc / 2 ^ 0x82f63b78 : crc / 2;
  }
  uint64_t sum = ~crc;
  put_little(out, (sum / 32768 + sum % 32768 * 131072 + 2726488792) % 4294967296, 4);
}

/* Appends a record with `content` in the field with this tag. The wall time is taken from the
 * record at the same position in `real`, after a plausibility check. */
static void put_record(Text *out, const char *real, size_t size, int64_t step, int tag,
                       const Text *content) {
  Text event = {0};
  double wall = 0;
  assert_true(size >= out->length + 12 + 9);
  memcpy(&wall, real + out->length + 12 + 1, sizeof wall);
  assert_true(fabs(wall - (double)time(NULL)) < 60);
  put_byte(&event, 0x09);
  put(&event, &wall, sizeof wall);
  put_byte(&event, 0x10);
  put_varint(&event, (uint64_t)step);
  put_byte(&event, tag);
  put_varint(&event, content->length);
  put(&event, content->data, content->length);
  size_t begin = out->length;
  put_little(out, event.length, 8);
  put_checksum(out, out->data + begin, 8);
  put(out, event.data, event.length);
  put_checksum(out, event.data, event.length);
  text_free(&event);
}

/* Appends the version record, and the session start that discards events from `first` on. */
static void put_beginning(Text *out, const char *real, size_t size, int64_t first) {
  Text version = {0}, start = {0};
  put(&version, "brain.Event:2", 13);
  put_record(out, real, size, 0, 0x1a, &version);
  put(&start, "\x08\x01", 2);
  put_record(out, real, size, first, 0x3a, &start);
  text_free(&version);
  text_free(&start);
}

static void check_file(const Text *expected, const char *real, size_t size) {
  assert_int_equal(size, expected->length);
  assert_memory_equal(real, expected->data, size);
}

/* --- Tests ------------------------------------------------------------------------------------ */

static void put_value(Text *summary, const char *key, float number) {
  size_t length = strlen(key);
  put_byte(summary, 0x0a);
  put_varint(summary, length + 7);
  put_byte(summary, 0x0a);
  put_varint(summary, length);
  put(summary, key, length);
  put_byte(summary, 0x15);
  put(summary, &number, sizeof number);
}

static void test_numbers(void **state) {
  (void)state;
  static const struct {
    const char *key;
    float value;
  } EXPECTED[] = {{"loss/g", 0.1F},
                  {"clips_per_second", 2.5F},
                  {"step_seconds", 0.4F},
                  {"gflops", 123},
                  {"lr/g", 2e-4F},
                  {"lr/d", 1e-4F},
                  {"time/compute", 0},
                  {"time/data", 0},
                  {"time/comm_exposed", 0.125F},
                  {"straggler/rank", 4},
                  {"straggler/seconds", 0.25F},
                  {"skipped/g", 1},
                  {"skipped/d", 0},
                  {"corrupt", 0},
                  {"rollbacks", 0},
                  {"skipped_batches", 6000000}};
  MetricsRecord record = {.step = 300,
                          .clips_per_second = 2.5,
                          .seconds_per_step = 0.4,
                          .gflops = 123,
                          .generator_lr = 2e-4,
                          .discriminator_lr = 1e-4,
                          .augment_probability = (double)NAN, /* no augmentation */
                          .time_comm_exposed = 0.125,
                          .straggler_rank = 4,
                          .straggler_seconds = 0.25,
                          .skipped_generator = 1,
                          .skipped_batches = 6000000};
  for (int i = 0; i < METRIC_COUNT; i++) record.values[i] = (double)NAN;
  record.values[METRIC_LOSS_G] = 0.1;
  record.values[METRIC_L1] = INFINITY;
  Tensorboard *board = open_board(299);
  assert_int_equal(tensorboard_write(board, &record, &error), OK);
  assert_int_equal(tensorboard_sync(board, &error), OK);
  tensorboard_close(board);

  Text expected = {0}, summary = {0};
  size_t size;
  char *real = read_only_file(&size);
  put_beginning(&expected, real, size, 300);
  for (size_t i = 0; i < sizeof EXPECTED / sizeof *EXPECTED; i++)
    put_value(&summary, EXPECTED[i].key, EXPECTED[i].value);
  put_record(&expected, real, size, 300, 0x2a, &summary);
  check_file(&expected, real, size);
  text_free(&summary);
  text_free(&expected);
  free(real);
}

static void test_sheet(void **state) {
  (void)state;
  Image image = {0};
  char *png = NULL;
  size_t size, png_size;
  assert_int_equal(image_new(300, 2, &image, &error), OK);
  for (int i = 0; i < 300 * 2 * 3; i++) image.pixels[i] = (uint8_t)(i * i);
  assert_int_equal(image_write_png(sheet, &image, &error), OK);
  image_free(&image);
  assert_int_equal(file_read(sheet, 1 << 20, &png, &png_size, &error), OK);
  Tensorboard *board = open_board(0);
  if (tensorboard_write_sheet(board, 7, sheet, &error) != OK) fail_msg("%s", error.message);
  tensorboard_close(board);

  Text expected = {0}, encoded = {0}, value = {0}, summary = {0};
  char *real = read_only_file(&size);
  put_beginning(&expected, real, size, 1);
  put(&encoded, "\x08\x02\x10\xac\x02\x18\x03\x22", 8); /* 2 high, 300 wide, RGB, bytes */
  put_varint(&encoded, png_size);
  put(&encoded, png, png_size);
  put(&value, "\x0a\x07samples\x22", 10);
  put_varint(&value, encoded.length);
  put(&value, encoded.data, encoded.length);
  put_byte(&summary, 0x0a);
  put_varint(&summary, value.length);
  put(&summary, value.data, value.length);
  put_record(&expected, real, size, 7, 0x2a, &summary);
  check_file(&expected, real, size);
  text_free(&encoded);
  text_free(&value);
  text_free(&summary);
  text_free(&expected);
  free(real);
  free(png);
}

/* Several starts within one second, and one after a host whose clock is ahead. */
static void test_names_ascend(void **state) {
  (void)state;
  enum { STARTS = 4 };
  static const char ahead[] = "events.out.tfevents.4102444800.host.1";
  char *past = path_join(events, ahead);
  long long begin = (long long)time(NULL);
  for (int i = 0; i < STARTS; i++) tensorboard_close(open_board(i));
  char **names = list_events(STARTS), *ending = mem_format(".%d", (int)getpid());
  for (int i = 0; i < STARTS; i++) {
    long long second = strtoll(names[i] + strlen("events.out.tfevents."), NULL, 10);
    assert_true(second >= begin + i && second < begin + i + 60);
    assert_string_equal(names[i] + strlen(names[i]) - strlen(ending), ending);
  }
  folder_list_free(names, STARTS);
  assert_int_equal(atomic_file_replace(past, "", 0, &error), OK);
  tensorboard_close(open_board(9));
  names = list_events(STARTS + 2);
  assert_string_equal(names[STARTS], ahead);
  assert_ptr_equal(strstr(names[STARTS + 1], "events.out.tfevents.4102444801."), names[STARTS + 1]);
  folder_list_free(names, STARTS + 2);
  free(ending);
  free(past);
}

static void test_missing_folder(void **state) {
  (void)state;
  Tensorboard *board = NULL;
  assert_int_equal(atomic_file_replace(events, "a file", 6, &error), OK);
  assert_int_equal(tensorboard_open(folder, 0, &board, &error), ERROR_IO);
  assert_non_null(strstr(error.message, events));
  assert_null(board);
}

static void test_failed_write(void **state) {
  (void)state;
  struct rlimit before, none = {0};
  Tensorboard *board = open_board(0);
  MetricsRecord record = {.step = 1};
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
  none.rlim_max = before.rlim_max;
  signal(SIGXFSZ, SIG_IGN);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
  Status status = tensorboard_write(board, &record, &error);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
  assert_int_equal(status, ERROR_IO);
  assert_non_null(strstr(error.message, "tensorboard/events.out.tfevents."));
  tensorboard_close(board);
}

static void test_invalid_sheets(void **state) {
  (void)state;
  static const char short_one[] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0";
  static const char gif[] = "GIF89a, and so on, and so on";
  Tensorboard *board = open_board(0);
  assert_int_equal(tensorboard_write_sheet(board, 1, sheet, &error), ERROR_IO);
  assert_non_null(strstr(error.message, sheet));
  assert_int_equal(atomic_file_replace(sheet, short_one, sizeof short_one - 1, &error), OK);
  assert_int_equal(tensorboard_write_sheet(board, 1, sheet, &error), ERROR_DATA);
  assert_int_equal(atomic_file_replace(sheet, gif, sizeof gif, &error), OK);
  assert_int_equal(tensorboard_write_sheet(board, 1, sheet, &error), ERROR_DATA);
  assert_non_null(strstr(error.message, sheet));
  tensorboard_close(board);
  Text expected = {0};
  size_t size;
  char *real = read_only_file(&size);
  put_beginning(&expected, real, size, 1);
  check_file(&expected, real, size); /* nothing was written */
  text_free(&expected);
  free(real);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_numbers, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_sheet, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_names_ascend, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_missing_folder, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_failed_write, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_invalid_sheets, set_up, tear_down),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
