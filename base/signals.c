#include "base/signals.h"

#include <signal.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

/* A launcher passes a signal on that the whole process group has got as well; on a busy node that
 * takes a while. */
enum { SAME_SIGNAL_MILLISECONDS = 1000 };

static volatile sig_atomic_t asked;
static struct timespec asked_at; /* written before `asked`, by the handler alone */

static void on_signal(int number) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  if (!asked) {
    asked_at = now;
    asked = number;
    return;
  }
  long long since =
      (now.tv_sec - asked_at.tv_sec) * 1000LL + (now.tv_nsec - asked_at.tv_nsec) / 1000000;
  if (number != asked || since > SAME_SIGNAL_MILLISECONDS) _exit(128 + number);
}

void signals_catch(void) {
  static const int SIGNALS[] = {SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
  const size_t count = sizeof SIGNALS / sizeof *SIGNALS;
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < count; i++) sigaddset(&action.sa_mask, SIGNALS[i]);
  for (size_t i = 0; i < count; i++) sigaction(SIGNALS[i], &action, NULL);
}

bool signals_ask_to_stop(void) {
  return asked != 0;
}
