/* Signs of life and the watchdog: as a unit test with one rank; with arguments SCENARIO FOLDER RANK
 * it plays a rank of a run that stands still (tests/distributed/test_heartbeat.sh). */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <mpi.h>

#include "base/files.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "comm/health/internal.h"
#include "tests/unit/comm/support_group.h"

static char folder[256] = "/tmp/celforge-heartbeat-XXXXXX";

static HeartbeatOptions options_of(const char *where, double deadline) {
  HeartbeatOptions options = {.folder = where, .every = 0.1};
  for (int i = 0; i < PHASE_COUNT; i++) options.deadline[i] = deadline;
  return options;
}

static void write_text(const char *name, const char *text) {
  Error error = {0};
  char *path = path_join(folder, name);
  must(atomic_file_replace(path, text, strlen(text), &error), &error);
  free(path);
}

static bool is_there(const char *name) {
  char *path = path_join(folder, name);
  bool there = path_exists(path);
  free(path);
  return there;
}

/* --- Records ---------------------------------------------------------------------------------- */

static const Record EXAMPLE = {.valid = true,
                               .rank = 3,
                               .world_size = 4,
                               .pid = 4711,
                               .run = "00c0ffee00c0ffee",
                               .host = "node\"3",
                               .waiting = "barrier",
                               .phase = PHASE_REDUCE,
                               .beat = 12,
                               .step = 34,
                               .begun = 56,
                               .started = 1.7e9 + 0.125,
                               .time = 1.7e9 + 60.25,
                               .since = 2.5};

static void test_record_is_read_back(void **state) {
  (void)state;
  Error error = {0};
  must(record_write(folder, &EXAMPLE, &error), &error);
  Record record = record_read(folder, 3, EXAMPLE.run);
  assert_true(record.valid);
  assert_int_equal(record.rank, 3);
  assert_int_equal(record.world_size, 4);
  assert_int_equal(record.pid, 4711);
  assert_string_equal(record.host, EXAMPLE.host);
  assert_string_equal(record.waiting, "barrier");
  assert_int_equal(record.phase, PHASE_REDUCE);
  assert_int_equal(record.beat, 12);
  assert_int_equal(record.step, 34);
  assert_int_equal(record.begun, 56);
  assert_true(record.started == EXAMPLE.started && record.time == EXAMPLE.time);
  assert_true(record.since == EXAMPLE.since);
  assert_false(is_there("3.json.tmp"));
}

static void test_records_that_are_none(void **state) {
  (void)state;
  Error error = {0};
  must(record_write(folder, &EXAMPLE, &error), &error);
  assert_false(record_read(folder, 3, "00c0ffee00c0fff0").valid); /* an earlier life */
  assert_false(record_read(folder, 2, EXAMPLE.run).valid);        /* none */
  static const char *const damaged[] = {"", "{", "[]", "{\"run\": \"00c0ffee00c0ffee\"}",
                                        "{\"run\": 5}"};
  for (size_t i = 0; i < sizeof damaged / sizeof *damaged; i++) {
    write_text("3.json", damaged[i]);
    assert_false(record_read(folder, 3, EXAMPLE.run).valid);
  }
  assert_int_equal(record_write("/nowhere/at/all", &EXAMPLE, &error), ERROR_IO);
  assert_non_null(strstr(error.message, "/nowhere/at/all/3.json.tmp"));
}

static void test_clear_removes_what_is_ours(void **state) {
  (void)state;
  Error error = {0};
  static const char *const ours[] = {"0.json", "4095.json", "12.json.tmp", "diagnosis-1.txt"};
  static const char *const others[] = {"notes.txt", "x1.json", ".json", "1.jsonl"};
  for (int i = 0; i < 4; i++) {
    write_text(ours[i], "{}");
    write_text(others[i], "{}");
  }
  must(record_clear(folder, &error), &error);
  for (int i = 0; i < 4; i++) {
    assert_false(is_there(ours[i]));
    assert_true(is_there(others[i]));
  }
}

/* --- The diagnosis ---------------------------------------------------------------------------- */

/* Four ranks that have beaten since the first look, all in reduce. */
static Look new_look(void) {
  Look look;
  look_new(4, &look);
  for (int i = 0; i < 4; i++) {
    Record *record = &look.records[i];
    *record = EXAMPLE;
    record->rank = i;
    record->time = clock_wall_seconds();
    record->pid = (int)getpid();
    assert_int_equal(gethostname(record->host, sizeof record->host - 1), 0);
    look.beats[i] = record->beat - 1;
  }
  return look;
}

