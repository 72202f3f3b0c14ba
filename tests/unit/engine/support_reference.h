/* Every op as plain loops in double, as the reference for backends, and an interpreter of whole
 * graphs on top, without rounding between ops, which makes finite differences accurate. */
#ifndef CELFORGE_TESTS_ENGINE_SUPPORT_REFERENCE_H
#define CELFORGE_TESTS_ENGINE_SUPPORT_REFERENCE_H

#include "engine/graph/internal.h"

typedef struct Array {
  Shape shape;
  double *data; /* NULL: absent */
} Array;

/* Runs any kind but OP_VIEW, OP_RESHAPE, OP_DETACH and OP_ALL_REDUCE. Updates write their input
 * arrays. */
void reference_run(const Op *op, const Array *inputs, const Array *outputs);

/* Families of ops, called by reference_run. */
void reference_convolution(const Op *op, const Array *inputs, const Array *outputs);
void reference_norm(const Op *op, const Array *inputs, const Array *outputs);
void reference_matmul(const Op *op, const Array *inputs, const Array *outputs);
void reference_motion(const Op *op, const Array *inputs, const Array *outputs);
void reference_update(const Op *op, const Array *inputs);

/* Iterates over the positions of a tensor: start with `p` zeroed; false after the last position. */
bool reference_next(Shape shape, int64_t p[RANK]);
int64_t reference_at(Shape shape, const int64_t p[RANK]); /* axes of length 1 broadcast */
/* The element `from` of `inner` that element `to` of the padded tensor copies; false if `to` is
 * zero padding. */
bool reference_behind_padding(const PadAttributes *pad, Shape inner, const int64_t to[RANK],
                              int64_t from[RANK]);
double reference_activation(Activation activation, float slope, double x);

/* The buffers of a graph as doubles and, after evaluation, its values. */
typedef struct Reference Reference;
Reference *reference_new(const Graph *graph); /* copies what the buffers hold */
void reference_free(Reference *reference);
double *reference_buffer(Reference *reference, const Buffer *buffer);
void reference_evaluate(Reference *reference); /* runs every op in order */
const double *reference_value(const Reference *reference, Value value);

#endif
