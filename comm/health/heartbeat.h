/* Signs of life, and what happens when a run stands still.
 *
 * A thread of every rank writes FOLDER/RANK.json every `every` seconds: run, rank, world_size,
 * host, pid, started, beat, time, phase, since (seconds in the phase), step, begun (parts of means
 * over the ranks), waiting (the collective that this rank waits in, or null). The main thread says
 * what it is about to do with heartbeat_phase; comm says by itself when it waits for other ranks:
 * PHASE_DATA and PHASE_STEP then read as PHASE_REDUCE, and the phase's clock starts anew when the
 * wait is over.
 *
 * A rank that stays in one phase past its deadline (or waits in a collective past the deadlines of
 * both its own phase and of those that ranks not waiting are in, so that rank 0 may write a
 * checkpoint alone) reads all heartbeats and reports which ranks are behind, host, pid, phase,
 * since when, and step: those without a beat (stopped, killed, node gone), else those that do not
 * wait while others do, else, where all wait, those that wait for a mean and have begun the least
 * of it. The report goes to the log once, from the lowest rank that is alive wherever the ranks
 * notice within half a second of each other, and to FOLDER/diagnosis-RUN.txt, at whose sight the
 * other ranks leave too. Every rank leaves by comm_abort with ERROR_INTERNAL: at most two beats and
 * about ten seconds after the deadline, whatever its main thread hangs in. Where the file system
 * hangs as well, a second thread that touches no file says so and leaves.
 *
 * Each rank watches the next one's beats: three of them missing, and at least 10 seconds, is worth
 * a warning. A process that was itself stopped and goes on (a suspended job) starts its clocks
 * anew. */
#ifndef CELFORGE_COMM_HEALTH_HEARTBEAT_H
#define CELFORGE_COMM_HEALTH_HEARTBEAT_H

#include "comm/comm.h"

typedef struct Heartbeat Heartbeat;

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

typedef struct HeartbeatOptions {
  const char *folder; /* "runs/NAME/ranks", seen by every rank; made where it is missing */
  double every;       /* seconds between two beats; > 0 */
  double deadline[PHASE_COUNT]; /* seconds; > 0, INFINITY: none */
} HeartbeatOptions;

/* Called by all ranks together, once, while nothing is pending, by the only run that uses the
 * folder: rank 0 removes what an earlier life left in it. Starts in PHASE_START at step 0. The
 * group owns the heartbeat: comm_close stops it, last of all. The same error on every rank. */
Status heartbeat_start(Comm *comm, const HeartbeatOptions *options, Heartbeat **out, Error *error);

/* From now on the main thread is in `phase` of step `step`. Two atomic stores and a clock, so it
 * can be called as often as wanted; a repeated call restarts the phase's clock. NULL is allowed. */
void heartbeat_phase(Heartbeat *heartbeat, Phase phase, int64_t step);

/* "data". */
const char *phase_name(Phase phase);

#endif
