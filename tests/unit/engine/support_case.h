/* One op with random shapes and contents, run by a backend's kernel and by the reference. */
#ifndef CELFORGE_TESTS_ENGINE_SUPPORT_CASE_H
#define CELFORGE_TESTS_ENGINE_SUPPORT_CASE_H

#include "base/random.h"
#include "engine/backend/backend.h"

typedef struct Case {
  Op op;
  Tensor inputs[OP_MAX_INPUTS], outputs[OP_MAX_OUTPUTS]; /* shape and dtype; dim 0: absent */
  const float *content[OP_MAX_INPUTS]; /* what an input holds (f32); NULL: normal random numbers */
  bool special;                        /* with infinities, NaN and zeros among them */
  bool positive[OP_MAX_INPUTS];        /* contents above 0 (second moments) */
  float offset[OP_MAX_INPUTS];         /* is added to an input's contents */
  int in_place;                        /* output 0 lies in this input's memory; -1: in its own */
  int alignment;                       /* of data, in elements: 1 any, 16 that of parameters */
  double tolerance;                    /* relative, in norm; 0: by the output's dtype */
} Case;

Case case_new(OpKind kind);
int64_t draw(Random *random, int64_t low, int64_t high); /* both included */
Shape draw_shape(Random *random);
DType draw_dtype(Random *random); /* f32 or bf16 */

/* Runs the case twice in the backend's memory and fails the test, naming `name`, `seed` and shapes,
 * where the kernel's results differ from the reference's or from run to run, something was written
 * behind the end, or the kernel fails. */
void case_check(Case *test, Backend *backend, Random *random, const char *name, uint64_t seed);

/* |a - b| / max(|b|, tiny) in the Euclidean norm; NaN and infinities must be in the same places. */
double relative_error(const double *a, const double *b, int64_t count);

#endif
