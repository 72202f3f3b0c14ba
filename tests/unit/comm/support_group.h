/* What the tests of the group share. */
#ifndef CELFORGE_TESTS_COMM_SUPPORT_GROUP_H
#define CELFORGE_TESTS_COMM_SUPPORT_GROUP_H

#include "comm/comm.h"

extern Comm *group; /* that the program opens */

void must(Status status, const Error *error);
/* The same bytes on every rank. */
void must_agree(const void *data, size_t bytes);
/* What rank `rank` puts in, so that every rank can compute every other's. Elements at i have
 * magnitudes up to 2^(i % 13 - 1). */
void fill(float *values, int64_t count, int rank, uint32_t round);
float *new_floats(int64_t count);
/* bfloat16 by cutting, and back. */
uint16_t to_bf16(float value);
float from_bf16(uint16_t half);
/* Prints the message and ends every rank with the status; returns 1 where there was no error. */
int leave(Status status, const Error *error);
/* Closes the group; where a test has failed, ends every rank with 1. */
int end_tests(int failed);
/* Of ranks other than 0: no output of tests. */
void quiet_others(void);

#endif
