#include "base/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/host.h"
#include "base/log.h"

Status process_open_standard_streams(void) {
  for (int descriptor = STDIN_FILENO; descriptor <= STDERR_FILENO; descriptor++) {
    if (fcntl(descriptor, F_GETFD) >= 0) continue;
    int opened; /* open returns the lowest free number, which is this one */
    do opened = open("/dev/null", descriptor == STDIN_FILENO ? O_RDONLY : O_WRONLY);
    while (opened < 0 && errno == EINTR);
    if (opened != descriptor) return ERROR_IO;
  }
  return OK;
}

void process_ignore_file_size_signal(void) {
  signal(SIGXFSZ, SIG_IGN);
}

/* --- OpenMP ----------------------------------------------------------------------------------- */

/* Parses "8" or "8,2"; *most is the largest number, LONG_MAX for what does not fit. */
static bool parse_thread_counts(const char *text, long *most) {
  *most = 0;
  for (;;) {
    char *end;
    text += strspn(text, " \t");
    if (*text < '0' || *text > '9') return false; /* strtol would accept a sign */
    long count = strtol(text, &end, 10);
    if (count < 1) return false;
    if (count > *most) *most = count;
    end += strspn(end, " \t");
    if (*end == '\0') return true;
    if (*end != ',') return false;
    text = end + 1;
  }
}

Status process_check_openmp(bool *changed, Error *error) {
  static const char NAME[] = "OMP_NUM_THREADS";
  const char *text = getenv(NAME);
  long most;
  char bounded[16];
  *changed = false;
  if (!text || !*text) return OK;
  if (!parse_thread_counts(text, &most))
    return error_set(error, ERROR_USAGE,
                     "%s: \"%s\" in the environment; expected a number of threads such as 8; "
                     "correct or unset it",
                     NAME, text);
  if (most <= host_thread_limit()) return OK;
  snprintf(bounded, sizeof bounded, "%d", host_processor_count());
  log_warning("%s is %s, but at most %d threads are allowed on this host; using %s, its number of "
              "processors",
              NAME, text, host_thread_limit(), bounded);
  *changed = setenv(NAME, bounded, 1) == 0;
  return OK;
}
