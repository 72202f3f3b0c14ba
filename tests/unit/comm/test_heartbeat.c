/* Tests of heartbeats and the watchdog, with one rank. With arguments SCENARIO FOLDER RANK the
 * program is a rank of a run in which RANK misbehaves (tests/distributed/test_heartbeat.sh). */
#include <errno.h>
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
#include "tests/unit/comm/support_folder.h"
#include "tests/unit/comm/support_group.h"

static HeartbeatOptions options_of(const char *where, double deadline) {
  HeartbeatOptions options = {.folder = where, .every = 0.1};
  for (int i = 0; i < PHASE_COUNT; i++) options.deadline[i] = deadline;
  return options;
}

/* --- The heartbeat ---------------------------------------------------------------------------- */

/* Runs a function in a child process. Returns its exit code, with its error output in `output`. */
static int run_in_child(int (*function)(void), char *output, size_t size) {
  int ends[2], status = 0;
  size_t length = 0;
  assert_int_equal(pipe(ends), 0);
  pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    close(ends[1]);
    _exit(function());
  }
  close(ends[1]);
  for (ssize_t got = 1; got > 0 && length < size - 1; length += (size_t)got) {
    got = read(ends[0], output + length, size - 1 - length);
    if (got < 0) break;
  }
  output[length] = '\0';
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

/* A child that fails to exit sleeps for HANG_SECONDS; one that exits does so within SOON_SECONDS,
 * on a busy machine too. */
enum { HANG_SECONDS = 60, SOON_SECONDS = 30 };

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

static int write_heartbeats(void) {
  int wrong = 0;
  Heartbeat *heartbeat = begin(HANG_SECONDS);
  json_t *first = read_own(), *second = NULL;
  heartbeat_set_phase(heartbeat, PHASE_STEP, 7);
  /* Three heartbeats, the last one more than 0.2 s after the change of phase. */
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
  wrong += !(since < SOON_SECONDS && age >= 0 && age < SOON_SECONDS);
  json_decref(first);
  json_decref(second);
  heartbeat_set_phase(heartbeat, PHASE_END, 8);
  comm_close(group);
  json_t *last = read_own(); /* says how far it came */
  wrong += strcmp(json_string_value(json_object_get(last, "phase")), "end") != 0;
  json_decref(last);
  return wrong;
}

static void test_heartbeat_follows_phase_and_step(void **state) {
  (void)state;
  char output[4096];
  write_text("1.json", "{}"); /* of an earlier, larger world */
  assert_int_equal(run_in_child(write_heartbeats, output, sizeof output), 0);
  assert_string_equal(output, "");
  assert_false(file_exists("1.json"));
}

static int make_no_progress(void) {
  heartbeat_set_phase(begin(0.6), PHASE_DATA, 41);
  sleep(HANG_SECONDS);
  return 0;
}

static void test_deadline_ends_the_process(void **state) {
  (void)state;
  char output[4096];
  double start = clock_seconds();
  assert_int_equal(run_in_child(make_no_progress, output, sizeof output), ERROR_INTERNAL);
  assert_true(clock_seconds() - start < SOON_SECONDS);
  assert_non_null(strstr(output, "no progress: rank 0 of 1 has been in data since "));
  assert_non_null(strstr(output, "past its deadline of 0.6 s; the run ends"));
  assert_non_null(strstr(output, "behind: rank 0 (host "));
  assert_non_null(strstr(output, "step 41"));
}

static int see_diagnosis_of_another_rank(void) {
  Heartbeat *heartbeat = begin(HANG_SECONDS);
  heartbeat_set_phase(heartbeat, PHASE_STEP, 1);
  json_t *own = read_own();
  char name[64];
  snprintf(name, sizeof name, "diagnosis-%s.txt", json_string_value(json_object_get(own, "run")));
  write_text(name, "rank 5 is behind\n");
  json_decref(own);
  sleep(HANG_SECONDS);
  return 0;
}

static void test_diagnosis_of_another_rank_ends_this_one(void **state) {
  (void)state;
  char output[4096];
  double start = clock_seconds();
  assert_int_equal(run_in_child(see_diagnosis_of_another_rank, output, sizeof output),
                   ERROR_INTERNAL);
  assert_true(clock_seconds() - start < SOON_SECONDS);
  assert_string_equal(output, ""); /* the other rank logs it */
}

static int make_progress(void) {
  Heartbeat *heartbeat = begin(1.5);
  for (int step = 0; step < 25; step++) {
    heartbeat_set_phase(heartbeat, step % 2 ? PHASE_DATA : PHASE_STEP, step);
    usleep(100000);
  }
  comm_close(group);
  return 0;
}

