/* Reads any bytes as the heartbeat of another rank, and lets a rank whose deadline has passed
 * report on it: the report is printable text of bounded length. */
#include <string.h>

#include "comm/health/internal.h"
#include "tests/fuzz/support/fuzz.h"

enum { RANKS = 3, MAX_REPORT = 1 << 14 };
static const char RUN[] = "0123456789abcdef";

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed) {
  static const char *const WORDS[] = {
      "\"0123456789abcdef\"",    "\"start\"",         "\"data\"", "\"reduce\"", "\"checkpoint\"",
      "\"gradient all-reduce\"", "\"waiting\":\"x\"", "1e300",    "-1e300",     NULL};
  Dice dice = dice_new(seed);
  return mutate_json(data, size, room, WORDS, &dice);
}

static bool is_terminated(const HeartbeatRecord *record) {
  return memchr(record->run, 0, sizeof record->run) &&
         memchr(record->host, 0, sizeof record->host) &&
         memchr(record->waiting, 0, sizeof record->waiting);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const Timeout timeout = {.rank = 1, .deadline = 60, .folder = "ranks"};
  HeartbeatSnapshot snapshot;
  Text report = {0};
  memory_files_set(data, size);
  HeartbeatRecord record = heartbeat_file_read(MEMORY_FILES "ranks", 0, RUN);
  require(is_terminated(&record));
  if (!record.valid) return 0;
  require(record.phase < PHASE_COUNT && record.pid > 0 && record.rank == 0);
  heartbeat_snapshot_new(RANKS, &snapshot);
  heartbeat_snapshot_read_first(&snapshot, MEMORY_FILES "ranks", RUN);
  heartbeat_snapshot_read_second(&snapshot, MEMORY_FILES "ranks", RUN);
  snapshot.first_beats[2]--; /* that rank is alive */
  diagnose(&snapshot, &timeout, &report);
  require(report.length > 0 && report.length < MAX_REPORT);
  text_free(&report);
  heartbeat_snapshot_free(&snapshot);
  return 0;
}
