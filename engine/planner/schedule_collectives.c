/* The final order of the ops of a plan: all-reduces start as early and are waited for as late as
 * possible. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "engine/planner/plan.h"

/* The first position in `order` after all ops that an all-reduce of `range` must follow. Readers of
 * the range count, too: they must read the values from before. */
static int earliest_place(const Plan *plan, const int *order, int count, BufferRange range) {
  for (int i = count - 1; i >= 0; i--) {
    if (plan->ops[order[i]].kind == OP_ALL_REDUCE || plan_accesses(plan, order[i], range)) {
      return i + 1;
    }
  }
  return 0;
}

void plan_schedule_collectives(Plan *plan) {
  int *order = mem_new((size_t)plan->op_count, sizeof *order);
  int count = 0;
  for (int i = 0; i < plan->op_count; i++) {
    const Op *op = &plan->ops[i];
    if (!plan->live[i] || !op_runs(op)) continue;
    int place = count;
    if (op->kind == OP_ALL_REDUCE) {
      place = earliest_place(plan, order, count, plan_buffer_range(plan, op->inputs[0]));
    }
    memmove(&order[place + 1], &order[place], (size_t)(count - place) * sizeof *order);
    order[place] = i;
    count++;
  }
  plan_reorder(plan, order, count);
  free(order);
}

void plan_collective_waits(const Plan *plan, bool *waits) {
  BufferRange *pending = mem_new((size_t)plan->op_count, sizeof *pending);
  int count = 0;
  for (int i = 0; i < plan->op_count; i++) {
    waits[i] = false;
    for (int j = 0; j < count && !waits[i]; j++) waits[i] = plan_accesses(plan, i, pending[j]);
    if (waits[i]) count = 0; /* a wait covers all started all-reduces */
    if (plan->ops[i].kind == OP_ALL_REDUCE) {
      pending[count++] = plan_buffer_range(plan, plan->ops[i].inputs[0]);
    }
  }
  free(pending);
}
