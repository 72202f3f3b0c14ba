#include "base/memory.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"

enum { BULK_ALIGNMENT = 64 };

static void *or_abort(void *memory, size_t count, size_t size) {
  if (memory) return memory;
  fprintf(stderr, "celforge: no memory left for %zu items of %zu bytes\n", count, size);
  abort();
}

/* Zero bytes still get a pointer of their own, so that NULL never comes back. */
void *mem_new(size_t count, size_t size) {
  return or_abort(calloc(count ? count : 1, size ? size : 1), count, size);
}

void *mem_resize(void *memory, size_t count, size_t size) {
  return or_abort(reallocarray(memory, count ? count : 1, size ? size : 1), count, size);
}

char *mem_string(const char *text) {
  size_t size = strlen(text) + 1;
  return memcpy(mem_new(1, size), text, size);
}

char *mem_format(const char *format, ...) {
  char *text = NULL;
  va_list arguments;
  va_start(arguments, format);
  int length = vasprintf(&text, format, arguments);
  va_end(arguments);
  return or_abort(length < 0 ? NULL : text, 1, strlen(format));
}

Status mem_bulk(size_t bytes, const char *what, void **out, Error *error) {
  *out = NULL;
  void *memory = NULL;
  if (bytes <= PTRDIFF_MAX - BULK_ALIGNMENT) {
    size_t whole = (bytes + BULK_ALIGNMENT - 1) / BULK_ALIGNMENT * BULK_ALIGNMENT;
    if (whole == 0) whole = BULK_ALIGNMENT;
    memory = aligned_alloc(BULK_ALIGNMENT, whole);
    if (memory) memset(memory, 0, whole);
  }
  if (!memory) {
    double machine = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    Text text = {0};
    text_append_bytes_size(&text, (double)bytes);
    text_append(&text, " of memory could not be had (this machine has ");
    text_append_bytes_size(&text, machine);
    error_set(error, ERROR_INTERNAL, "%s: %s in all)", what, text.data);
    text_free(&text);
    return ERROR_INTERNAL;
  }
  *out = memory;
  return OK;
}
