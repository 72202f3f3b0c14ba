#include "engine/planner/arena.h"

#include <stdlib.h>

#include "base/memory.h"
#include "engine/planner/plan.h"

struct Arena {
  size_t bytes;     /* largest need so far */
  size_t allocated; /* size of `memory` */
  Backend *backend; /* of the first program; NULL before */
  void *memory;
};

Arena *arena_new(void) {
  return mem_new(1, sizeof(Arena));
}

void arena_free(Arena *arena) {
  if (!arena) return;
  if (arena->memory) arena->backend->release(arena->backend, arena->memory);
  free(arena);
}

size_t arena_bytes(const Arena *arena) {
  return arena->bytes;
}

Status arena_reserve(Arena *arena, Backend *backend, size_t bytes, Error *error) {
  if (arena->backend && arena->backend != backend) {
    return error_set(error, ERROR_INTERNAL,
                     "arena: belongs to backend %s, but a program of backend %s was planned in it",
                     arena->backend->name, backend->name);
  }
  arena->backend = backend;
  if (bytes > arena->bytes) arena->bytes = bytes;
  return OK;
}

Status arena_memory(Arena *arena, void **out, Error *error) {
  Status status = OK;
  if (arena->allocated < arena->bytes) {
    Backend *backend = arena->backend;
    if (arena->memory) backend->release(backend, arena->memory);
    arena->memory = NULL;
    arena->allocated = 0;
    TRY(backend->allocate(backend, arena->bytes, "the activation arena", &arena->memory, error));
    arena->allocated = arena->bytes;
  }
  *out = arena->memory;
done:
  return status;
}

/* --- Offsets ---------------------------------------------------------------------------------- */

typedef struct Placed {
  size_t begin, end;
} Placed;

typedef struct Size {
  size_t bytes;
  int item;
} Size;

static int by_begin(const void *a, const void *b) {
  const Placed *x = a, *y = b;
  return (x->begin > y->begin) - (x->begin < y->begin);
}

/* Largest first; ties by index, so that the plan is the same on every rank. */
static int by_size(const void *a, const void *b) {
  const Size *x = a, *y = b;
  if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
  return (x->item > y->item) - (x->item < y->item);
}

/* The smallest gap between taken ranges that holds `bytes`, else the end of the last one. */
static size_t best_gap(Placed *taken, int count, size_t bytes) {
  qsort(taken, (size_t)count, sizeof *taken, by_begin);
  size_t end = 0, best = SIZE_MAX, best_size = SIZE_MAX;
  for (int i = 0; i < count; i++) {
    if (taken[i].begin > end) {
      size_t gap = taken[i].begin - end;
      if (gap >= bytes && gap < best_size) {
        best = end;
        best_size = gap;
      }
    }
    if (taken[i].end > end) end = taken[i].end;
  }
  return best == SIZE_MAX ? end : best;
}

/* Saturates at SIZE_MAX, which no allocation satisfies. */
static size_t end_of(size_t begin, size_t bytes) {
  size_t end;
  return __builtin_add_overflow(begin, bytes, &end) ? SIZE_MAX : end;
}

/* Greedy by size (Pisarchyk, Lee 2020: "Efficient Memory Management for Deep Neural Net
 * Inference"): largest first, each into the tightest gap between items that are alive at the same
 * time. */
size_t arena_assign_offsets(Lifetime *items, int count) {
  Size *order = mem_new((size_t)count, sizeof *order);
  Placed *taken = mem_new((size_t)count, sizeof *taken);
  size_t total = 0;
  for (int i = 0; i < count; i++) order[i] = (Size){memory_align(items[i].bytes), i};
  qsort(order, (size_t)count, sizeof *order, by_size);
  for (int i = 0; i < count; i++) {
    Lifetime *item = &items[order[i].item];
    int alive = 0;
    for (int j = 0; j < i; j++) {
      const Lifetime *other = &items[order[j].item];
      if (other->first > item->last || item->first > other->last) continue;
      taken[alive++] = (Placed){other->offset, end_of(other->offset, order[j].bytes)};
    }
    item->offset = best_gap(taken, alive, order[i].bytes);
    const size_t end = end_of(item->offset, order[i].bytes);
    if (end > total) total = end;
  }
  free(order);
  free(taken);
  return total;
}
