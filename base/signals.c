#include "base/signals.h"

#include <signal.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

/* A launcher forwards a signal that the whole process group has already received; on a busy node
 * this takes some time. */
enum { SAME_SIGNAL_MILLISECONDS = 1000 };

static volatile sig_atomic_t stop_requested;
/* Of INT, TERM, USR1 and USR2; 0: none yet. */
static volatile sig_atomic_t first_signal;
static struct timespec first_at; /* written by the handler, before `first_signal` */

static void on_signal(int number) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  stop_requested = 1;
  if (!first_signal) {
    first_at = now;
    first_signal = number;
    return;
  }
  long long since =
      (now.tv_sec - first_at.tv_sec) * 1000LL + (now.tv_nsec - first_at.tv_nsec) / 1000000;
  if (number != first_signal || since > SAME_SIGNAL_MILLISECONDS) _exit(128 + number);
}

static void on_lost_reader(int number) {
  (void)number;
  stop_requested = 1;
}

static void install(int number, void (*handler)(int), bool keep_ignored) {
  static const int SIGNALS[] = {SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGHUP, SIGPIPE};
  struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART}, before;
  if (keep_ignored && sigaction(number, NULL, &before) == 0 && before.sa_handler == SIG_IGN) return;
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < sizeof SIGNALS / sizeof *SIGNALS; i++)
    sigaddset(&action.sa_mask, SIGNALS[i]);
  sigaction(number, &action, NULL);
}

void signals_install(void) {
  static const int REQUESTS[] = {SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
  for (size_t i = 0; i < sizeof REQUESTS / sizeof *REQUESTS; i++)
    install(REQUESTS[i], on_signal, false);
  install(SIGHUP, on_lost_reader, true);
  install(SIGPIPE, on_lost_reader, true);
}

bool signals_stop_requested(void) {
  return stop_requested != 0;
}
