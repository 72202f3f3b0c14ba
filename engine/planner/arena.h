/* The arena of engine/program/program.h: one block of memory of a backend that grows on demand. */
#ifndef CELFORGE_ENGINE_PLANNER_ARENA_H
#define CELFORGE_ENGINE_PLANNER_ARENA_H

#include "engine/backend/backend.h"
#include "engine/program/program.h"

/* Registers the need of a planned program. ERROR_INTERNAL if the arena belongs to another backend.
 */
Status arena_reserve(Arena *arena, Backend *backend, size_t bytes, Error *error);
/* The block, allocated or grown first if needed; growing changes its address and loses its content.
 */
Status arena_memory(Arena *arena, void **out, Error *error);

#endif
