#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/thread.h"

static void *number(intptr_t n) {
  return (void *)n;
}

static void first_in_first_out(void **state) {
  (void)state;
  Queue *queue = queue_new(3);
  void *item;
  for (intptr_t round = 0; round < 5; round++) {
    for (intptr_t i = 0; i < 3; i++) assert_true(queue_push(queue, number(10 * round + i)));
    for (intptr_t i = 0; i < 3; i++) {
      assert_true(queue_pop(queue, &item));
      assert_ptr_equal(item, number(10 * round + i));
    }
  }
  queue_free(queue);
  queue_free(NULL);
}

static void capacity_is_at_least_one(void **state) {
  (void)state;
  Queue *queue = queue_new(0);
  void *item;
  assert_true(queue_push(queue, number(1)));
  assert_true(queue_pop(queue, &item));
  queue_free(queue);
}

enum { PRODUCERS = 3, CONSUMERS = 2, ITEMS = 2000, ROOM = 7 };

typedef struct Crowd {
  Queue *queue;
  intptr_t first; /* item of a producer */
  uint8_t *seen;  /* by a consumer: how often each item was popped */
  bool rising;    /* each producer's items were popped in order */
} Crowd;

static void *produce(void *argument) {
  Crowd *crowd = argument;
  for (intptr_t i = 0; i < ITEMS; i++) queue_push(crowd->queue, number(crowd->first + i));
  return NULL;
}

static void *consume(void *argument) {
  Crowd *crowd = argument;
  intptr_t last[PRODUCERS] = {-1, -1, -1};
  void *item;
  while (queue_pop(crowd->queue, &item)) {
    intptr_t n = (intptr_t)item;
    crowd->seen[n]++;
    crowd->rising &= n > last[n / ITEMS];
    last[n / ITEMS] = n;
  }
  return NULL;
}

static void items_arrive_once_and_in_order(void **state) {
  (void)state;
  static uint8_t seen[CONSUMERS][PRODUCERS * ITEMS];
  memset(seen, 0, sizeof seen);
  Queue *queue = queue_new(ROOM);
  Crowd producers[PRODUCERS], consumers[CONSUMERS];
  pthread_t makers[PRODUCERS], takers[CONSUMERS];
  Error error;
  for (int i = 0; i < CONSUMERS; i++) {
    consumers[i] = (Crowd){queue, 0, seen[i], true};
    assert_int_equal(thread_start(&takers[i], "taker", consume, &consumers[i], &error), OK);
  }
  for (int i = 0; i < PRODUCERS; i++) {
    producers[i] = (Crowd){.queue = queue, .first = i * ITEMS};
    assert_int_equal(thread_start(&makers[i], "maker", produce, &producers[i], &error), OK);
  }
  for (int i = 0; i < PRODUCERS; i++) pthread_join(makers[i], NULL);
  queue_close(queue);
  for (int i = 0; i < CONSUMERS; i++) pthread_join(takers[i], NULL);
  for (int i = 0; i < PRODUCERS * ITEMS; i++) assert_int_equal(seen[0][i] + seen[1][i], 1);
  for (int i = 0; i < CONSUMERS; i++) assert_true(consumers[i].rising);
  queue_free(queue);
}

static void closed_queue_pops_its_items_only(void **state) {
  (void)state;
  Queue *queue = queue_new(2);
  void *item = NULL;
  queue_push(queue, number(1));
  queue_close(queue);
  assert_false(queue_push(queue, number(2)));
  assert_true(queue_pop(queue, &item)); /* queued items remain */
  assert_ptr_equal(item, number(1));
  assert_false(queue_pop(queue, &item));
  queue_free(queue);
}

typedef struct Waiter {
  Queue *queue;
  bool result;
} Waiter;

static void *wait_to_push(void *argument) {
  Waiter *waiter = argument;
  waiter->result = queue_push(waiter->queue, number(2));
  return NULL;
}

static void *wait_to_pop(void *argument) {
  Waiter *waiter = argument;
  void *item;
  waiter->result = queue_pop(waiter->queue, &item);
  return NULL;
}

static void close_wakes_all_waiting_threads(void **state) {
  (void)state;
  Queue *full = queue_new(1), *empty = queue_new(1);
  queue_push(full, number(1));
  Waiter waiters[4] = {{full, true}, {full, true}, {empty, true}, {empty, true}};
  pthread_t threads[4];
  for (int i = 0; i < 4; i++)
    thread_start(&threads[i], "waiter", i < 2 ? wait_to_push : wait_to_pop, &waiters[i], NULL);
  usleep(20000);
  queue_close(full);
  queue_close(empty);
  for (int i = 0; i < 4; i++) {
    pthread_join(threads[i], NULL);
    assert_false(waiters[i].result);
  }
  queue_free(full);
  queue_free(empty);
}

