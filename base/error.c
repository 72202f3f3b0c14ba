#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* error.h defines these as macros for the static analyzer. */
#undef error_set
#undef error_errno

/* Returns the length of the longest prefix of text[0..limit] that ends between UTF-8 characters. */
static size_t whole_characters(const char *text, size_t limit) {
  size_t end = limit;
  while (end > 0 && limit - end < 4 && ((unsigned char)text[end] & 0xc0) == 0x80) end--;
  return end;
}

/* Cuts text to `size` bytes, including the NUL, so that it ends in "...". */
static void cut(char *text, size_t size) {
  strcpy(text + whole_characters(text, size - sizeof "..."), "...");
}

/* vsnprintf that ends a truncated text in "..."; returns the length of the result. */
static size_t format_cut(char *text, size_t size, const char *format, va_list arguments) {
  int wanted = vsnprintf(text, size, format, arguments);
  if (wanted < 0) snprintf(text, size, "(message could not be formatted: %s)", format);
  if (wanted >= 0 && (size_t)wanted >= size) cut(text, size);
  return strlen(text);
}

/* Arguments may point into error->message, so each message is formatted in a buffer first. */
Status error_set(Error *error, Status status, const char *format, ...) {
  if (!error) return status;
  char message[ERROR_MESSAGE_SIZE];
  va_list arguments;
  va_start(arguments, format);
  size_t length = format_cut(message, sizeof message, format, arguments);
  va_end(arguments);
  memcpy(error->message, message, length + 1);
  error->status = status;
  return status;
}

Status error_errno(Error *error, int errnum, const char *format, ...) {
  if (!error) return ERROR_IO;
  char buffer[128], reason[160], message[ERROR_MESSAGE_SIZE];
  int reason_length =
      snprintf(reason, sizeof reason, ": %s", strerror_r(errnum, buffer, sizeof buffer));
  va_list arguments;
  va_start(arguments, format);
  /* cuts a long path, never the reason */
  size_t length = format_cut(message, sizeof message - (size_t)reason_length, format, arguments);
  va_end(arguments);
  memcpy(message + length, reason, (size_t)reason_length + 1);
  memcpy(error->message, message, length + (size_t)reason_length + 1);
  error->status = ERROR_IO;
  return ERROR_IO;
}

Status error_context(Error *error, const char *format, ...) {
  if (!error) return ERROR_INTERNAL;
  char message[ERROR_MESSAGE_SIZE];
  va_list arguments;
  va_start(arguments, format);
  size_t length = format_cut(message, sizeof message, format, arguments);
  va_end(arguments);
  size_t room = sizeof message - length;
  int wanted = snprintf(message + length, room, ": %s", error->message);
  if (wanted >= 0 && (size_t)wanted >= room) cut(message, sizeof message);
  memcpy(error->message, message, strlen(message) + 1);
  return error->status;
}
