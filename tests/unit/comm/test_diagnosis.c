/* Tests of heartbeat files and of the diagnosis that is made from them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/thread.h"
#include "comm/health/internal.h"
#include "tests/unit/comm/support_folder.h"
#include "tests/unit/comm/support_group.h"

/* --- Files ------------------------------------------------------------------------------------ */

static const HeartbeatRecord EXAMPLE = {.valid = true,
                                        .rank = 3,
                                        .world_size = 4,
                                        .pid = 4711,
                                        .run = "00c0ffee00c0ffee",
                                        .host = "node\"3",
                                        .waiting = "barrier",
                                        .phase = PHASE_REDUCE,
                                        .beat = 12,
                                        .step = 34,
                                        .operations_started = 56,
                                        .started = 1.7e9 + 0.125,
                                        .time = 1.7e9 + 60.25,
                                        .since = 2.5};

static void test_heartbeat_file_is_read_back(void **state) {
  (void)state;
  Error error = {0};
  must(heartbeat_file_write(folder, &EXAMPLE, &error), &error);
  HeartbeatRecord record = heartbeat_file_read(folder, 3, EXAMPLE.run);
  assert_true(record.valid);
  assert_int_equal(record.rank, 3);
  assert_int_equal(record.world_size, 4);
  assert_int_equal(record.pid, 4711);
  assert_string_equal(record.host, EXAMPLE.host);
  assert_string_equal(record.waiting, "barrier");
  assert_int_equal(record.phase, PHASE_REDUCE);
  assert_int_equal(record.beat, 12);
  assert_int_equal(record.step, 34);
  assert_int_equal(record.operations_started, 56);
  assert_true(record.started == EXAMPLE.started && record.time == EXAMPLE.time);
  assert_true(record.since == EXAMPLE.since);
  assert_false(file_exists("3.json.tmp"));
}

static void test_missing_foreign_and_damaged_files_are_not_valid(void **state) {
  (void)state;
  Error error = {0};
  must(heartbeat_file_write(folder, &EXAMPLE, &error), &error);
  assert_false(heartbeat_file_read(folder, 3, "00c0ffee00c0fff0").valid); /* an earlier run */
  assert_false(heartbeat_file_read(folder, 2, EXAMPLE.run).valid);        /* no file */
  static const char *const damaged[] = {"", "{", "[]", "{\"run\": \"00c0ffee00c0ffee\"}",
                                        "{\"run\": 5}"};
  for (size_t i = 0; i < sizeof damaged / sizeof *damaged; i++) {
    write_text("3.json", damaged[i]);
    assert_false(heartbeat_file_read(folder, 3, EXAMPLE.run).valid);
  }
  assert_int_equal(heartbeat_file_write("/nowhere/at/all", &EXAMPLE, &error), ERROR_IO);
  assert_non_null(strstr(error.message, "/nowhere/at/all/3.json.tmp"));
}

static void test_only_heartbeat_files_are_removed(void **state) {
  (void)state;
  Error error = {0};
  static const char *const ours[] = {"0.json", "4095.json", "12.json.tmp", "diagnosis-1.txt"};
  static const char *const others[] = {"notes.txt", "x1.json", ".json", "1.jsonl"};
  for (int i = 0; i < 4; i++) {
    write_text(ours[i], "{}");
    write_text(others[i], "{}");
  }
  must(heartbeat_files_remove(folder, &error), &error);
  for (int i = 0; i < 4; i++) {
    assert_false(file_exists(ours[i]));
    assert_true(file_exists(others[i]));
  }
}

/* --- The diagnosis ---------------------------------------------------------------------------- */

/* Four ranks, all alive and waiting in a barrier. */
static HeartbeatSnapshot new_snapshot(void) {
  HeartbeatSnapshot snapshot;
  heartbeat_snapshot_new(4, &snapshot);
  for (int i = 0; i < 4; i++) {
    HeartbeatRecord *record = &snapshot.records[i];
    *record = EXAMPLE;
    record->rank = i;
    record->time = clock_wall_seconds();
    record->pid = (int)getpid();
    assert_int_equal(gethostname(record->host, sizeof record->host - 1), 0);
    snapshot.first_beats[i] = record->beat - 1;
  }
  return snapshot;
}

static void check_report(HeartbeatSnapshot *snapshot, const char *const *expected) {
  Text report = {0};
  diagnose(snapshot,
           &(Timeout){.rank = 0, .deadline = 2, .folder = folder, .write_error = "no space"},
           &report);
  for (; *expected; expected++)
    if (!strstr(report.data, *expected)) fail_msg("no \"%s\" in:\n%s", *expected, report.data);
  text_free(&report);
  heartbeat_snapshot_free(snapshot);
}

