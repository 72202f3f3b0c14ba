/* Optical flow between grey pictures: for the test that holds it against OpenCV's.
 *
 *   flow HEIGHT WIDTH THREADS
 *
 * Reads u8 [N,H,W] from standard input, writes the flow from each picture to the next, f32
 * [N-1,H,W,2], to standard output. */
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "trainer/eval/optical_flow.h"

typedef struct Job {
  int height, width, threads;
  size_t pixels;
  Flow *flow;
  FlowPicture *before, *now;
  uint8_t *grey;
  float *out;
} Job;

static Status set_up(Job *job, Error *error) {
  Status status = OK;
  job->pixels = (size_t)job->height * (size_t)job->width;
  TRY(mem_bulk(job->pixels, "a picture", (void **)&job->grey, error));
  TRY(mem_bulk(job->pixels * 2 * sizeof(float), "a flow", (void **)&job->out, error));
  TRY(flow_new(job->height, job->width, job->threads, &job->flow, error));
  TRY(flow_picture_new(job->flow, &job->before, error));
  TRY(flow_picture_new(job->flow, &job->now, error));
done:
  return status;
}

static Status run(Job *job, Error *error) {
  Status status = OK;
  TRY(set_up(job, error));
  for (int64_t n = 0; fread(job->grey, 1, job->pixels, stdin) == job->pixels; n++) {
    FlowPicture *oldest = job->before;
    job->before = job->now;
    job->now = oldest;
    flow_expand(job->flow, job->grey, job->now);
    if (n == 0) continue;
    flow_between(job->flow, job->before, job->now, job->out);
    if (fwrite(job->out, 2 * sizeof(float), job->pixels, stdout) != job->pixels)
      FAIL(error, ERROR_IO, "standard output: could not write a flow");
  }
done:
  flow_picture_free(job->before);
  flow_picture_free(job->now);
  flow_free(job->flow);
  free(job->grey);
  free(job->out);
  return status;
}

int main(int argc, char **argv) {
  Error error = {0};
  if (argc != 4) {
    fprintf(stderr, "flow: 3 arguments, not %d; its head says which\n", argc - 1);
    return ERROR_USAGE;
  }
  Job job = {.height = (int)strtol(argv[1], NULL, 10),
             .width = (int)strtol(argv[2], NULL, 10),
             .threads = (int)strtol(argv[3], NULL, 10)};
  Status status = run(&job, &error);
  if (status != OK) fprintf(stderr, "flow: %s\n", error.message);
  return (int)status;
}
