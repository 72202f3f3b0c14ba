#include "trainer/run/tensorboard.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/files.h"
#include "base/host.h"
#include "base/memory.h"
#include "base/protobuf.h"
#include "base/thread.h"

/* Field numbers of event.proto and summary.proto, and the values used here. */
enum {
  EVENT_WALL_TIME = 1,
  EVENT_STEP = 2,
  EVENT_FILE_VERSION = 3,
  EVENT_SUMMARY = 5,
  EVENT_SESSION_LOG = 7,
  SESSION_LOG_STATUS = 1,
  SESSION_LOG_START = 1,
  SUMMARY_VALUE = 1,
  VALUE_TAG = 1,
  VALUE_SIMPLE_VALUE = 2,
  VALUE_IMAGE = 4,
  IMAGE_HEIGHT = 1,
  IMAGE_WIDTH = 2,
  IMAGE_COLORSPACE = 3,
  IMAGE_COLORSPACE_RGB = 3,
  IMAGE_ENCODED = 4,
};

enum { MAX_PNG_BYTES = 1 << 30 }; /* protobuf messages are limited to 2 GiB */

static const char FILE_VERSION[] = "brain.Event:2";
static const char PREFIX[] = "events.out.tfevents.";
static const char SHEET_TAG[] = "samples";
static const long long LAST_SECOND = 9999999999; /* ten digits in the file name */

struct Tensorboard {
  char *path;
  int descriptor;
};

/* --- Records ---------------------------------------------------------------------------------- */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format is little-endian");

/* Masked because the CRC of data that contains its own CRC is weak. */
static void put_checksum(Text *out, const void *data, size_t size) {
  uint32_t crc = crc32c(0, data, size);
  uint32_t masked = (crc >> 15 | crc << 17) + 0xa282ead8U;
  text_append_bytes(out, &masked, sizeof masked);
}

static Status write_record(const Tensorboard *board, const Text *data, Error *error) {
  Text record = {0};
  uint64_t length = data->length;
  text_append_bytes(&record, &length, sizeof length);
  put_checksum(&record, &length, sizeof length);
  text_append_bytes(&record, data->data, data->length);
  put_checksum(&record, data->data, data->length);
  Status status = file_write(board->descriptor, board->path, record.data, record.length, error);
  text_free(&record);
  return status;
}

/* Writes an event with `content`, a message or a string, in field `field`. Frees `content`. */
static Status write_event(const Tensorboard *board, int64_t step, int field, Text *content,
                          Error *error) {
  Text event = {0};
  protobuf_double(&event, EVENT_WALL_TIME, clock_wall_seconds());
  protobuf_integer(&event, EVENT_STEP, step);
  protobuf_message(&event, field, content);
  Status status = write_record(board, &event, error);
  text_free(&event);
  return status;
}

/* --- Opening ---------------------------------------------------------------------------------- */

/* Chooses a timestamp for the file name that is later than those of all existing files: readers go
 * through the files once, in the order of their names, and several processes may start within one
 * second, or on hosts whose clocks differ. */
static Status choose_second(const char *folder, long long *second, Error *error) {
  Status status = OK;
  char **names = NULL;
  size_t count = 0;
  *second = (long long)clock_wall_seconds();
  TRY(folder_list(folder, &names, &count, error));
  for (size_t i = 0; i < count; i++) {
    if (strncmp(names[i], PREFIX, strlen(PREFIX)) != 0) continue;
    long long last = strtoll(names[i] + strlen(PREFIX), NULL, 10);
    if (last >= *second && last < LAST_SECOND) *second = last + 1;
  }
done:
  folder_list_free(names, count);
  return status;
}

static Status create_file(Tensorboard *board, const char *folder, Error *error) {
  Status status = OK;
  long long second;
  char host[HOST_NAME_SIZE];
  TRY(folder_create(folder, error));
  TRY(choose_second(folder, &second, error));
  host_name(host);
  board->path = mem_format("%s/%s%010lld.%s.%d", folder, PREFIX, second, host, (int)getpid());
  board->descriptor = file_open(board->path, O_WRONLY | O_APPEND | O_CREAT | O_EXCL);
  if (board->descriptor < 0) {
    status = error_errno(error, errno, "%s: cannot create", board->path);
    goto done;
  }
  TRY(file_sync(folder, error)); /* so that tensorboard_sync only has to flush the file */
done:
  return status;
}

