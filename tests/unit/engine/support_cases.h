/* Random cases of every kind of op, for any backend. */
#ifndef CELFORGE_TESTS_ENGINE_SUPPORT_CASES_H
#define CELFORGE_TESTS_ENGINE_SUPPORT_CASES_H

#include "support_case.h"

/* One kind of op (or one side of it): how to draw a case, and how many a test runs. */
typedef struct CaseFamily {
  const char *name;
  Case (*draw)(Random *random);
  int count;
} CaseFamily;

enum { CASE_FAMILIES = 22 };
extern const CaseFamily case_families[CASE_FAMILIES];

/* Checks the family's first cases, at most `most`, the backends taking turns. Convolutions in bf16
 * are left out where the backend has none. */
void family_check(const CaseFamily *family, int most, Backend *const *backends, int backend_count);

#endif
