#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/text.h"

typedef enum LogLevel { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR } LogLevel;
static const char *const LEVEL_NAMES[] = {"debug", "info", "warning", "error"};
enum { LEVEL_COUNT = sizeof LEVEL_NAMES / sizeof *LEVEL_NAMES };
#define CLEAR_LINE "\r\033[K"

static pthread_once_t started = PTHREAD_ONCE_INIT;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
/* Everything below is guarded by the mutex. */
static LogLevel lowest = LOG_INFO;
static int own_rank = 0, ranks = 1;
static bool terminal = false;
static char *status_line = NULL;

static void write_all(const char *bytes, size_t size) {
  while (size > 0) {
    ssize_t n = write(STDERR_FILENO, bytes, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return; /* there is nowhere to report this */
    bytes += n;
    size -= (size_t)n;
  }
}

/* Returns how many bytes of `text` fit on one line of the terminal, one column per UTF-8 character.
 * A line that wraps could not be cleared. */
static size_t fitting_bytes(const char *text) {
  struct winsize window = {0};
  size_t columns = 80, i = 0;
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1) columns = window.ws_col;
  for (size_t shown = 0; text[i] && text[i] != '\n'; i++) {
    if (((unsigned char)text[i] & 0xc0) != 0x80 && ++shown >= columns) break;
  }
  return i;
}

/* The caller holds the mutex. */
static void write_message(LogLevel level, const char *format, va_list arguments) {
  Text line = {0};
  if (status_line) text_append(&line, CLEAR_LINE);
  struct timespec now;
  struct tm local;
  clock_gettime(CLOCK_REALTIME, &now);
  localtime_r(&now.tv_sec, &local);
  text_append(&line, "%02d:%02d:%02d.%03d ", local.tm_hour, local.tm_min, local.tm_sec,
              (int)(now.tv_nsec / 1000000));
  if (ranks > 1) text_append(&line, "[%d] ", own_rank);
  text_append(&line, "%s: ", LEVEL_NAMES[level]);
  char *message = NULL;
  if (vasprintf(&message, format, arguments) < 0) message = NULL;
  text_append(&line, "%s\n", message ? message : format);
  free(message);
  if (status_line) text_append_bytes(&line, status_line, fitting_bytes(status_line));
  write_all(line.data, line.length);
  text_free(&line);
}

static void write_at_start(LogLevel level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void write_at_start(LogLevel level, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  write_message(level, format, arguments);
  va_end(arguments);
}

static void start(void) {
  const char *wanted = getenv("CELFORGE_LOG"), *kind = getenv("TERM");
  terminal = isatty(STDERR_FILENO) && !(kind && strcmp(kind, "dumb") == 0);
  if (!wanted || !*wanted) return;
  for (int i = 0; i < LEVEL_COUNT; i++) {
    if (strcmp(wanted, LEVEL_NAMES[i]) == 0) {
      lowest = (LogLevel)i;
      return;
    }
  }
  write_at_start(LOG_WARNING, "CELFORGE_LOG=%s: not a level; allowed: debug, info, warning, error",
                 wanted);
}

static void lock(void) {
  pthread_once(&started, start);
  pthread_mutex_lock(&mutex);
}

static void log_message(LogLevel level, const char *format, va_list arguments) {
  int errno_before = errno;
  lock();
  bool muted = level < lowest || (level == LOG_INFO && own_rank != 0);
  if (!muted) write_message(level, format, arguments);
  pthread_mutex_unlock(&mutex);
  errno = errno_before;
}

#define DEFINE_LOG(name, level)                                                                    \
  void name(const char *format, ...) {                                                             \
    va_list arguments;                                                                             \
    va_start(arguments, format);                                                                   \
    log_message(level, format, arguments);                                                         \
    va_end(arguments);                                                                             \
  }

DEFINE_LOG(log_debug, LOG_DEBUG)
DEFINE_LOG(log_info, LOG_INFO)
DEFINE_LOG(log_warning, LOG_WARNING)
DEFINE_LOG(log_error, LOG_ERROR)

void log_set_rank(int rank, int world_size) {
  lock();
  own_rank = rank;
  ranks = world_size;
  pthread_mutex_unlock(&mutex);
}

void log_status_line(const char *text) {
  lock();
  if (terminal && (text || status_line)) {
    Text line = {0};
    text_append(&line, CLEAR_LINE);
    if (text) text_append_bytes(&line, text, fitting_bytes(text));
    write_all(line.data, line.length);
    text_free(&line);
    free(status_line);
    status_line = text ? mem_string(text) : NULL;
  }
  pthread_mutex_unlock(&mutex);
}

bool log_is_terminal(void) {
  lock();
  bool answer = terminal;
  pthread_mutex_unlock(&mutex);
  return answer;
}
