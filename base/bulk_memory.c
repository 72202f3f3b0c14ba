#include "base/bulk_memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/text.h"

enum { ALIGNMENT = 64, HUGE_PAGE = 2 << 20, LEAST_HUGE = 4 << 20 };

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

static Status allocate(size_t bytes, size_t alignment, const char *what, void **out, Error *error) {
  *out = NULL;
  if (bytes > PTRDIFF_MAX - alignment) return out_of_memory(bytes, what, error);
  size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  if (rounded == 0) rounded = alignment;
  *out = aligned_alloc(alignment, rounded);
  return *out ? OK : out_of_memory(bytes, what, error);
}

Status mem_bulk_unset(size_t bytes, const char *what, void **out, Error *error) {
  size_t alignment = bytes < LEAST_HUGE ? ALIGNMENT : HUGE_PAGE;
  Status status = allocate(bytes, alignment, what, out, error);
  /* Reading a cached file into pages of 4 KiB takes three times as long. It is only advice. */
  if (status == OK && alignment == HUGE_PAGE) (void)madvise(*out, bytes, MADV_HUGEPAGE);
  return status;
}

Status mem_bulk(size_t bytes, const char *what, void **out, Error *error) {
  Status status = allocate(bytes, ALIGNMENT, what, out, error);
  if (status == OK) memset(*out, 0, bytes > 0 ? bytes : 1);
  return status;
}