static void test_progress_keeps_the_process(void **state) {
  (void)state;
  char output[4096];
  assert_int_equal(run_in_child(make_progress, output, sizeof output), 0);
  assert_string_equal(output, "");
}

static int pass_invalid_options(void) {
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
  heartbeat_set_phase(NULL, PHASE_DATA, 1);
  comm_close(comm);
  return wrong;
}

static void test_invalid_options_are_rejected(void **state) {
  (void)state;
  char output[4096];
  assert_int_equal(run_in_child(pass_invalid_options, output, sizeof output), 0);
}

/* --- Scenarios -------------------------------------------------------------------------------- */

/* The misbehaviour of the chosen rank in its third step. */
static int misbehave(const char *how, Heartbeat *heartbeat) {
  char byte;
  if (strcmp(how, "stop") == 0) raise(SIGSTOP);
  if (strcmp(how, "kill") == 0) raise(SIGKILL);
  if (strcmp(how, "data") == 0) heartbeat_set_phase(heartbeat, PHASE_DATA, 3);
  if (strcmp(how, "evaluate") == 0) {
    heartbeat_set_phase(heartbeat, PHASE_EVALUATION, 3);
    sleep(4);
    return 0;
  }
  if (strcmp(how, "receive") == 0)
    MPI_Recv(&byte, 1, MPI_BYTE, comm_rank(group), 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  if (strcmp(how, "apart") == 0) {
    Error error = {0};
    int root = (comm_rank(group) + 1) % comm_size(group); /* which is in the gradient all-reduce */
    return exit_on_error(comm_broadcast(group, &byte, 1, root, &error), &error);
  }
  if (strcmp(how, "fifo") == 0) { /* a file system that hangs */
    char *path = mem_format("%s/%d.json.tmp", folder, comm_rank(group));
    while (mkfifo(path, 0600) != 0) { /* exists while a heartbeat is being written */
      if (errno != EEXIST) return 1;
      usleep(1000);
    }
    free(path);
  }
  if (strcmp(how, "end") == 0 || strcmp(how, "pause") == 0) return 0;
  sleep(60);
  return 1;
}

static int run_scenario(const char *how, const char *where, int chosen) {
  Error error = {0};
  Heartbeat *heartbeat;
  snprintf(folder, sizeof folder, "%s", where);
  HeartbeatOptions options = options_of(where, strcmp(how, "pause") == 0 ? 30 : 2);
  options.deadline[PHASE_EVALUATION] = 8;
  Status status = heartbeat_start(group, &options, &heartbeat, &error);
  int steps = strcmp(how, "pause") == 0 ? 150 : 6;
  float value[2] = {0};
  for (int step = 1; step <= steps && status == OK; step++) {
    heartbeat_set_phase(heartbeat, PHASE_STEP, step);
    usleep(100000);
    if (step == 3 && comm_rank(group) == chosen && misbehave(how, heartbeat) != 0) return 1;
    status = comm_all_reduce_mean_start(group, value, 2, COMM_F32, &error);
    if (status == OK) status = comm_all_reduce_mean_wait(group, &error);
    if (status == OK) status = comm_barrier(group, &error);
  }
  if (status != OK) return exit_on_error(status, &error);
  heartbeat_set_phase(heartbeat, PHASE_END, steps);
  if (strcmp(how, "end") == 0 && comm_rank(group) == chosen) sleep(60);
  comm_close(group);
  return 0;
}

static int run_scenario_rank(int argc, char **argv) {
  Error error = {0};
  CommOptions options = {.timeout = 120, .overlap = true};
  if (argc < 4 || comm_open(&argc, &argv, &options, &group, &error) != OK) {
    fprintf(stderr, "%s\n", error.message);
    return ERROR_USAGE;
  }
  log_set_rank(comm_rank(group), comm_size(group));
  return run_scenario(argv[1], argv[2], atoi(argv[3]));
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_heartbeat_follows_phase_and_step),
      cmocka_unit_test(test_deadline_ends_the_process),
      cmocka_unit_test(test_diagnosis_of_another_rank_ends_this_one),
      cmocka_unit_test(test_progress_keeps_the_process),
      cmocka_unit_test(test_invalid_options_are_rejected),
  };
  if (argc > 1) return run_scenario_rank(argc, argv);
  return cmocka_run_group_tests_name("heartbeat", tests, make_folder, remove_folder);
}
