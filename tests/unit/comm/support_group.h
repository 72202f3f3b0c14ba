/* Shared by the tests of the process group. */
#ifndef CELFORGE_TESTS_UNIT_COMM_SUPPORT_GROUP_H
#define CELFORGE_TESTS_UNIT_COMM_SUPPORT_GROUP_H

#include "comm/comm.h"

extern Comm *group; /* opened by the test program */

/* Fails the test with the error's message unless `status` is OK. */
void must(Status status, const Error *error);
/* Fails the test unless all ranks pass the same bytes. */
void must_agree(const void *data, size_t bytes);
/* Writes the values that rank `rank` contributes; every rank can compute those of all others.
 * Element i has a magnitude of up to 2^(i % 13 - 1). */
void fill(float *values, int64_t count, int rank, uint32_t round);
float *new_floats(int64_t count);
/* Returns 1 if `status` is OK, else prints the message and ends every rank with the status. */
int exit_on_error(Status status, const Error *error);
/* Closes the group, or ends every rank with 1 if a test has failed. */
int end_tests(int failed);
/* Discards the test output of all ranks but 0. */
void silence_other_ranks(void);

#endif