static void must_report(Look *look, const char *const *wanted) {
  Text report = {0};
  diagnose(look, &(Expiry){.rank = 0, .deadline = 2, .folder = folder, .trouble = "no space"},
           &report);
  for (; *wanted; wanted++)
    if (!strstr(report.data, *wanted)) fail_msg("no \"%s\" in:\n%s", *wanted, report.data);
  text_free(&report);
  look_free(look);
}

static void test_diagnosis_of_a_busy_rank(void **state) {
  (void)state;
  Look look = new_look();
  look.records[2].phase = PHASE_DATA;
  look.records[2].waiting[0] = '\0';
  look.records[2].step = 33;
  must_report(&look,
              (const char *const[]){"no progress: rank 0 of 4 is in reduce (barrier) since ",
                                    "behind: rank 2 (host ", " in data since ", " s), step 33\n",
                                    "waiting in reduce (barrier), step 34: rank 0, 1, 3\n",
                                    "lives: no space\n", NULL});
}

static void test_diagnosis_of_silent_ranks(void **state) {
  (void)state;
  Look look = new_look();
  pid_t gone = fork();
  if (gone == 0) _exit(0);
  waitpid(gone, NULL, 0);
  look.beats[1] = look.records[1].beat; /* has not beaten again */
  look.records[1].pid = gone;
  look.beats[2] = look.records[2].beat;
  strcpy(look.records[2].host, "elsewhere");
  look.records[3] = (Record){.rank = 3};
  must_report(&look,
              (const char *const[]){"behind: rank 1 (host ", "its process is gone; last sign",
                                    "behind: rank 2 (host elsewhere, pid ",
                                    "stopped, killed, or its node is gone or cut off",
                                    "behind: rank 3: it has not begun, or does not see this folder",
                                    "waiting in reduce (barrier), step 34: rank 0\n", NULL});
}

static void test_diagnosis_of_ranks_that_wait_for_each_other(void **state) {
  (void)state;
  Look look = new_look();
  strcpy(look.records[1].waiting, "broadcast");
  must_report(&look, (const char *const[]){"no rank is behind", "(barrier), step 34: rank 0, 2, 3",
                                           "(broadcast), step 34: rank 1", NULL});
}

static void test_diagnosis_of_a_rank_that_began_less(void **state) {
  (void)state;
  Look look = new_look();
  for (int i = 0; i < 3; i++) strcpy(look.records[i].waiting, MEAN_NAME);
  look.records[1].begun--;
  look.records[2].begun++;
  must_report(&look, (const char *const[]){"behind: rank 1 (host ",
                                           ": it has begun 55 parts of means, another rank 57; ",
                                           "(mean over the ranks), step 34: rank 0, 2\n",
                                           "(barrier), step 34: rank 3\n", NULL});
  look = new_look();
  look.records[3].begun--; /* waits for something else */
  must_report(&look, (const char *const[]){"no rank is behind", NULL});
}

/* --- The heartbeat ---------------------------------------------------------------------------- */

/* Plays in a child: its exit code, and what it printed in `said`. */
static int in_child(int (*play)(void), char *said, size_t size) {
  int ends[2], status = 0;
  size_t length = 0;
  assert_int_equal(pipe(ends), 0);
  pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    close(ends[1]);
    _exit(play());
  }
  close(ends[1]);
  for (ssize_t got = 1; got > 0 && length < size - 1; length += (size_t)got) {
    got = read(ends[0], said + length, size - 1 - length);
    if (got < 0) break;
  }
  said[length] = '\0';
  close(ends[0]);
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* One rank, no launcher. */
static Heartbeat *begin(double deadline) {
  Error error = {0};
  Heartbeat *heartbeat = NULL;
  HeartbeatOptions options = options_of(folder, deadline);
  CommOptions alone = {.timeout = 5};
  if (comm_open(NULL, NULL, &alone, &group, &error) != OK ||
      heartbeat_start(group, &options, &heartbeat, &error) != OK) {
    fprintf(stderr, "%s\n", error.message);
    _exit(1);
  }
  return heartbeat;
}

/* A child that hangs in place of leaving sleeps this long; one that leaves does so far sooner, on a
 * busy machine too. */
enum { HANGS = 60, SOON = 30 };

static json_t *read_own(void) {
  Error error = {0};
  json_t *value = NULL;
  char *path = path_join(folder, "0.json");
  if (json_read_file(path, 4096, &value, &error) != OK) fprintf(stderr, "%s\n", error.message);
  free(path);
  return value;
}

static bool has_beaten(const json_t *record, int beats, double since) {
  return json_integer_value(json_object_get(record, "beat")) >= beats &&
         json_real_value(json_object_get(record, "since")) > since;
}

