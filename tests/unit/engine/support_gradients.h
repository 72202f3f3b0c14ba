/* First and second derivatives. Each network's loss is a weighted sum of squares of its output, and
 * a second loss is a random combination of the first one's gradients. Both losses' gradients are
 * held against central differences, all of it in double, and then what a backend computes, with and
 * without fusion, against those. */
#ifndef CELFORGE_TESTS_ENGINE_SUPPORT_GRADIENTS_H
#define CELFORGE_TESTS_ENGINE_SUPPORT_GRADIENTS_H

#include "engine/backend/backend.h"

enum { MOST_WRT = 6 };

/* A graph under test. */
typedef struct Net {
  Graph *graph;
  Buffer in, out; /* sources; losses and gradients as the backend computes them */
  int64_t in_used, out_used;
  Value wrt[MOST_WRT];
  int wrt_count;
  struct {
    Value loss, gradients[MOST_WRT];
  } order[2]; /* first and second derivatives */
} Net;

/* Random numbers of this shape; a variable is differentiated by. */
Value net_source(Net *net, Shape shape);
Value net_variable(Net *net, Shape shape);

typedef Value Build(Net *net);

typedef struct GradientCase {
  const char *name;
  Build *build;
  double tolerance; /* of the backend's gradients, relative, in norm */
  bool bf16;        /* with convolutions in bf16 */
} GradientCase;

enum { GRADIENT_CASES = 49 };
extern const GradientCase gradient_cases[GRADIENT_CASES];

/* Fails the test, naming case and derivative. */
void gradient_check(const GradientCase *test, Backend *backend);

#endif
