/* What the instructions of a pointwise program are called, what they read, and whether a program
 * makes sense: for the builders, fusion and the kernels of every backend. */
#ifndef CELFORGE_ENGINE_GRAPH_POINTWISE_H
#define CELFORGE_ENGINE_GRAPH_POINTWISE_H

#include "engine/graph/op.h"

const char *pointwise_name(PointwiseCode code); /* "leaky_relu" */
/* How many registers it reads: 0, 1 (a) or 2 (a and b). */
int pointwise_operands(PointwiseCode code);
/* Whether all codes are known, every register is read behind the instruction that writes it, and
 * the program, with `inputs` inputs and `outputs` outputs, keeps to POINTWISE_MAX_*. */
bool pointwise_well_formed(const PointwiseProgram *program, int inputs, int outputs);

#endif
