/* Temporary files of atomic writes (base/files.h), and which of them killed processes have left.
 *
 * The temporary file of NAME is called "NAME.HOST-PID.tmp", HOST being the CRC-32C of the host's
 * name. Its process holds a lock on it (flock) until it is renamed or removed, so a file without a
 * lock is a leftover. Locks of other hosts cannot be seen on every file system: their files are
 * always kept. */
#ifndef CELFORGE_BASE_TEMPORARY_H
#define CELFORGE_BASE_TEMPORARY_H

#include <stdbool.h>

#include "base/error.h"

/* Returns the name for a process of this host; the caller frees it. */
char *temporary_name(const char *path, int pid);

/* Creates and locks a new temporary file of `path`, with another number behind PID where a living
 * process has the name. On file systems without locks it has none, and is never taken for a
 * leftover. */
Status temporary_create(const char *path, int *descriptor, char **temporary, Error *error);

/* Whether `path` is still the open file or folder, which was locked after it had been created: in
 * between another process may have taken it for a leftover. */
bool temporary_is_held(const char *path, int descriptor);

/* Removes the leftovers of `name` in `folder`; of all names if it is NULL. Failures are not
 * reported: a leftover does no harm but take space. */
void temporary_remove_leftovers(const char *folder, const char *name);
/* The same for a path. */
void temporary_remove_leftovers_of(const char *path);

#endif
