/* The arena behind engine/program/program.h: one block of a backend's memory that grows. */
#ifndef CELFORGE_ENGINE_PLANNER_ARENA_H
#define CELFORGE_ENGINE_PLANNER_ARENA_H

#include "engine/backend/backend.h"
#include "engine/program/program.h"

/* A program that needs `bytes` of `backend` was planned. An arena serves one backend. */
Status arena_reserve(Arena *arena, Backend *backend, size_t bytes, Error *error);
/* The block, allocated or grown first where need be; growing moves it and loses its content. */
Status arena_memory(Arena *arena, void **out, Error *error);

#endif
