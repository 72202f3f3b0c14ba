/* A graph on its way to being a program: its ops and values, the rewrites that fusion makes, and
 * the questions about order and memory that keep them right. For engine/program/program.c and the
 * passes (liveness, fusion, schedule, recompute, arena), not for users of the engine.
 *
 * Ops stand in slots in program order. A pass may remove an op, move one to a free slot, and change
 * what an op reads or makes; a value's producer always stands before its users. At the end
 * plan_reorder leaves only the ops that run. */
#ifndef CELFORGE_ENGINE_PLANNER_PLAN_H
#define CELFORGE_ENGINE_PLANNER_PLAN_H

#include "engine/graph/internal.h"

typedef struct PlanValue {
  Shape shape;
  DType dtype;
  int producer; /* slot of the op that makes it; -1: none that runs */
  int root; /* the value whose memory it lies in: itself, what a chain of reshapes begins with, or
               a whole that it is a part of */
  Buffer *buffer; /* what it lies in (views, values bound to one); NULL: the arena */
  int64_t offset; /* in the buffer, or in the root's memory; elements */
  int use_count, use_capacity;
  int *uses; /* slots of the ops that read it, once per place */
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
/* Sets an input, which may lie behind those the op has so far. */
void plan_set_input(Plan *plan, int op, int place, Value value);
void plan_set_inputs(Plan *plan, int op, const Value *inputs, int count);
/* From now on `op` makes `value`; what it made in that place before is made by nobody. */
void plan_set_output(Plan *plan, int op, int place, Value value);
/* The op that alone reads `value` (in however many places); -1: none, or several. */
int plan_sole_user(const Plan *plan, Value value);
/* Replaces the slots by `order[0..count)`, and drops the others. */
void plan_reorder(Plan *plan, const int *order, int count);

/* --- Liveness and hazards (engine/planner/liveness.c)
 * ------------------------------------------------- */
/* Removes what reaches no buffer. Returns how many ops that run are left. */
int plan_remove_dead(Plan *plan);
/* True for ops that do something when the program runs: all but views and reshapes. */
bool op_runs(const Op *op);

typedef struct BufferRange {
  const Buffer *buffer; /* NULL: no buffer, overlaps nothing */
  int64_t begin, end;   /* elements */
} BufferRange;
BufferRange plan_buffer_range(const Plan *plan, Value value);
bool plan_accesses(const Plan *plan, int op, BufferRange range); /* reads or writes */
/* True when no op in a slot strictly between writes what `value` lies in. */
bool plan_unchanged_between(const Plan *plan, Value value, int slot_a, int slot_b);
/* The same for all inputs of the op in slot `op`, which may then run in slot `to` as well. */
bool plan_inputs_unchanged_between(const Plan *plan, int op, int to);

/* --- Fusion (engine/planner/fuse.c, engine/planner/fuse_pointwise.c)
 * -------------------------------------- */
void plan_fuse(Plan *plan);
void plan_fuse_pointwise(Plan *plan);

/* One op doing the work of pointwise `producer` and then of `consumer` (pointwise or reduce), which
 * reads it: made in `*fused`, whose outputs are the consumer's followed by those of the producer
 * marked in the mask `kept`. False when it does not fit the limits of a pointwise program. */
bool pointwise_compose(const Op *producer, const Op *consumer, unsigned kept, Op *fused);

/* --- Order of collectives (engine/planner/schedule_collectives.c)
 * ------------------------------------------------- */
/* Drops all that does not run, and moves each all-reduce up to right behind the last op that
 * touches its target; all-reduces keep their order. */
void plan_schedule_collectives(Plan *plan);
/* waits[i]: op i touches what an all-reduce started before it (and not yet waited for) works on. */
void plan_collective_waits(const Plan *plan, bool *waits);

/* --- Memory for time (engine/planner/rematerialize.c)
 * ----------------------------------------------------- */
/* Behind plan_schedule_collectives: what the backward pass reads of cheap ops of the forward pass is made again
 * there instead of being kept. The numbers stay the same. */
void plan_rematerialize(Plan *plan);

/* --- Parts (engine/planner/alias_views.c)
 * --------------------------------------------------------------- */
/* At the end: drops slices and concatenations that are places in memory. */
void plan_alias_views(Plan *plan);

/* --- Memory (engine/planner/arena.c, engine/planner/liveness.c)
 * ----------------------------------------------- */
typedef struct Lifetime {
  int first, last; /* ops, both included */
  size_t bytes;
  size_t offset; /* found by arena_assign_offsets: a multiple of MEMORY_ALIGNMENT */
} Lifetime;

/* The lifetimes of all values in the arena: `*out` is allocated; lifetime_of[value id] is an index
 * into it, or -1. Reshapes and parts share their root's, which begins with the first part that is
 * made; the output of a pointwise op may share that of an input that ends there. Returns their
 * number. */
int plan_lifetimes(const Plan *plan, Lifetime **out, int *lifetime_of);
/* Gives lifetimes that overlap places that do not; returns the bytes needed, SIZE_MAX where they
 * cannot be counted. */
size_t arena_assign_offsets(Lifetime *items, int count);

#endif
