/* Choices of plans that several processes make together: each is made by one of them, whose claim
 * is waited for, but not for ever. No GPU is needed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/thread.h"
#include "engine/cuda/autotune/cache_lock.h"
#include "tests/gpu/support_plans.h"

static Error error;

/* A rank, in a thread of its own: claims tell open files apart, not processes. */
typedef struct Rank {
  Cudnn *cudnn;
  cudnnBackendDescriptor_t properties;
  pthread_t thread;
} Rank;

enum { SHARED_PART = 3 }; /* of all convolutions */

static void *prepare_part(void *argument) {
  const Rank *rank = argument;
  cudnn_prepare(rank->cudnn, recorder.convolutions, recorder.count / SHARED_PART);
  return NULL;
}

/* Each choice is made by one of them, and all have it. */
static void ranks_share_the_work(void **state) {
  enum { RANKS = 3 };
  static const CudnnRules rules = {.workspace = 1 << 30};
  char folder[] = "/tmp/celforge-plans-XXXXXX", *paths[MOST_KEPT];
  Rank ranks[RANKS];
  int made = 0, busy = 0;
  (void)state;
  assert_non_null(mkdtemp(folder));
  for (int i = 0; i < RANKS; i++)
    ranks[i].cudnn = open_described(&devices[1], &rules, folder, &ranks[i].properties);
  for (int i = 0; i < RANKS; i++)
    assert_int_equal(pthread_create(&ranks[i].thread, NULL, prepare_part, &ranks[i]), 0);
  for (int i = 0; i < RANKS; i++) pthread_join(ranks[i].thread, NULL);
  for (int i = 0; i < RANKS; i++) {
    const int own = cudnn_made(ranks[i].cudnn);
    made += own;
    busy += own > 0;
    prepare_part(&ranks[i]); /* nothing is left to make */
    assert_int_equal(cudnn_made(ranks[i].cudnn), own);
  }
  assert_int_equal(made, recorder.count / SHARED_PART);
  assert_in_range(busy, 2, RANKS);
  for (int i = 0; i < recorder.count / SHARED_PART; i++) {
    CudnnChoice first, other;
    for (int k = 0; k < RANKS; k++) {
      assert_int_equal(cudnn_choose(ranks[k].cudnn, &recorder.convolutions[i], NULL,
                                    k == 0 ? &first : &other, &error),
                       OK);
      if (k > 0) assert_string_equal(first.plan->details, other.plan->details);
    }
  }
  for (int i = 0; i < RANKS; i++) close_described(ranks[i].cudnn, ranks[i].properties);
  const int kept = kept_in(folder, paths);
  assert_int_equal(kept, recorder.count / SHARED_PART);
  for (int i = 0; i < kept; i++) free(paths[i]);
  assert_int_equal(folder_remove(folder, &error), OK);
}

/* A claim is one's own until it is ended, by its owner or with it; who waits gets it then, or gives
 * up. */
static void claims(void **state) {
  char folder[] = "/tmp/celforge-plans-XXXXXX";
  (void)state;
  assert_null(cudnn_claims_open(NULL, 1));
  assert_true(cudnn_claim(NULL, "any"));
  assert_non_null(mkdtemp(folder));
  CudnnClaims *a = cudnn_claims_open(folder, 0.1), *b = cudnn_claims_open(folder, 0.1);
  assert_non_null(a);
  assert_non_null(b);
  assert_true(cudnn_claim(a, "one"));
  assert_false(cudnn_claim(b, "one"));
  assert_true(cudnn_claim(b, "two"));
  assert_false(cudnn_claim(a, "two"));
  assert_false(cudnn_claim_wait(b, "one"));
  cudnn_claim_end(a, "one");
  assert_true(cudnn_claim_wait(b, "one"));
  assert_false(cudnn_claim(a, "one"));
  cudnn_claims_close(b);
  assert_true(cudnn_claim_wait(a, "one"));
  assert_true(cudnn_claim_wait(a, "two"));
  cudnn_claims_close(a);
  assert_int_equal(folder_remove(folder, &error), OK);
  /* A folder that cannot be written is shared with nobody. */
  assert_null(cudnn_claims_open("/proc/celforge", 1));
}

