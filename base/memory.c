#include "base/memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *or_abort(void *memory, size_t count, size_t size) {
  if (memory) return memory;
  fprintf(stderr, "celforge: out of memory: cannot allocate %zu items of %zu bytes\n", count, size);
  abort();
}

/* Zero bytes are allocated as one, for which calloc does not return NULL. */
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
