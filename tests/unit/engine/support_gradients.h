/* First and second derivatives. The loss of each network is a weighted sum of squares of its
 * output; a second loss is a random combination of the gradients of the first. The gradients of
 * both are compared with central differences in double, then those of a backend, with and without
 * fusion, with these. */
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

/* Random numbers of this shape; gradients are taken with respect to variables. */
Value net_source(Net *net, Shape shape);
Value net_variable(Net *net, Shape shape);

typedef Value Build(Net *net);

typedef struct GradientCase {
  const char *name;
  Build *build;
  double tolerance; /* of the gradients of the backend; relative, in norm */
  bool bf16;        /* with convolutions or matrix products in bf16 */
} GradientCase;

enum { GRADIENT_CASES = 57 };
extern const GradientCase gradient_cases[GRADIENT_CASES];

/* Fails the test, naming case and derivative. */
void gradient_check(const GradientCase *test, Backend *backend);

#endif