/* Many keys of one owner, which ends one after another or none. */
enum { OWNED = 50, STEPS = 6 };
typedef struct Owner {
  CudnnClaims *claims, *waiting; /* the owner's own; who waits */
  int number;
} Owner;

static const char *numbered(int number, char text[16]) {
  snprintf(text, 16, "key %d", number);
  return text;
}

static void *end_in_steps(void *argument) {
  const Owner *owner = argument;
  char key[16];
  for (int i = 0; i < STEPS; i++) {
    nanosleep(&(struct timespec){.tv_nsec = 400000000}, NULL);
    cudnn_claim_end(owner->claims, numbered(i, key));
  }
  return NULL;
}

static void *wait_for_one(void *argument) {
  const Owner *owner = argument;
  char key[16];
  return cudnn_claim_wait(owner->waiting, numbered(owner->number, key)) ? argument : NULL;
}

/* As long as something comes it is waited for; when nothing does, for one patience in all, by
 * however many threads and for however many keys. */
static void patience_is_one_for_all_claims(void **state) {
  enum { THREADS = 4 };
  static const double PATIENCE = 2; /* less than all steps take */
  char folder[] = "/tmp/celforge-plans-XXXXXX", key[16];
  pthread_t ending, threads[THREADS];
  Owner owner, waits[THREADS];
  (void)state;
  assert_non_null(mkdtemp(folder));
  owner.claims = cudnn_claims_open(folder, PATIENCE);
  owner.waiting = cudnn_claims_open(folder, PATIENCE);
  for (int i = 0; i < OWNED; i++) assert_true(cudnn_claim(owner.claims, numbered(i, key)));
  double begin = clock_seconds();
  assert_int_equal(pthread_create(&ending, NULL, end_in_steps, &owner), 0);
  for (int i = 0; i < STEPS; i++) assert_true(cudnn_claim_wait(owner.waiting, numbered(i, key)));
  assert_true(clock_seconds() - begin > PATIENCE);
  pthread_join(ending, NULL);

  begin = clock_seconds();
  for (int i = 0; i < THREADS; i++) {
    waits[i] = owner;
    waits[i].number = STEPS + i;
    assert_int_equal(pthread_create(&threads[i], NULL, wait_for_one, &waits[i]), 0);
  }
  for (int i = 0; i < THREADS; i++) {
    void *got;
    pthread_join(threads[i], &got);
    assert_null(got);
  }
  for (int i = STEPS; i < OWNED; i++)
    assert_false(cudnn_claim_wait(owner.waiting, numbered(i, key)));
  assert_true(clock_seconds() - begin > PATIENCE / 2);
  assert_true(clock_seconds() - begin < 5 * PATIENCE);
  cudnn_claims_close(owner.claims);
  for (int i = 0; i < OWNED; i++) assert_true(cudnn_claim_wait(owner.waiting, numbered(i, key)));
  cudnn_claims_close(owner.waiting);
  assert_int_equal(folder_remove(folder, &error), OK);
}

/* Claims what the choice in the file was made for, and removes the file. */
static void claim_again(CudnnClaims *claims, const char *path) {
  json_t *root;
  const char *key;
  assert_int_equal(json_read_file(path, 1 << 20, &root, &error), OK);
  assert_int_equal(json_get_string(root, path, "key", &key, &error), OK);
  assert_true(cudnn_claim(claims, key));
  json_decref(root);
  unlink(path);
}

/* What another claims and does not make is made after all, when its claim ends. */
static void *end_soon(void *argument) {
  nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
  cudnn_claims_close(argument);
  return NULL;
}