static int show_life(void) {
  int wrong = 0;
  Heartbeat *heartbeat = begin(HANGS);
  json_t *first = read_own(), *second = NULL;
  heartbeat_phase(heartbeat, PHASE_STEP, 7);
  /* Three beats, the last of them some time behind the change of phase. */
  for (int i = 0; i < 1000 && !has_beaten(second, 3, 0.2); i++) {
    usleep(20000);
    json_decref(second);
    second = read_own();
  }
  wrong += strcmp(json_string_value(json_object_get(first, "phase")), "start") != 0;
  wrong += strcmp(json_string_value(json_object_get(second, "phase")), "step") != 0;
  wrong += json_integer_value(json_object_get(second, "step")) != 7;
  wrong += json_integer_value(json_object_get(second, "rank")) != 0;
  wrong += json_integer_value(json_object_get(second, "pid")) != getpid();
  wrong += !json_is_null(json_object_get(second, "waiting"));
  wrong += !has_beaten(second, 3, 0.2);
  double since = json_real_value(json_object_get(second, "since"));
  double age = clock_wall_seconds() - json_real_value(json_object_get(second, "time"));
  wrong += !(since < SOON && age >= 0 && age < SOON);
  json_decref(first);
  json_decref(second);
  heartbeat_phase(heartbeat, PHASE_END, 8);
  comm_close(group);
  json_t *last = read_own(); /* says how far it came */
  wrong += strcmp(json_string_value(json_object_get(last, "phase")), "end") != 0;
  json_decref(last);
  return wrong;
}

static void test_shows_life(void **state) {
  (void)state;
  char said[4096];
  write_text("1.json", "{}"); /* of an earlier, larger world */
  assert_int_equal(in_child(show_life, said, sizeof said), 0);
  assert_string_equal(said, "");
  assert_false(is_there("1.json"));
}

static int stand_still(void) {
  heartbeat_phase(begin(0.6), PHASE_DATA, 41);
  sleep(HANGS);
  return 0;
}

static void test_standing_still_ends_the_process(void **state) {
  (void)state;
  char said[4096];
  double began = clock_seconds();
  assert_int_equal(in_child(stand_still, said, sizeof said), ERROR_INTERNAL);
  assert_true(clock_seconds() - began < SOON);
  assert_non_null(strstr(said, "no progress: rank 0 of 1 is in data since "));
  assert_non_null(strstr(said, "longer than its 0.6 s; the run ends"));
  assert_non_null(strstr(said, "behind: rank 0 (host "));
  assert_non_null(strstr(said, "step 41"));
}

static int find_diagnosis(void) {
  Heartbeat *heartbeat = begin(HANGS);
  heartbeat_phase(heartbeat, PHASE_STEP, 1);
  json_t *own = read_own();
  char name[64];
  snprintf(name, sizeof name, "diagnosis-%s.txt", json_string_value(json_object_get(own, "run")));
  write_text(name, "rank 5 is behind\n");
  json_decref(own);
  sleep(HANGS);
  return 0;
}

static void test_diagnosis_of_another_rank_ends_this_one(void **state) {
  (void)state;
  char said[4096];
  double began = clock_seconds();
  assert_int_equal(in_child(find_diagnosis, said, sizeof said), ERROR_INTERNAL);
  assert_true(clock_seconds() - began < SOON);
  assert_string_equal(said, ""); /* the other has printed it */
}

static int move_on(void) {
  Heartbeat *heartbeat = begin(1.5);
  for (int step = 0; step < 25; step++) {
    heartbeat_phase(heartbeat, step % 2 ? PHASE_DATA : PHASE_STEP, step);
    usleep(100000);
  }
  comm_close(group);
  return 0;
}

static void test_moving_on_does_not(void **state) {
  (void)state;
  char said[4096];
  assert_int_equal(in_child(move_on, said, sizeof said), 0);
  assert_string_equal(said, "");
}

static int refuse(void) {
  Error error = {0};
  Heartbeat *heartbeat;
  Comm *comm;
  int wrong = comm_open(NULL, NULL, &(CommOptions){.timeout = 5}, &comm, &error) != OK;
  HeartbeatOptions options = options_of("/proc/nowhere", 1);
  wrong += heartbeat_start(comm, &options, &heartbeat, &error) != ERROR_IO;
  wrong += strstr(error.message, "/proc/nowhere") == NULL || heartbeat != NULL;
  options = options_of(folder, 1);
  options.deadline[PHASE_CHECKPOINT] = 0;
  wrong += heartbeat_start(comm, &options, &heartbeat, &error) != ERROR_INTERNAL;
  wrong += strstr(error.message, "a deadline of 0 s for checkpoint") == NULL;
  heartbeat_phase(NULL, PHASE_DATA, 1);
  comm_close(comm);
  return wrong;
}

