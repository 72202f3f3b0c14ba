/* Ranges of a vector, cut into pieces, so that sums over them are added in an order that depends on
 * the ranges alone, not on how many threads or blocks there are. */
#ifndef CELFORGE_ENGINE_BACKEND_SEGMENTS_H
#define CELFORGE_ENGINE_BACKEND_SEGMENTS_H

#include <stdint.h>

/* Piece p is elements begin[p] to begin[p + 1] - 1; range r is pieces first[r] to first[r + 1] - 1.
 */
typedef struct Pieces {
  int ranges;
  int64_t count; /* of pieces */
  int64_t *begin, *first;
} Pieces;

/* Range r is elements borders[r] to borders[r + 1] - 1; borders ascend. Pieces have at most `most`
 * elements, and all but a range's last one have so many. */
Pieces pieces_cut(const int64_t *borders, int ranges, int64_t most);
void pieces_free(Pieces *pieces);

#endif
