/* Random cases of every kind of op, for any backend. */
#ifndef CELFORGE_TESTS_ENGINE_SUPPORT_CASES_H
#define CELFORGE_TESTS_ENGINE_SUPPORT_CASES_H

#include "support_case.h"

/* One kind of op (or one side of it): the generator of its cases, and the number that a test runs.
 */
typedef struct CaseFamily {
  const char *name;
  Case (*draw)(Random *random);
  int count;
} CaseFamily;

enum { CASE_FAMILIES = 24 };
extern const CaseFamily case_families[CASE_FAMILIES];

/* Generators in support_cases_motion.c. */
Case case_matmul(Random *random);
Case case_warp(Random *random);
Case case_translate(Random *random);

/* Checks the first cases of the family, at most `most`, alternating between the backends. Skips
 * bf16 convolutions on backends without them. */
void family_check(const CaseFamily *family, int most, Backend *const *backends, int backend_count);

#endif
