/* Shared by the heartbeat's files: what a rank says of itself, and how the others' words are
 * judged. */
#ifndef CELFORGE_COMM_HEALTH_INTERNAL_H
#define CELFORGE_COMM_HEALTH_INTERNAL_H

#include <stdatomic.h>

#include "base/text.h"
#include "comm/internal.h"

enum { HOST_SIZE = 256, WAITING_SIZE = 64, RUN_SIZE = 17 };

/* --- record.c: FOLDER/RANK.json --------------------------------------------------------------- */

typedef struct Record {
  bool valid; /* there, readable and of this run */
  int rank, world_size, pid;
  char run[RUN_SIZE]; /* differs from start to start */
  char host[HOST_SIZE];
  char waiting[WAITING_SIZE]; /* the collective; "" where the rank does not wait */
  Phase phase;
  int64_t beat, step;
  int64_t begun;        /* parts of means over the ranks (Comm) */
  double started, time; /* since the epoch */
  double since;         /* seconds in the phase, at `time` */
} Record;

/* Whole or absent, but not synced: after a power cut nobody is left to be watched. */
Status record_write(const char *folder, const Record *record, Error *error);
/* Not valid where there is no file, or not one of `run`. */
Record record_read(const char *folder, int rank, const char *run);
/* Removes every rank's record and every diagnosis of earlier runs. */
Status record_clear(const char *folder, Error *error);

/* --- diagnosis.c ------------------------------------------------------------------------------ */

/* All ranks' records and, of an earlier look at them, the beats. */
typedef struct Look {
  int size;
  double at;       /* clock_seconds of the earlier look; 0: there was none */
  int64_t *beats;  /* [size]; -1: no valid record */
  Record *records; /* [size], of the last look */
} Look;

typedef struct Expiry {
  int rank;
  double deadline; /* what was overstepped */
  const char *folder;
  const char *trouble; /* why this rank cannot write into the folder; NULL where it can */
} Expiry;

void look_new(int size, Look *look);
void look_free(Look *look);
void look_first(Look *look, const char *folder, const char *run);
void look_second(Look *look, const char *folder, const char *run);
bool record_waits(const Record *record);
/* After both looks: the rank has beaten between them. */
bool look_is_alive(const Look *look, int rank);
/* Lines, each with its newline: what has expired, which ranks are behind, what the others do. */
void diagnose(const Look *look, const Expiry *expiry, Text *report);
/* What is known of a rank that gives no sign of life: "stopped by a signal" and the like. */
const char *explain_silence(const Record *record, const char *own_host);
/* "rank 2 (host node3, pid 4711)". */
void append_rank(const Record *record, Text *text);
/* "in data since 12:03:11 (600 s), step 1234". */
void append_place(const Record *record, double now, Text *text);

/* --- heartbeat.c ------------------------------------------------------------------------------ */

#define HEARTBEAT_NAP 0.25 /* seconds between two looks at the main thread's phase */

/* What one beat of another rank told, and when. */
typedef struct Seen {
  int64_t beat;
  double at; /* clock_seconds; 0: never looked */
  bool warned;
} Seen;

struct Heartbeat {
  Comm *comm;
  int rank, size;
  double every, deadlines[PHASE_COUNT];
  char *folder, *diagnosis; /* paths */
  Record self;              /* what does not change; the rest is filled in for each beat */

  /* The main thread's word, and the forgiving of a pause. */
  _Atomic uint64_t phase; /* nanoseconds of clock_seconds at its begin << 3 | Phase */
  _Atomic int64_t step;
  _Atomic uint64_t waiting_since; /* nanoseconds; 0: not waiting */
  _Atomic(const char *) waiting;

  /* The beating thread's own. */
  pthread_t beating;
  _Atomic uint64_t ticked;            /* nanoseconds: when it last went round */
  _Atomic bool expired;               /* it is about to report and to leave */
  Seen *seen;                         /* [size] */
  Look look;                          /* of the place that began at `looked_since` */
  double looked_since, excused_until; /* clock_seconds */
  Error trouble;                      /* of the last write into the folder */

  pthread_t guarding;
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  bool over;
};

/* Where the main thread is. */
typedef struct Place {
  Phase phase;
  double since;        /* clock_seconds */
  const char *waiting; /* the collective or NULL */
} Place;

Place heartbeat_place(Heartbeat *heartbeat);
/* This rank's record, as of now. The beating thread's. */
void heartbeat_write(Heartbeat *heartbeat);

/* --- watchdog.c ------------------------------------------------------------------------------- */

/* The beating thread's, at every beat: warns of the next rank, and beyond it while that is silent.
 */
void watchdog_check_next(Heartbeat *heartbeat);
/* The beating thread's, at every beat: does not return where another rank has reported. */
void watchdog_leave_if_diagnosed(Heartbeat *heartbeat);
/* The beating thread's, at every nap: past the deadline reports and does not return. */
void watchdog_check_deadline(Heartbeat *heartbeat);
/* The guarding thread's: past the deadline, where the beating thread hangs, does not return. */
void watchdog_check_beating(Heartbeat *heartbeat);

#endif