Status tensorboard_open(const char *run_dir, int64_t step, Tensorboard **out, Error *error) {
  Status status = OK;
  Text version = {0}, session = {0};
  Tensorboard *board = mem_new(1, sizeof *board);
  char *folder = path_join(run_dir, "tensorboard");
  board->descriptor = -1;
  TRY(create_file(board, folder, error));
  text_append(&version, "%s", FILE_VERSION);
  TRY(write_event(board, 0, EVENT_FILE_VERSION, &version, error));
  /* A start also discards events of its own step, and those of `step` are kept. */
  protobuf_integer(&session, SESSION_LOG_STATUS, SESSION_LOG_START);
  TRY(write_event(board, step + 1, EVENT_SESSION_LOG, &session, error));
  *out = board;
  board = NULL;
done:
  tensorboard_close(board);
  free(folder);
  return status;
}

/* --- Writing ---------------------------------------------------------------------------------- */

static void put_scalar(void *summary, const MetricsNumber *number) {
  Text value = {0};
  protobuf_string(&value, VALUE_TAG, number->key);
  protobuf_float(&value, VALUE_SIMPLE_VALUE,
                 number->is_count ? (float)number->count : (float)number->real);
  protobuf_message(summary, SUMMARY_VALUE, &value);
}

Status tensorboard_write(Tensorboard *board, const MetricsRecord *record, Error *error) {
  Text summary = {0};
  metrics_visit(record, put_scalar, &summary);
  return write_event(board, record->step, EVENT_SUMMARY, &summary, error);
}

static uint32_t big_endian_at(const char *data, size_t offset) {
  const uint8_t *bytes = (const uint8_t *)data + offset;
  return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

/* A PNG starts with an eight-byte signature and the chunk IHDR, which starts with width and height.
 */
static Status put_image(Text *value, const char *path, const char *png, size_t size, Error *error) {
  enum { WIDTH_AT = 16, HEIGHT_AT = 20, HEAD = 24 };
  static const char BEGIN[] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
  Text image = {0};
  if (size < HEAD || memcmp(png, BEGIN, WIDTH_AT) != 0)
    return error_set(error, ERROR_DATA, "%s: not a PNG file", path);
  protobuf_integer(&image, IMAGE_HEIGHT, big_endian_at(png, HEIGHT_AT));
  protobuf_integer(&image, IMAGE_WIDTH, big_endian_at(png, WIDTH_AT));
  protobuf_integer(&image, IMAGE_COLORSPACE, IMAGE_COLORSPACE_RGB);
  protobuf_bytes(&image, IMAGE_ENCODED, png, size);
  protobuf_message(value, VALUE_IMAGE, &image);
  return OK;
}

Status tensorboard_write_sheet(Tensorboard *board, int64_t step, const char *path, Error *error) {
  Status status = OK;
  Text summary = {0}, value = {0};
  char *png = NULL;
  size_t size = 0;
  TRY(file_read(path, MAX_PNG_BYTES, &png, &size, error));
  protobuf_string(&value, VALUE_TAG, SHEET_TAG);
  TRY(put_image(&value, path, png, size, error));
  protobuf_message(&summary, SUMMARY_VALUE, &value);
  TRY(write_event(board, step, EVENT_SUMMARY, &summary, error));
done:
  text_free(&value);
  free(png);
  return status;
}

Status tensorboard_sync(Tensorboard *board, Error *error) {
  if (file_flush(board->descriptor) == 0) return OK;
  return error_errno(error, errno, "%s: cannot flush", board->path);
}

void tensorboard_close(Tensorboard *board) {
  if (!board) return;
  file_close(&board->descriptor);
  free(board->path);
  free(board);
}
