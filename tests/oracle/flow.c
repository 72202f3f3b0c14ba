/* Computes optical flow between grey images, for the comparison with OpenCV.
 *
 *   flow HEIGHT WIDTH THREADS
 *
 * Reads u8 [N,H,W] from standard input, writes the flow from each image to the next, f32
 * [N-1,H,W,2], to standard output. */
#include <stdio.h>
#include <stdlib.h>

#include "base/bulk_memory.h"
#include "data/flow/optical_flow.h"

typedef struct Job {
  int height, width, threads;
  size_t pixels;
  Flow *flow;
  FlowPyramid *previous, *current;
  uint8_t *grey;
  float *out;
} Job;

static Status set_up(Job *job, Error *error) {
  Status status = OK;
  job->pixels = (size_t)job->height * (size_t)job->width;
  TRY(mem_bulk(job->pixels, "an image", (void **)&job->grey, error));
  TRY(mem_bulk(job->pixels * 2 * sizeof(float), "a flow", (void **)&job->out, error));
  TRY(flow_new(job->height, job->width, job->threads, &job->flow, error));
  TRY(flow_pyramid_new(job->flow, &job->previous, error));
  TRY(flow_pyramid_new(job->flow, &job->current, error));
done:
  return status;
}

static Status run(Job *job, Error *error) {
  Status status = OK;
  TRY(set_up(job, error));
  for (int64_t n = 0; fread(job->grey, 1, job->pixels, stdin) == job->pixels; n++) {
    FlowPyramid *oldest = job->previous;
    job->previous = job->current;
    job->current = oldest;
    flow_expand(job->flow, job->grey, job->current);
    if (n == 0) continue;
    flow_between(job->flow, job->previous, job->current, job->out);
    if (fwrite(job->out, 2 * sizeof(float), job->pixels, stdout) != job->pixels)
      FAIL(error, ERROR_IO, "standard output: cannot write");
  }
done:
  flow_pyramid_free(job->previous);
  flow_pyramid_free(job->current);
  flow_free(job->flow);
  free(job->grey);
  free(job->out);
  return status;
}

int main(int argc, char **argv) {
  Error error = {0};
  if (argc != 4) {
    fprintf(stderr, "flow: %d arguments given, 3 expected; see the head of flow.c\n", argc - 1);
    return ERROR_USAGE;
  }
  Job job = {.height = (int)strtol(argv[1], NULL, 10),
             .width = (int)strtol(argv[2], NULL, 10),
             .threads = (int)strtol(argv[3], NULL, 10)};
  Status status = run(&job, &error);
  if (status != OK) fprintf(stderr, "flow: %s\n", error.message);
  return (int)status;
}