typedef struct Self {
  Queue *named; /* pushed to when the name is set */
  char name[16];
  sigset_t blocked;
} Self;

static void *inspect_self(void *argument) {
  Self *self = argument;
  void *item;
  pthread_sigmask(SIG_SETMASK, NULL, &self->blocked);
  queue_pop(self->named, &item);
  pthread_getname_np(pthread_self(), self->name, sizeof self->name);
  return NULL;
}

static void started_threads_have_a_name_and_block_signals(void **state) {
  (void)state;
  Self self = {.named = queue_new(1)};
  sigset_t before, after;
  pthread_t thread;
  pthread_sigmask(SIG_SETMASK, NULL, &before);
  assert_int_equal(thread_start(&thread, "celforge-loader-17", inspect_self, &self, NULL), OK);
  queue_push(self.named, NULL);
  pthread_join(thread, NULL);
  assert_string_equal(self.name, "celforge-loader");
  static const int for_main[] = {SIGTERM, SIGINT, SIGUSR1, SIGHUP, SIGCHLD, SIGALRM};
  for (size_t i = 0; i < sizeof for_main / sizeof *for_main; i++)
    assert_true(sigismember(&self.blocked, for_main[i]));
  assert_false(sigismember(&self.blocked, SIGSEGV)); /* its own fault */
  pthread_sigmask(SIG_SETMASK, NULL, &after);
  for (int signal = 1; signal < 32; signal++)
    assert_int_equal(sigismember(&before, signal), sigismember(&after, signal));
  queue_free(self.named);
}

static void *sleep_for(void *argument) {
  usleep(*(useconds_t *)argument);
  return NULL;
}

static void join_has_a_deadline(void **state) {
  (void)state;
  pthread_t thread;
  useconds_t pause = 300000;
  assert_int_equal(thread_start(&thread, "sleeper", sleep_for, &pause, NULL), OK);
  double begin = clock_seconds();
  assert_false(thread_join_until(thread, begin - 1)); /* in the past: looks once */
  assert_false(thread_join_until(thread, begin + 0.05));
  assert_true(clock_seconds() - begin >= 0.05);
  assert_true(thread_join_until(thread, begin + 60));
  assert_true(clock_seconds() - begin < 30);
}

static void failed_start_is_reported(void **state) {
  (void)state;
  pthread_attr_t usual, enormous;
  assert_int_equal(pthread_getattr_default_np(&usual), 0);
  pthread_attr_init(&enormous);
  pthread_attr_setstacksize(&enormous, (size_t)1 << 47);
  if (pthread_setattr_default_np(&enormous) != 0) skip();
  Error error = {0};
  pthread_t thread;
  Status status = thread_start(&thread, "reader", inspect_self, NULL, &error);
  pthread_setattr_default_np(&usual);
  assert_int_equal(status, ERROR_INTERNAL);
  assert_non_null(strstr(error.message, "thread \"reader\": cannot start: "));
  pthread_attr_destroy(&enormous);
  pthread_attr_destroy(&usual);
}

static void clocks_advance_in_seconds(void **state) {
  (void)state;
  double a = clock_seconds(), wall = clock_wall_seconds();
  usleep(2000);
  double b = clock_seconds();
  assert_true(b - a >= 0.002 && b - a < 60);
  assert_true(wall > 1.6e9); /* later than 2020 */
}

static void condition_times_out(void **state) {
  (void)state;
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t condition;
  condition_init(&condition);
  pthread_mutex_lock(&mutex);
  double deadline = clock_seconds() + 0.02;
  while (condition_wait_until(&condition, &mutex, deadline)) {
  }
  assert_true(clock_seconds() >= deadline);
  assert_false(condition_wait_until(&condition, &mutex, -INFINITY));
  pthread_mutex_unlock(&mutex);
  pthread_cond_destroy(&condition);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(first_in_first_out),
      cmocka_unit_test(capacity_is_at_least_one),
      cmocka_unit_test(items_arrive_once_and_in_order),
      cmocka_unit_test(closed_queue_pops_its_items_only),
      cmocka_unit_test(close_wakes_all_waiting_threads),
      cmocka_unit_test(started_threads_have_a_name_and_block_signals),
      cmocka_unit_test(join_has_a_deadline),
      cmocka_unit_test(failed_start_is_reported),
      cmocka_unit_test(clocks_advance_in_seconds),
      cmocka_unit_test(condition_times_out),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