static void test_refusals(void **state) {
  (void)state;
  char said[4096];
  assert_int_equal(in_child(refuse, said, sizeof said), 0);
}

/* --- Scenarios -------------------------------------------------------------------------------- */

/* What the rank that is chosen does in place of its third step. */
static int misbehave(const char *how, Heartbeat *heartbeat) {
  char byte;
  if (strcmp(how, "stop") == 0) raise(SIGSTOP);
  if (strcmp(how, "kill") == 0) raise(SIGKILL);
  if (strcmp(how, "data") == 0) heartbeat_phase(heartbeat, PHASE_DATA, 3);
  if (strcmp(how, "evaluate") == 0) {
    heartbeat_phase(heartbeat, PHASE_EVALUATION, 3);
    sleep(4);
    return 0;
  }
  if (strcmp(how, "receive") == 0)
    MPI_Recv(&byte, 1, MPI_BYTE, comm_rank(group), 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  if (strcmp(how, "apart") == 0) {
    Error error = {0};
    int root = (comm_rank(group) + 1) % comm_size(group); /* which averages */
    return leave(comm_broadcast(group, &byte, 1, root, &error), &error);
  }
  if (strcmp(how, "fifo") == 0) { /* a file system that hangs */
    char *path = mem_format("%s/%d.json.tmp", folder, comm_rank(group));
    while (mkfifo(path, 0600) != 0) { /* while a record is being written its name is taken */
      if (errno != EEXIST) return 1;
      usleep(1000);
    }
    free(path);
  }
  if (strcmp(how, "end") == 0 || strcmp(how, "pause") == 0) return 0;
  sleep(60);
  return 1;
}

static int play(const char *how, const char *where, int chosen) {
  Error error = {0};
  Heartbeat *heartbeat;
  snprintf(folder, sizeof folder, "%s", where);
  HeartbeatOptions options = options_of(where, strcmp(how, "pause") == 0 ? 30 : 2);
  options.deadline[PHASE_EVALUATION] = 8;
  Status status = heartbeat_start(group, &options, &heartbeat, &error);
  int steps = strcmp(how, "pause") == 0 ? 150 : 6;
  float value[2] = {0};
  for (int step = 1; step <= steps && status == OK; step++) {
    heartbeat_phase(heartbeat, PHASE_STEP, step);
    usleep(100000);
    if (step == 3 && comm_rank(group) == chosen && misbehave(how, heartbeat) != 0) return 1;
    status = comm_average_start(group, value, 2, COMM_F32, &error);
    if (status == OK) status = comm_average_wait(group, &error);
    if (status == OK) status = comm_barrier(group, &error);
  }
  if (status != OK) return leave(status, &error);
  heartbeat_phase(heartbeat, PHASE_END, steps);
  if (strcmp(how, "end") == 0 && comm_rank(group) == chosen) sleep(60);
  comm_close(group);
  return 0;
}

static int play_with_others(int argc, char **argv) {
  Error error = {0};
  CommOptions options = {.timeout = 120, .overlap = true};
  if (argc < 4 || comm_open(&argc, &argv, &options, &group, &error) != OK) {
    fprintf(stderr, "%s\n", error.message);
    return ERROR_USAGE;
  }
  log_set_rank(comm_rank(group), comm_size(group));
  return play(argv[1], argv[2], atoi(argv[3]));
}

static int remove_folder(void **state) {
  (void)state;
  Error error = {0};
  return folder_remove(folder, &error) == OK ? 0 : 1;
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_record_is_read_back),
      cmocka_unit_test(test_records_that_are_none),
      cmocka_unit_test(test_clear_removes_what_is_ours),
      cmocka_unit_test(test_diagnosis_of_a_busy_rank),
      cmocka_unit_test(test_diagnosis_of_silent_ranks),
      cmocka_unit_test(test_diagnosis_of_ranks_that_wait_for_each_other),
      cmocka_unit_test(test_diagnosis_of_a_rank_that_began_less),
      cmocka_unit_test(test_shows_life),
      cmocka_unit_test(test_standing_still_ends_the_process),
      cmocka_unit_test(test_diagnosis_of_another_rank_ends_this_one),
      cmocka_unit_test(test_moving_on_does_not),
      cmocka_unit_test(test_refusals),
  };
  if (argc > 1) return play_with_others(argc, argv);
  if (!mkdtemp(folder)) return ERROR_IO;
  return cmocka_run_group_tests_name("heartbeat", tests, NULL, remove_folder);
}
