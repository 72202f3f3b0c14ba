/* A log with levels on standard error: "12:30:01.123 [2] warning: text". The rank in brackets is
 * printed if there are several ranks. Messages below the level in the environment variable
 * CELFORGE_LOG (debug, info, warning or error; default info) are dropped. Safe to call from any
 * thread; each line is one write(2); errno is preserved. */
#ifndef CELFORGE_BASE_LOG_H
#define CELFORGE_BASE_LOG_H

#include <stdbool.h>

/* Sets the rank, once the process group is open. From then on ranks other than 0 print only
 * warnings and errors. */
void log_set_rank(int rank, int world_size);

void log_debug(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_warning(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Shows a line at the bottom of the terminal, such as a progress bar, cut to the terminal's width.
 * Messages are printed above it. NULL removes it. Does nothing if standard error is not a terminal.
 */
void log_status_line(const char *text);
/* Returns whether standard error is a terminal that can redraw a line. */
bool log_is_terminal(void);

#endif
