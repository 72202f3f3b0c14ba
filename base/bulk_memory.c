#include "base/bulk_memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"

enum { ALIGNMENT = 64 };

static Status out_of_memory(size_t bytes, const char *what, Error *error) {
  double physical = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
  Text text = {0};
  text_append_size(&text, (double)bytes);
  text_append(&text, " (this machine has ");
  text_append_size(&text, physical);
  error_set(error, ERROR_INTERNAL, "%s: cannot allocate %s)", what, text.data);
  text_free(&text);
  return ERROR_INTERNAL;
}

Status mem_bulk_unset(size_t bytes, const char *what, void **out, Error *error) {
  *out = NULL;
  if (bytes > PTRDIFF_MAX - ALIGNMENT) return out_of_memory(bytes, what, error);
  size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  if (rounded == 0) rounded = ALIGNMENT;
  void *memory = aligned_alloc(ALIGNMENT, rounded);
  if (!memory) return out_of_memory(bytes, what, error);
  *out = memory;
  return OK;
}

Status mem_bulk(size_t bytes, const char *what, void **out, Error *error) {
  Status status = mem_bulk_unset(bytes, what, out, error);
  if (status == OK) memset(*out, 0, bytes > 0 ? bytes : 1);
  return status;
}
