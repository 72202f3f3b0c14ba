#include "base/signals.h"

#include <signal.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

/* A launcher forwards a signal that the whole process group has already received; on a busy node
 * this takes some time. */
enum { SAME_SIGNAL_MILLISECONDS = 1000 };

static volatile sig_atomic_t first_signal;
static struct timespec first_at; /* written by the handler, before `first_signal` */

static void on_signal(int number) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  if (!first_signal) {
    first_at = now;
    first_signal = number;
    return;
  }
  long long since =
      (now.tv_sec - first_at.tv_sec) * 1000LL + (now.tv_nsec - first_at.tv_nsec) / 1000000;
  if (number != first_signal || since > SAME_SIGNAL_MILLISECONDS) _exit(128 + number);
}

void signals_install(void) {
  static const int SIGNALS[] = {SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
  const size_t count = sizeof SIGNALS / sizeof *SIGNALS;
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < count; i++) sigaddset(&action.sa_mask, SIGNALS[i]);
  for (size_t i = 0; i < count; i++) sigaction(SIGNALS[i], &action, NULL);
}

bool signals_stop_requested(void) {
  return first_signal != 0;
}
