/* Smooths the edges of frames, for the comparison with OpenCV.
 *
 *   edges HEIGHT WIDTH
 *
 * Reads u8 [N,H,W,3] from standard input and writes the frames with smoothed edges to standard
 * output. */
#include <stdio.h>
#include <stdlib.h>

#include "base/bulk_memory.h"
#include "data/loader/edge_smoothing.h"

static Status run(int height, int width, Error *error) {
  Status status = OK;
  size_t bytes = 3 * (size_t)height * (size_t)width;
  EdgeSmoother *smoother = NULL;
  uint8_t *frame = NULL, *out = NULL;
  TRY(mem_bulk(bytes, "a frame", (void **)&frame, error));
  TRY(mem_bulk(bytes, "a frame", (void **)&out, error));
  TRY(edge_smoother_new(height, width, &smoother, error));
  while (fread(frame, 1, bytes, stdin) == bytes) {
    edge_smoother_apply(smoother, frame, out);
    if (fwrite(out, 1, bytes, stdout) != bytes)
      FAIL(error, ERROR_IO, "standard output: cannot write");
  }
done:
  edge_smoother_free(smoother);
  free(frame);
  free(out);
  return status;
}

int main(int argc, char **argv) {
  Error error = {0};
  if (argc != 3) {
    fprintf(stderr, "edges: %d arguments given, 2 expected; see the head of edges.c\n", argc - 1);
    return ERROR_USAGE;
  }
  Status status = run((int)strtol(argv[1], NULL, 10), (int)strtol(argv[2], NULL, 10), &error);
  if (status != OK) fprintf(stderr, "edges: %s\n", error.message);
  return (int)status;
}
