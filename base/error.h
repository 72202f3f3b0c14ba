/* What went wrong, where, and with which value.
 *
 * Functions that can fail return a Status and take an `Error *` last, which they fill when and
 * only when they return something other than OK. A message names the file, the place, the value
 * found and what is allowed; it has no trailing newline. Only main turns a Status into an exit
 * code, so the numbers are those of sysexits.h.
 *
 * The usual shape of a function:
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
  ERROR_DATA = 65,     /* EX_DATAERR: a file's content is not what it must be */
  ERROR_INTERNAL = 70, /* EX_SOFTWARE: a broken promise inside Celforge, or no memory */
  ERROR_IO = 74,       /* EX_IOERR: the operating system could not read or write */
  STOPPED = 75,        /* EX_TEMPFAIL: by a signal; train has saved a checkpoint: run again */
} Status;

enum { ERROR_MESSAGE_SIZE = 2048 };

typedef struct Error {
  Status status;
  char message[ERROR_MESSAGE_SIZE]; /* UTF-8, cut with "..." when it does not fit */
} Error;

/* Fills `error` (which may be NULL) and returns `status`. */
Status error_set(Error *error, Status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Like error_set with ERROR_IO, with ": " and the text of `errnum` (an errno value) behind it,
 * which is kept whole when the message is cut. */
Status error_errno(Error *error, int errnum, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "<context>: " before the message that is there and returns its status unchanged (with a NULL
 * `error` that is not known: ERROR_INTERNAL). */
Status error_context(Error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

#ifdef __clang_analyzer__ /* it cannot see into error.c that these never return OK */
#define error_set(error, status, ...) ((error_set)(error, status, __VA_ARGS__), (status))
#define error_errno(error, ...)       ((error_errno)(error, __VA_ARGS__), ERROR_IO)
#endif

/* Evaluates a call that returns Status; on failure goes to `done` with `status` set. */
#define TRY(call)                                                                                  \
  do {                                                                                             \
    status = (call);                                                                               \
    if (status != OK) goto done;                                                                   \
  } while (0)

/* Fails the function with a new error: FAIL(error, ERROR_DATA, "%s: ...", path). */
#define FAIL(error, code, ...)                                                                     \
  do {                                                                                             \
    status = error_set((error), (code), __VA_ARGS__);                                              \
    goto done;                                                                                     \
  } while (0)

#endif
