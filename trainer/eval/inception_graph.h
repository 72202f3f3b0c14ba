/* The layers of Inception v3 (trainer/eval/inception.h). */
#ifndef CELFORGE_TRAINER_EVAL_INCEPTION_GRAPH_H
#define CELFORGE_TRAINER_EVAL_INCEPTION_GRAPH_H

#include "engine/parameters/parameters.h"

/* Appends the network on images [N,1,299,299,3] in [-1, 1], f32; returns features [N,1,1,1,2048].
 * Declares a weight, then a bias for each convolution: "Mixed_5b.branch1x1.weight". */
Value inception_build(Graph *graph, Parameters *parameters, Value images);

#endif
