/* Preparations of main, before the command starts. */
#ifndef CELFORGE_BASE_PROCESS_H
#define CELFORGE_BASE_PROCESS_H

#include <stdbool.h>

#include "base/error.h"

/* Opens /dev/null in place of those of standard input, output and error that are closed. Otherwise
 * the next file opened would get the number of one of them, and receive its text. Returns ERROR_IO
 * if that fails; there is then nowhere to print a message. */
Status process_open_standard_streams(void);

/* Ignores SIGXFSZ, so that a write beyond the limit of file sizes (ulimit -f) fails with EFBIG
 * instead of ending the process. */
void process_ignore_file_size_signal(void);

/* Checks OMP_NUM_THREADS: a positive number, or several separated by commas (nested levels). Any
 * other text is ERROR_USAGE. A number above host_thread_limit() would end the process in libgomp
 * without a useful message: the variable is set to the number of processors, with a warning, and
 * *changed tells that the program must execute itself again, as libgomp has read it before main. */
Status process_check_openmp(bool *changed, Error *error);

#endif
