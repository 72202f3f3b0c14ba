/* Where bf16 values are rounded is a property of the graph: checks for any backend that fused
 * programs compute the bits of unfused ones, and that what else reads a value does not change other
 * values. They fail the test. */
#ifndef CELFORGE_TESTS_ENGINE_SUPPORT_ROUNDING_H
#define CELFORGE_TESTS_ENGINE_SUPPORT_ROUNDING_H

#include "engine/backend/backend.h"

/* `count` random chains of pointwise ops of both dtypes and sums of them. */
void check_random_chains(Backend *backend, int count);
/* A convolutional GRU in bf16: the same states with and without its backward pass. */
void check_recurrent_layer(Backend *backend);

#endif
