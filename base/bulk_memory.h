/* Memory for bulk data: arenas, frames, parameter arrays, file contents. Unlike the functions of
 * base/memory.h it reports a failure, because the user can act on "does not fit". */
#ifndef CELFORGE_BASE_BULK_MEMORY_H
#define CELFORGE_BASE_BULK_MEMORY_H

#include <stddef.h>

#include "base/error.h"

/* Allocates `bytes` bytes, zeroed and aligned to 64 bytes; at least one byte, so *out is never NULL
 * after OK. Free with free(). `what` names the purpose in the error: "the activation arena".
 * ERROR_INTERNAL, and *out NULL, if there is not enough memory. */
Status mem_bulk(size_t bytes, const char *what, void **out, Error *error);
/* The same without setting the bytes, for callers that overwrite all of them. */
Status mem_bulk_unset(size_t bytes, const char *what, void **out, Error *error);

#endif
