/* Error reporting: a status and a message.
 *
 * Functions that can fail return a Status and take an `Error *` as their last argument, which they
 * fill if and only if they do not return OK. A message names the file, the location, the value
 * found and the values allowed; it has no trailing newline. main returns the Status as the exit
 * code, so its numbers are those of sysexits.h.
 *
 * A typical function:
 *
 *     Status thing_load(const char *path, Thing *thing, Error *error) {
 *       Status status = OK;
 *       char *bytes = NULL;
 *       TRY(file_read(path, MAX_BYTES, &bytes, &size, error));
 *       TRY(thing_parse(bytes, size, thing, error));
 *     done:
 *       free(bytes);
 *       return status;
 *     }
 */
#ifndef CELFORGE_BASE_ERROR_H
#define CELFORGE_BASE_ERROR_H

typedef enum Status {
  OK = 0,
  ERROR_USAGE = 64,    /* EX_USAGE: wrong command line or config */
  ERROR_DATA = 65,     /* EX_DATAERR: invalid content of a file */
  ERROR_INTERNAL = 70, /* EX_SOFTWARE: a bug in Celforge, or out of memory */
  ERROR_IO = 74,       /* EX_IOERR: a read, write or other system call failed */
  STOPPED = 75, /* EX_TEMPFAIL: stopped by a signal; train has saved a checkpoint to resume from */
} Status;

enum { ERROR_MESSAGE_SIZE = 2048 };

typedef struct Error {
  Status status;
  char message[ERROR_MESSAGE_SIZE]; /* UTF-8; ends in "..." if it was cut */
} Error;

/* Formats a message into `error` (or NULL) and returns `status`. Arguments may point into
 * error->message. */
Status error_set(Error *error, Status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Like error_set with ERROR_IO, and appends ": " and the text of `errnum` (an errno value). If the
 * message is too long, the text of `errnum` is kept and the rest is cut. */
Status error_errno(Error *error, int errnum, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Prepends "CONTEXT: " to the message in `error` and returns its status; ERROR_INTERNAL if `error`
 * is NULL, because the status is then unknown. */
Status error_context(Error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

#ifdef __clang_analyzer__ /* tells the analyzer that these never return OK */
#define error_set(error, status, ...) ((error_set)(error, status, __VA_ARGS__), (status))
#define error_errno(error, ...)       ((error_errno)(error, __VA_ARGS__), ERROR_IO)
#endif

/* Evaluates a call that returns Status. On failure sets `status` and jumps to `done`. */
#define TRY(call)                                                                                  \
  do {                                                                                             \
    status = (call);                                                                               \
    if (status != OK) goto done;                                                                   \
  } while (0)

/* Sets a new error and jumps to `done`: FAIL(error, ERROR_DATA, "%s: ...", path). */
#define FAIL(error, code, ...)                                                                     \
  do {                                                                                             \
    status = error_set((error), (code), __VA_ARGS__);                                              \
    goto done;                                                                                     \
  } while (0)

#endif
