#include "engine/backend/segments.h"

#include <stdlib.h>

#include "base/memory.h"

Pieces pieces_cut(const int64_t *borders, int ranges, int64_t most) {
  Pieces pieces = {.ranges = ranges};
  pieces.first = mem_new((size_t)ranges + 1, sizeof *pieces.first);
  for (int r = 0; r < ranges; r++)
    pieces.first[r + 1] = pieces.first[r] + (borders[r + 1] - borders[r] + most - 1) / most;
  pieces.count = pieces.first[ranges];
  pieces.begin = mem_new((size_t)pieces.count + 1, sizeof *pieces.begin);
  for (int r = 0; r < ranges; r++) {
    for (int64_t p = pieces.first[r]; p < pieces.first[r + 1]; p++)
      pieces.begin[p] = borders[r] + (p - pieces.first[r]) * most;
  }
  pieces.begin[pieces.count] = borders[ranges];
  return pieces;
}

void pieces_free(Pieces *pieces) {
  free(pieces->begin);
  free(pieces->first);
  *pieces = (Pieces){0};
}
