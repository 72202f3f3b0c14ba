/* A graph while it is being planned: its ops and values, the operations that passes use to rewrite
 * them, and the queries on order and memory that keep rewrites correct. For engine/program/ and the
 * passes of this folder, not for users of the engine.
 *
 * Ops are in slots, in program order. A pass may remove an op, move one to a free slot, and change
 * its inputs and outputs; the producer of a value always precedes its users. At the end
 * plan_reorder keeps only the ops that run. */
#ifndef CELFORGE_ENGINE_PLANNER_PLAN_H
#define CELFORGE_ENGINE_PLANNER_PLAN_H

#include "engine/graph/internal.h"

typedef struct PlanValue {
  Shape shape;
  DType dtype;
  int producer; /* slot of the op that computes it; -1: none that runs */
  int root; /* the value whose memory it is in: itself, the source of a chain of reshapes, or the
               whole of which it is a part */
  Buffer *buffer; /* of views, and of values bound to a buffer; NULL: in the arena */
  int64_t offset; /* in the buffer or in the memory of the root; elements */
  int use_count, use_capacity;
  int *uses; /* slots of the ops that read it, one entry for each input */
} PlanValue;

typedef struct Plan {
  int value_count;
  PlanValue *values; /* by Value.id */
  int op_count;
  Op *ops;    /* slots */
  bool *live; /* by slot */
} Plan;

Plan *plan_new(const Graph *graph);
void plan_free(Plan *plan);

static inline PlanValue *plan_value(const Plan *plan, Value value) {
  return &plan->values[value.id];
}
int64_t plan_bytes(const Plan *plan, Value value); /* 0 for NO_VALUE */

/* --- Rewriting -------------------------------------------------------------------------------- */
void plan_remove(Plan *plan, int op);
/* Moves an op into the free slot `to`. */
void plan_move(Plan *plan, int from, int to);
/* Sets an input; `place` may exceed the current input count. */
void plan_set_input(Plan *plan, int op, int place, Value value);
void plan_set_inputs(Plan *plan, int op, const Value *inputs, int count);
/* Makes `op` the producer of `value`; its previous output in that place has no producer then. */
void plan_set_output(Plan *plan, int op, int place, Value value);
/* The only op that reads `value`, with any number of inputs; -1: none, or several. */
int plan_sole_user(const Plan *plan, Value value);
/* Keeps the slots order[0..count), in this order, and drops the others. */
void plan_reorder(Plan *plan, const int *order, int count);

/* --- Liveness and hazards (engine/planner/liveness.c) ----------------------------------------- */
/* Removes ops that no buffer depends on. Returns the number of remaining ops that run. */
int plan_remove_dead(Plan *plan);
/* True for ops that run a kernel or a collective: all but views and reshapes. */
bool op_runs(const Op *op);

typedef struct BufferRange {
  const Buffer *buffer; /* NULL: not in a buffer; overlaps nothing */
  int64_t begin, end;   /* elements */
} BufferRange;
BufferRange plan_buffer_range(const Plan *plan, Value value);
bool plan_accesses(const Plan *plan, int op, BufferRange range); /* reads or writes */
/* True if no op between the two slots (exclusive) writes the buffer range of `value`. */
bool plan_unchanged_between(const Plan *plan, Value value, int slot_a, int slot_b);
/* The same for all inputs of `op`, which may then be moved to slot `to`. */
bool plan_inputs_unchanged_between(const Plan *plan, int op, int to);

/* --- Fusion (engine/planner/fuse.c, fuse_pointwise.c, compose_pointwise.c, bind_stores.c) ----- */
void plan_fuse(Plan *plan); /* includes the two below */
void plan_fuse_pointwise(Plan *plan);
void plan_bind_stores(Plan *plan);

/* Composes the pointwise op `producer` with `consumer` (pointwise or reduce), which reads it, into
 * one op `*fused` that computes the same bits: a bf16 output of the producer is rounded in its
 * register before the consumer reads it. Its outputs are those of the consumer followed by those of
 * the producer in the mask `kept`. False if the result exceeds the limits of a pointwise program.
 */
bool pointwise_compose(const Plan *plan, const Op *producer, const Op *consumer, unsigned kept,
                       Op *fused);

/* --- Scheduling of collectives (engine/planner/schedule_collectives.c) ------------------------ */
/* Drops ops that do not run and moves each all-reduce up to directly after the last op that
 * accesses its target; all-reduces keep their order. */
void plan_schedule_collectives(Plan *plan);
/* waits[i]: op i accesses the target of an all-reduce that was started before and not waited for
 * yet. */
void plan_collective_waits(const Plan *plan, bool *waits);

/* --- Rematerialisation (engine/planner/rematerialize.c) --------------------------------------- */
/* After plan_schedule_collectives: outputs of cheap forward ops that the backward pass reads are
 * recomputed there instead of kept in memory. Results are bit-identical. */
void plan_rematerialize(Plan *plan);

/* --- Alias views (engine/planner/alias_views.c) ----------------------------------------------- */
/* The last pass: replaces contiguous slices and concats by views of the same memory. */
void plan_alias_views(Plan *plan);

/* --- Memory (engine/planner/arena.c, engine/planner/liveness.c) ------------------------------- */
typedef struct Lifetime {
  int first, last; /* ops, both inclusive */
  size_t bytes;
  size_t offset; /* set by arena_assign_offsets: a multiple of MEMORY_ALIGNMENT */
} Lifetime;

/* The lifetimes of all values in the arena: `*out` is allocated; lifetime_of[value id] is an index
 * into it, or -1. Reshapes and parts share the lifetime of their root, which begins with its first
 * part; the output of a pointwise op may share that of an input that ends there. Returns their
 * number. */
int plan_lifetimes(const Plan *plan, Lifetime **out, int *lifetime_of);
/* Assigns offsets such that overlapping lifetimes have disjoint memory. Returns the bytes needed,
 * SIZE_MAX on overflow. */
size_t arena_assign_offsets(Lifetime *items, int count);

#endif