static void claims_of_the_dead_end(void **state) {
  static const CudnnRules rules = {.workspace = 64 << 20};
  char folder[] = "/tmp/celforge-plans-XXXXXX";
  CudnnChoice choice;
  pthread_t thread;
  (void)state;
  assert_non_null(mkdtemp(folder));
  choose_once(folder, &rules, &choice);
  char *path = only_path(folder);
  CudnnClaims *other = cudnn_claims_open(folder, LONG_PATIENCE);
  claim_again(other, path);
  free(path);
  cudnnBackendDescriptor_t properties;
  Cudnn *cudnn = open_described(&devices[1], &rules, folder, &properties);
  const Convolution convolution = plain_convolution();
  assert_int_equal(pthread_create(&thread, NULL, end_soon, other), 0);
  const double begin = clock_seconds();
  cudnn_prepare(cudnn, &convolution, 1);
  assert_true(clock_seconds() - begin > 0.2);
  assert_int_equal(cudnn_made(cudnn), 1);
  pthread_join(thread, NULL);
  close_described(cudnn, properties);
  assert_int_equal(folder_remove(folder, &error), OK);
}

/* Prepares the first `count` convolutions in one thread; returns the seconds that it took. What it
 * says goes to a file beside the choices. */
static double prepare_some(const char *folder, int count, double patience) {
  static const CudnnRules rules = {.workspace = 64 << 20};
  const CudnnTarget target = described_or_skip(&devices[1]);
  char *path = mem_format("%s/said", folder);
  Cudnn *cudnn = cudnn_open(&target, devices[1].name, &rules, folder, 1, patience);
  const int before = dup(STDERR_FILENO), log = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
  assert_true(before >= 0 && log >= 0);
  dup2(log, STDERR_FILENO);
  const double begin = clock_seconds();
  cudnn_prepare(cudnn, recorder.convolutions, count);
  const double seconds = clock_seconds() - begin;
  dup2(before, STDERR_FILENO);
  close(before);
  close(log);
  free(path);
  assert_int_equal(cudnn_made(cudnn), count);
  close_described(cudnn, target.properties);
  return seconds;
}

/* Another process has claimed everything and is stopped: it is waited for once, not once for each
 * convolution, which is said once, and all are prepared here. */
static void who_is_stopped_is_waited_for_once(void **state) {
  enum { COUNT = 12 };
  static const double PATIENCE = 1;
  static const char words[] = "is prepared here as well";
  char folder[] = "/tmp/celforge-plans-XXXXXX", *paths[MOST_KEPT], *said;
  (void)state;
  assert_non_null(mkdtemp(folder));
  const double alone = prepare_some(folder, COUNT, PATIENCE);
  char *log = mem_format("%s/said", folder);
  unlink(log);
  CudnnClaims *other = cudnn_claims_open(folder, PATIENCE);
  assert_int_equal(kept_in(folder, paths), COUNT);
  for (int i = 0; i < COUNT; i++) {
    claim_again(other, paths[i]);
    free(paths[i]);
  }
  const double beside = prepare_some(folder, COUNT, PATIENCE);
  if (beside < PATIENCE / 2 || beside > PATIENCE * COUNT / 2 + alone)
    fail_msg("%d convolutions took %.2f s alone, %.2f s beside one who is stopped", COUNT, alone,
             beside);
  read_text(log, &said);
  const char *first = strstr(said, words);
  if (!first || strstr(first + 1, words)) fail_msg("not said, or more than once: %s", said);
  free(said);
  free(log);
  cudnn_claims_close(other);
  assert_int_equal(folder_remove(folder, &error), OK);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(claims),
      cmocka_unit_test(ranks_share_the_work),
      cmocka_unit_test(claims_of_the_dead_end),
      cmocka_unit_test(patience_is_one_for_all_claims),
      cmocka_unit_test(who_is_stopped_is_waited_for_once),
  };
  return cmocka_run_group_tests(tests, record_all, forget_all);
}
