/* The state of a rank's main thread: its phase, its step, and the collective in which it waits for
 * other ranks. The main thread writes it; the heartbeat threads read it. All functions are
 * lock-free and may be called from any thread. */
#ifndef CELFORGE_COMM_PRESENCE_PRESENCE_H
#define CELFORGE_COMM_PRESENCE_PRESENCE_H

#include <stdatomic.h>
#include <stdint.h>

typedef enum Phase {
  PHASE_START,      /* planning, tuning, resuming */
  PHASE_DATA,       /* waiting for a batch */
  PHASE_STEP,       /* computing */
  PHASE_REDUCE,     /* waiting for other ranks */
  PHASE_EVALUATION, /* sample sheets */
  PHASE_CHECKPOINT,
  PHASE_END, /* closing down */
  PHASE_COUNT
} Phase;

/* Zero-initialised: PHASE_START, step 0, not waiting. */
typedef struct Presence {
  _Atomic uint64_t phase; /* nanoseconds of clock_seconds at its start << 3 | Phase */
  _Atomic int64_t step;
  _Atomic uint64_t wait_start;        /* nanoseconds; 0: not waiting */
  _Atomic(const char *) waiting_name; /* the collective, as of the last presence_wait_begin */
} Presence;

typedef struct Location {
  Phase phase;
  double since;        /* clock_seconds */
  const char *waiting; /* the collective, or NULL */
} Location;

/* "data". */
const char *phase_name(Phase phase);

/* Enters `phase` of `step` and restarts the phase's clock. */
void presence_set_phase(Presence *presence, Phase phase, int64_t step);
/* Called before every wait for other ranks, and again when the wait has made progress. `name` (of
 * the collective) must stay valid. */
void presence_wait_begin(Presence *presence, const char *name);
/* Also restarts the phase's clock. */
void presence_wait_end(Presence *presence);
/* PHASE_DATA and PHASE_STEP read as PHASE_REDUCE during a wait. */
Location presence_location(const Presence *presence);
/* Restarts the clocks of the phase and of the wait: the process was suspended. */
void presence_restart_clocks(Presence *presence);

#endif
