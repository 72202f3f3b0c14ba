/* One op with random shapes and contents, run by the kernel of a backend and by the reference. */
#ifndef CELFORGE_TESTS_ENGINE_SUPPORT_CASE_H
#define CELFORGE_TESTS_ENGINE_SUPPORT_CASE_H

#include "base/random.h"
#include "engine/backend/backend.h"

typedef struct Case {
  Op op;
  Tensor inputs[OP_MAX_INPUTS], outputs[OP_MAX_OUTPUTS]; /* shape and dtype; dim 0: absent */
  const float *content[OP_MAX_INPUTS]; /* content of an input; NULL: normal random numbers */
  bool special;                        /* some are infinities, NaN and zeros */
  bool positive[OP_MAX_INPUTS];        /* content is above 0 (second moments) */
  float offset[OP_MAX_INPUTS];         /* added to the content of an input */
  int in_place;                        /* output 0 shares the memory of this input; -1: none */
  int alignment;                       /* of data, in elements: 1 any, 16 as parameters */
  double tolerance;                    /* of relative_error; 0: by the dtype of the output */
} Case;

Case case_new(OpKind kind);
int64_t draw(Random *random, int64_t low, int64_t high); /* both included */
Shape draw_shape(Random *random);
DType draw_dtype(Random *random); /* f32 or bf16 */

/* Runs the case twice in memory of the backend. Fails the test, naming `name`, `seed` and shapes,
 * if the kernel fails, its results differ from those of the reference or between the runs (i64 must
 * be equal), or it writes beyond the end of a tensor. */
void case_check(Case *test, Backend *backend, Random *random, const char *name, uint64_t seed);

/* |a - b| / max(|b|, tiny) in the Euclidean norm; infinite if NaN or infinities are at different
 * positions. */
double relative_error(const double *a, const double *b, int64_t count);

#endif