static void test_diagnosis_names_the_rank_that_does_not_wait(void **state) {
  (void)state;
  HeartbeatSnapshot snapshot = new_snapshot();
  snapshot.records[2].phase = PHASE_DATA;
  snapshot.records[2].waiting[0] = '\0';
  snapshot.records[2].step = 33;
  check_report(&snapshot,
               (const char *const[]){"no progress: rank 0 of 4 has been in reduce (barrier) since ",
                                     "behind: rank 2 (host ", " in data since ", " s), step 33\n",
                                     "waiting in reduce (barrier), step 34: rank 0, 1, 3\n",
                                     "these heartbeats may be outdated: no space\n", NULL});
}

static void test_diagnosis_explains_silent_ranks(void **state) {
  (void)state;
  HeartbeatSnapshot snapshot = new_snapshot();
  pid_t gone = fork();
  if (gone == 0) _exit(0);
  waitpid(gone, NULL, 0);
  snapshot.first_beats[1] = snapshot.records[1].beat; /* no new heartbeat */
  snapshot.records[1].pid = gone;
  snapshot.first_beats[2] = snapshot.records[2].beat;
  strcpy(snapshot.records[2].host, "elsewhere");
  snapshot.records[3] = (HeartbeatRecord){.rank = 3};
  check_report(&snapshot, (const char *const[]){
                              "behind: rank 1 (host ", "its process is gone; last heartbeat",
                              "behind: rank 2 (host elsewhere, pid ",
                              "stopped, killed, or its node is gone or cut off",
                              "behind: rank 3: it has not started, or does not see this folder",
                              "waiting in reduce (barrier), step 34: rank 0\n", NULL});
}

/* A host's clock is an hour ahead: what is reported is a duration on that host, and never negative.
 */
static void test_diagnosis_survives_clocks_that_differ(void **state) {
  (void)state;
  HeartbeatSnapshot snapshot = new_snapshot();
  snapshot.records[3].time += 3600;
  snapshot.records[3].since = 30;
  snapshot.first_beats[3] = snapshot.records[3].beat;
  check_report(&snapshot,
               (const char *const[]){"last heartbeat 0 s ago, in reduce (barrier) since ",
                                     " (30 s), step 34", NULL});
  snapshot = new_snapshot();
  snapshot.records[2].time += 3600;
  snapshot.records[2].since = 20;
  snapshot.records[2].phase = PHASE_DATA;
  snapshot.records[2].waiting[0] = '\0';
  check_report(&snapshot, (const char *const[]){"behind: rank 2 (host ", " (20 s), step 34", NULL});
}

static void test_diagnosis_of_ranks_in_different_collectives(void **state) {
  (void)state;
  HeartbeatSnapshot snapshot = new_snapshot();
  strcpy(snapshot.records[1].waiting, "broadcast");
  check_report(&snapshot,
               (const char *const[]){"no rank is behind", "(barrier), step 34: rank 0, 2, 3",
                                     "(broadcast), step 34: rank 1", NULL});
}

static void test_diagnosis_names_a_stalled_communication_thread(void **state) {
  (void)state;
  HeartbeatSnapshot snapshot = new_snapshot();
  for (int i = 0; i < 3; i++) strcpy(snapshot.records[i].waiting, GRADIENT_ALL_REDUCE);
  snapshot.records[1].operations_started--;
  snapshot.records[2].operations_started++;
  check_report(&snapshot,
               (const char *const[]){"behind: rank 1 (host ",
                                     ": it has started 55 all-reduce operations, another rank 57; ",
                                     "(gradient all-reduce), step 34: rank 0, 2\n",
                                     "(barrier), step 34: rank 3\n", NULL});
  snapshot = new_snapshot();
  snapshot.records[3].operations_started--; /* waits in another collective */
  check_report(&snapshot, (const char *const[]){"no rank is behind", NULL});
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_heartbeat_file_is_read_back),
      cmocka_unit_test(test_missing_foreign_and_damaged_files_are_not_valid),
      cmocka_unit_test(test_only_heartbeat_files_are_removed),
      cmocka_unit_test(test_diagnosis_names_the_rank_that_does_not_wait),
      cmocka_unit_test(test_diagnosis_explains_silent_ranks),
      cmocka_unit_test(test_diagnosis_survives_clocks_that_differ),
      cmocka_unit_test(test_diagnosis_of_ranks_in_different_collectives),
      cmocka_unit_test(test_diagnosis_names_a_stalled_communication_thread),
  };
  return cmocka_run_group_tests_name("diagnosis", tests, make_folder, remove_folder);
}
