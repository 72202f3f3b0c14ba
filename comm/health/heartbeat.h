/* Heartbeats of the ranks, and the watchdog that ends a run without progress.
 *
 * A thread of every rank writes FOLDER/RANK.json every `every` seconds: run, rank, world_size,
 * host, pid, started, beat, time, phase, since (seconds in the phase), step, operations_started
 * (MPI operations of gradient all-reduces), waiting (the collective in which the rank waits, or
 * null). The main thread announces its phases with heartbeat_set_phase; comm records its waits for
 * other ranks: PHASE_DATA and PHASE_STEP then read as PHASE_REDUCE, and the phase's clock restarts
 * when the wait is over.
 *
 * A rank expires when it stays in one phase past its deadline. A rank that waits in a collective
 * expires past its own deadline and past those of the phases of all ranks that do not wait, so that
 * rank 0 may write a checkpoint alone. An expired rank reads all heartbeats and reports which ranks
 * are behind, with host, pid, phase, since when, and step: the ranks without a new heartbeat
 * (stopped, killed, node gone); else those that do not wait while others do; else, if all wait,
 * those that wait for the gradient all-reduce and have started the fewest of its operations. The
 * report is logged once (by the lowest rank that is alive, if the ranks expire within half a second
 * of each other) and written to FOLDER/diagnosis-RUN.txt; the other ranks exit when they see that
 * file. Every rank exits through comm_abort with ERROR_INTERNAL, at most two heartbeats and about
 * ten seconds after the deadline, wherever its main thread hangs. If the file system hangs as well,
 * a second thread that touches no file logs that and exits.
 *
 * Each rank watches the next one's heartbeats and warns if three of them, and at least 10 seconds,
 * are missing. A process that was suspended and resumes restarts its clocks. */
#ifndef CELFORGE_COMM_HEALTH_HEARTBEAT_H
#define CELFORGE_COMM_HEALTH_HEARTBEAT_H

#include "comm/comm.h"
#include "comm/presence/presence.h"

typedef struct Heartbeat Heartbeat;

typedef struct HeartbeatOptions {
  const char *folder;           /* "runs/NAME/ranks", visible to every rank; created if missing */
  double every;                 /* seconds between two heartbeats; > 0 */
  double deadline[PHASE_COUNT]; /* seconds; > 0, INFINITY: none */
} HeartbeatOptions;

/* Starts the heartbeat in PHASE_START at step 0. Called once by all ranks together, with no
 * all-reduce pending, by the only run that uses the folder: rank 0 removes the files of earlier
 * runs. The group owns the heartbeat: comm_close stops it last. All ranks return the same status.
 */
Status heartbeat_start(Comm *comm, const HeartbeatOptions *options, Heartbeat **out, Error *error);

/* Announces that the main thread enters `phase` of `step`, and restarts the phase's clock. Costs
 * two atomic stores and a clock. NULL is allowed. */
void heartbeat_set_phase(Heartbeat *heartbeat, Phase phase, int64_t step);

#endif
