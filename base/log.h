/* A levelled log on standard error: "12:30:01.123 [2] warning: text". The rank in brackets is
 * printed when there is more than one rank. Messages below the level that the environment names
 * (CELFORGE_LOG=debug|info|warning|error; info otherwise) are dropped. Safe to call from any
 * thread; one write(2) a line; errno is left alone. */
#ifndef CELFORGE_BASE_LOG_H
#define CELFORGE_BASE_LOG_H

#include <stdbool.h>

/* Told once after the process group is up. Info of ranks other than 0 is dropped from then on;
 * warnings and errors of every rank are printed. */
void log_set_rank(int rank, int world_size);

void log_debug(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_warning(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A line that stays at the bottom of the terminal and is redrawn (a progress bar). NULL removes it.
 * It is cut to the terminal's width; the log clears it before a message and draws it again behind.
 * Does nothing where standard error is no terminal; log_is_terminal says which. */
void log_status_line(const char *text);
bool log_is_terminal(void);

#endif
