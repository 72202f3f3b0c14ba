/* Max pooling over windows of 3 x 3 pixels, of which neighbours share a row or column, made of the
 * engine's ops: Inception and AlexNet pool like that. */
#ifndef CELFORGE_TRAINER_EVAL_MAX_POOL3_H
#define CELFORGE_TRAINER_EVAL_MAX_POOL3_H

#include "engine/graph/graph.h"

/* Stride 2 without padding: sides become floor((side - 3) / 2) + 1. PyTorch's max_pool2d(x, 3, 2),
 * up to the rounding of one addition. */
Value max_pool3_half(Graph *graph, Value x);
/* Stride 1, same size. x must be at least 0 (the output of a ReLU), so that zeros beyond the border
 * do not count. */
Value max_pool3_same(Graph *graph, Value x);

#endif
