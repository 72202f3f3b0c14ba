/* Every op as plain loops in double, for tests to hold backends against, and an interpreter that
 * runs a whole graph so, without rounding between ops: finite differences of it are sharp. */
#ifndef CELFORGE_TESTS_ENGINE_SUPPORT_REFERENCE_H
#define CELFORGE_TESTS_ENGINE_SUPPORT_REFERENCE_H

#include "engine/graph/internal.h"

typedef struct Array {
  Shape shape;
  double *data; /* NULL: absent */
} Array;

/* Runs any kind but OP_VIEW, OP_RESHAPE and OP_ALL_REDUCE. Effects write their input arrays. */
void reference_run(const Op *op, const Array *inputs, const Array *outputs);

/* The families of ops that have a file of their own. */
void reference_convolution(const Op *op, const Array *inputs, const Array *outputs);
void reference_norm(const Op *op, const Array *inputs, const Array *outputs);
void reference_effect(const Op *op, const Array *inputs);

/* Positions in a tensor: `p` is zeroed first, next goes through all and ends with false. */
bool reference_next(Shape shape, int64_t p[RANK]);
int64_t reference_at(Shape shape, const int64_t p[RANK]); /* axes of length 1 broadcast */
/* Where the element `to` of a tensor padded around `inner` comes from; false: from nowhere, it is
 * zero. */
bool reference_behind_padding(const PadAttributes *pad, Shape inner, const int64_t to[RANK],
                              int64_t from[RANK]);
double reference_activation(Activation activation, float slope, double x);

/* A graph's buffers as doubles and, once evaluated, its values. */
typedef struct Reference Reference;
Reference *reference_new(const Graph *graph); /* copies what the buffers hold */
void reference_free(Reference *reference);
double *reference_buffer(Reference *reference, const Buffer *buffer);
void reference_evaluate(Reference *reference); /* runs every op in order */
const double *reference_value(const Reference *reference, Value value);

#endif
