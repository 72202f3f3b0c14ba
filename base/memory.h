/* Memory for bookkeeping: lists, names, small structs. These functions never return NULL: a process
 * that cannot get a kilobyte cannot clean up either, so they print one line and abort. Free with
 * free(). Bulk data is allocated with base/bulk_memory.h, which reports failures. */
#ifndef CELFORGE_BASE_MEMORY_H
#define CELFORGE_BASE_MEMORY_H

#include <stddef.h>

void *mem_new(size_t count, size_t size);                  /* zeroed */
void *mem_resize(void *memory, size_t count, size_t size); /* does not zero the new part */
char *mem_string(const char *text);                        /* a copy */
char *mem_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Grows a list, given by its `items`, `count` and `capacity`, to hold at least one more item. */
#define MEM_PUSH_SLOT(items, count, capacity)                                                      \
  do {                                                                                             \
    if ((count) == (capacity)) {                                                                   \
      (capacity) = (capacity) ? (capacity)*2 : 8;                                                  \
      (items) = mem_resize((items), (size_t)(capacity), sizeof *(items));                          \
    }                                                                                              \
  } while (0)

#endif
