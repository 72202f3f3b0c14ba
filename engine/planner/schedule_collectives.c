/* The order of a plan's ops at the end: collectives start as early as they may, and are waited for
 * as late as they may. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "engine/planner/plan.h"

/* The place in `order` behind everything an all-reduce of `range` must follow. Ops that read the
 * range count as well: they are to see the numbers from before. */
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
    if (waits[i]) count = 0; /* a wait is for all that were started */
    if (plan->ops[i].kind == OP_ALL_REDUCE) {
      pending[count++] = plan_buffer_range(plan, plan->ops[i].inputs[0]);
    }
  }
  free(pending);
}
