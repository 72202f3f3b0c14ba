/* Shared by the heartbeat's files: what a rank says of itself, and how the others' words are
 * judged. */
#ifndef CELFORGE_COMM_HEARTBEAT_INTERNAL_H
#define CELFORGE_COMM_HEARTBEAT_INTERNAL_H

#include <stdatomic.h>

#include "base/text.h"
#include "comm/internal.h"

enum { HOST_SIZE = 256, WAITING_SIZE = 64, RUN_SIZE = 17 };

/* --- record.c: FOLDER/RANK.json ------------------------------------------------------------------
 */

typedef struct Record {
  bool valid; /* there, readable and of this run */
  int rank, world_size, pid;
  char run[RUN_SIZE]; /* differs from start to start */
  char host[HOST_SIZE];
  char waiting[WAITING_SIZE]; /* the collective; "" where the rank does not wait */
  Phase phase;
  int64_t beat, step;
  double started, time; /* since the epoch */
  double since;         /* seconds in the phase, at `time` */
} Record;

char *record_path(const char *folder, int rank); /* caller frees */
/* Whole or absent, but not synced: after a power cut nobody is left to be watched. */
Status record_write(const char *folder, const Record *record, Error *error);
/* Not valid where there is no file, or not one of `run`. */
Record record_read(const char *folder, int rank, const char *run);
/* Removes every rank's record and every diagnosis of earlier runs. */
Status record_clear(const char *folder, Error *error);

/* --- diagnosis.c ---------------------------------------------------------------------------------
 */

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

#endif
