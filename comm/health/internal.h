/* Shared by the files of comm/health/. */
#ifndef CELFORGE_COMM_HEALTH_INTERNAL_H
#define CELFORGE_COMM_HEALTH_INTERNAL_H

#include <stdatomic.h>

#include "base/host.h"
#include "base/text.h"
#include "comm/health/heartbeat.h"
#include "comm/internal.h"

enum { WAITING_SIZE = 64, RUN_SIZE = 17 };

/* --- heartbeat_file.c: FOLDER/RANK.json ------------------------------------------------------- */

typedef struct HeartbeatRecord {
  bool valid; /* the file exists, is readable and belongs to this run */
  int rank, world_size, pid;
  char run[RUN_SIZE]; /* identifies one start of a run: 16 hexadecimal digits */
  char host[HOST_NAME_SIZE];
  char waiting[WAITING_SIZE]; /* the collective; "" if the rank does not wait */
  Phase phase;
  int64_t beat, step;
  int64_t operations_started; /* as in Comm */
  double started, time;       /* seconds since the epoch */
  double since;               /* seconds in the phase, at `time` */
} HeartbeatRecord;

/* Replaces the file atomically. It is not synced to disk: after a power cut no rank is left to read
 * it. */
Status heartbeat_file_write(const char *folder, const HeartbeatRecord *record, Error *error);
/* The record is not valid if the file is missing, damaged or of another run. */
HeartbeatRecord heartbeat_file_read(const char *folder, int rank, const char *run);
/* Removes the heartbeats and diagnoses of earlier runs. */
Status heartbeat_files_remove(const char *folder, Error *error);

/* Updates heartbeat->self and writes it. Warns once if that fails. Called by the heartbeat thread.
 */
void heartbeat_write(Heartbeat *heartbeat);

/* --- diagnosis.c ------------------------------------------------------------------------------ */

/* All ranks' heartbeats, and the beat counts of an earlier reading: a rank is alive if its count
 * has changed between the two. */
typedef struct HeartbeatSnapshot {
  int size;
  double first_read_at;     /* clock_seconds of the earlier reading; 0: there was none */
  int64_t *first_beats;     /* [size]; -1: no valid record */
  HeartbeatRecord *records; /* [size], of the later reading */
} HeartbeatSnapshot;

/* The deadline that a rank has exceeded. */
typedef struct Timeout {
  int rank;
  double deadline; /* seconds */
  const char *folder;
  const char *write_error; /* why this rank cannot write into the folder, or NULL */
} Timeout;

void heartbeat_snapshot_new(int size, HeartbeatSnapshot *snapshot);
void heartbeat_snapshot_free(HeartbeatSnapshot *snapshot);
void heartbeat_snapshot_read_first(HeartbeatSnapshot *snapshot, const char *folder,
                                   const char *run);
void heartbeat_snapshot_read_second(HeartbeatSnapshot *snapshot, const char *folder,
                                    const char *run);
bool record_is_waiting(const HeartbeatRecord *record);
/* Valid after both readings. */
bool heartbeat_snapshot_is_alive(const HeartbeatSnapshot *snapshot, int rank);
/* Appends lines, each with its newline: what has timed out, which ranks are behind, what the others
 * do. */
void diagnose(const HeartbeatSnapshot *snapshot, const Timeout *timeout, Text *report);
/* Why a rank may have stopped writing heartbeats: "its process is stopped by a signal", ... */
const char *explain_silence(const HeartbeatRecord *record, const char *own_host);
/* "rank 2 (host node3, pid 4711)". */
void append_rank(const HeartbeatRecord *record, Text *text);
/* "in data since 12:03:11 (600 s), step 1234". */
void append_location(const HeartbeatRecord *record, double now, Text *text);

/* --- heartbeat.c ------------------------------------------------------------------------------ */

#define POLL_SECONDS 0.25 /* between two checks of the main thread's phase */

/* The last heartbeat seen of another rank. */
typedef struct PeerState {
  int64_t beat;
  double seen_at; /* clock_seconds; 0: never read */
  bool warned;
} PeerState;

struct Heartbeat {
  Comm *comm;
  int rank, size;
  double every, deadlines[PHASE_COUNT];
  char *folder, *diagnosis_path;
  HeartbeatRecord self; /* constant fields; the others are filled in for each heartbeat */

  /* Used by the heartbeat thread only, except for the atomic fields. */
  pthread_t heartbeat_thread;
  _Atomic uint64_t last_iteration;      /* nanoseconds of clock_seconds */
  _Atomic bool expired;                 /* this rank is about to report and to exit */
  PeerState *peers;                     /* [size] */
  HeartbeatSnapshot snapshot;           /* for the location that began at `checked_since` */
  double checked_since, extended_until; /* clock_seconds */
  Error write_error;                    /* of the last write into the folder */

  pthread_t guard_thread;
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  bool stopping;
};

/* --- watchdog.c ------------------------------------------------------------------------------- */

/* Called by the heartbeat thread after every heartbeat: warns if the next rank is silent, and then
 * checks the one after it. */
void watchdog_check_peers(Heartbeat *heartbeat);
/* Called by the heartbeat thread after every heartbeat: exits if another rank has written a
 * diagnosis. */
void watchdog_exit_if_diagnosed(Heartbeat *heartbeat);
/* Called by the heartbeat thread every POLL_SECONDS: past the deadline reports and exits. */
void watchdog_check_deadline(Heartbeat *heartbeat);
/* Called by the guard thread: exits if the deadline has passed and the heartbeat thread hangs. */
void watchdog_check_heartbeat_thread(Heartbeat *heartbeat);

#endif
