/* Shared by the tests of planning: a backend whose kernels compute nothing, and random graphs with
 * views, updates and all-reduces. */
#ifndef CELFORGE_TESTS_ENGINE_SUPPORT_PLAN_H
#define CELFORGE_TESTS_ENGINE_SUPPORT_PLAN_H

#include "base/random.h"
#include "engine/backend/backend.h"
#include "engine/program/internal.h"

typedef struct FakeBackend {
  Backend backend;
  bool with_workspaces;  /* of sizes that vary from kernel to kernel */
  OpKind refused;        /* no kernels for this kind; OP_VIEW: for all */
  int kernels, runs;     /* kernels that exist; kernel runs */
  int announced;         /* kernels received by prepare and not created yet */
  int allocations, live; /* of memory: in total; that exist */
} FakeBackend;

FakeBackend fake_backend(void);

/* Plans for `backend` with an arena of its own, or fails the test. */
typedef struct Planned {
  Arena *arena;
  Program *program;
} Planned;
Planned plan_for(Backend *backend, const Graph *graph, bool without_fusion,
                 const Collectives *collectives);
void planned_free(Planned *planned);

int count_ops(const Program *program, OpKind kind);
/* The index of the only op of this kind, or fails the test. */
int only_op(const Program *program, OpKind kind);
const Op *op_at(const Program *program, int index);
/* Fails the test unless the lifetime of every value in the arena covers its producer and readers.
 */
void check_lifetimes(const Program *program);

/* Appends about `ops` random ops over `buffer`, which holds RANDOM_GRAPH_BUFFER elements of f32.
 * With `halving`, an all-reduce is replaced by target = target / 2. */
enum { RANDOM_GRAPH_BUFFER = 1024 };
Graph *random_graph(uint64_t seed, int ops, Buffer *buffer, bool halving);

#endif
