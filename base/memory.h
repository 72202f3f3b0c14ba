/* Memory in two kinds.
 *
 * Bookkeeping (lists, names, small structs): mem_new and friends never return NULL. A process that
 * cannot get a kilobyte cannot clean up either, so they print one line and abort.
 *
 * Bulk (arenas, frames, parameter arrays, file contents): mem_bulk reports what was asked for
 * through Error, because "does not fit" is then an answer the user can act on. 64-byte aligned,
 * zeroed. Both kinds are freed with free(). */
#ifndef CELFORGE_BASE_MEMORY_H
#define CELFORGE_BASE_MEMORY_H

#include <stddef.h>

#include "base/error.h"

void *mem_new(size_t count, size_t size);                  /* zeroed */
void *mem_resize(void *memory, size_t count, size_t size); /* new part not zeroed */
char *mem_string(const char *text);                        /* copy */
char *mem_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* `what` names the purpose in the error: "the activation arena". */
Status mem_bulk(size_t bytes, const char *what, void **out, Error *error);

/* Grows a list so that it holds at least one more: `items`, `count`, `capacity` are the list's. */
#define MEM_PUSH_SLOT(items, count, capacity)                                                      \
  do {                                                                                             \
    if ((count) == (capacity)) {                                                                   \
      (capacity) = (capacity) ? (capacity)*2 : 8;                                                  \
      (items) = mem_resize((items), (size_t)(capacity), sizeof *(items));                          \
    }                                                                                              \
  } while (0)

#endif
