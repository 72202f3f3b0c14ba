/* A temporary folder for the heartbeats of a test program. */
#ifndef CELFORGE_TESTS_UNIT_COMM_SUPPORT_FOLDER_H
#define CELFORGE_TESTS_UNIT_COMM_SUPPORT_FOLDER_H

#include <stdbool.h>

extern char folder[256];

/* Set-up and tear-down of a group of tests. */
int make_folder(void **state);
int remove_folder(void **state);
/* Replaces FOLDER/NAME. */
void write_text(const char *name, const char *text);
bool file_exists(const char *name);

#endif
