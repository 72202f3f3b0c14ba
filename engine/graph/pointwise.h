/* Names, operand counts and validation of the instructions of pointwise programs, for builders,
 * fusion and the kernels of every backend. */
#ifndef CELFORGE_ENGINE_GRAPH_POINTWISE_H
#define CELFORGE_ENGINE_GRAPH_POINTWISE_H

#include "engine/graph/op.h"

const char *pointwise_name(PointwiseCode code); /* "leaky_relu" */
/* The number of registers an instruction reads: 0, 1 (a) or 2 (a and b). */
int pointwise_operands(PointwiseCode code);
/* True if all codes are known, every register is written before it is read, and the program with
 * `inputs` inputs and `outputs` outputs is within POINTWISE_MAX_*. */
bool pointwise_well_formed(const PointwiseProgram *program, int inputs, int outputs);

#endif
