#include "comm/presence/presence.h"

#include <stddef.h>

#include "base/thread.h"

enum { PHASE_BITS = 3, PHASE_MASK = (1 << PHASE_BITS) - 1 };

_Static_assert(PHASE_COUNT <= PHASE_MASK + 1, "a phase fits into PHASE_BITS");

static uint64_t now_ns(void) {
  return (uint64_t)(clock_seconds() * 1e9);
}

const char *phase_name(Phase phase) {
  static const char *const names[PHASE_COUNT] = {"start",      "data",       "step", "reduce",
                                                 "evaluation", "checkpoint", "end"};
  return names[phase];
}

void presence_set_phase(Presence *presence, Phase phase, int64_t step) {
  atomic_store(&presence->step, step);
  atomic_store(&presence->phase, now_ns() << PHASE_BITS | (uint64_t)phase);
}

void presence_wait_begin(Presence *presence, const char *name) {
  atomic_store(&presence->waiting_name, name);
  atomic_store(&presence->wait_start, now_ns());
}

void presence_wait_end(Presence *presence) {
  uint64_t phase = atomic_load(&presence->phase) & PHASE_MASK;
  atomic_store(&presence->phase, now_ns() << PHASE_BITS | phase);
  atomic_store(&presence->wait_start, 0);
}

Location presence_location(const Presence *presence) {
  /* In this order: the end of a wait restarts the phase's clock before it clears wait_start. */
  uint64_t wait_start = atomic_load(&presence->wait_start);
  uint64_t packed = atomic_load(&presence->phase);
  Location location = {(Phase)(packed & PHASE_MASK), (double)(packed >> PHASE_BITS) * 1e-9, NULL};
  if (wait_start == 0) return location;
  location.waiting = atomic_load(&presence->waiting_name);
  location.since = (double)wait_start * 1e-9;
  if (location.phase == PHASE_DATA || location.phase == PHASE_STEP) location.phase = PHASE_REDUCE;
  return location;
}

/* Leaves alone what the main thread changes meanwhile: its clock has just been restarted. */
void presence_restart_clocks(Presence *presence) {
  uint64_t packed = atomic_load(&presence->phase), now = now_ns();
  atomic_compare_exchange_strong(&presence->phase, &packed,
                                 now << PHASE_BITS | (packed & PHASE_MASK));
  uint64_t wait_start = atomic_load(&presence->wait_start);
  if (wait_start != 0) atomic_compare_exchange_strong(&presence->wait_start, &wait_start, now);
}
