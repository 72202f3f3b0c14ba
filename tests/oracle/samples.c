/* Writes the batches of a training run as the loader gives them, for tests that train beside it.
 *
 *   samples DATA TARGETS SEED GLOBAL_BATCH FIRST_STEP STEPS
 *
 * TARGETS is "-" for pairs. Samples are whole clips, not flipped. Writes for each step the sources
 * u8 [G,T,H,W,C], the targets u8 [G,T,H',W',3], these with smoothed edges, and of clips with
 * several frames the optical flow f32 [G,T-1,H,W,2] and its mask f32 [G,T-1,H,W,1] to standard
 * output. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/loader/loader.h"

enum { ARGUMENTS = 6 };

static Status write_all(const void *data, size_t bytes, Error *error) {
  if (!data || fwrite(data, 1, bytes, stdout) == bytes) return OK;
  return error_set(error, ERROR_IO, "standard output: cannot write");
}

static Status write_batch(const Batch *batch, const ClipShape *shape, Error *error) {
  Status status = OK;
  size_t count = (size_t)batch->count;
  size_t flows = count * (size_t)(shape->frames - 1) * (size_t)shape->source_height *
                 (size_t)shape->source_width * sizeof(float);
  TRY(write_all(batch->source, count * clip_source_bytes(shape), error));
  TRY(write_all(batch->target, count * clip_target_bytes(shape), error));
  TRY(write_all(batch->smoothed, count * clip_target_bytes(shape), error));
  TRY(write_all(batch->flow, 2 * flows, error));
  TRY(write_all(batch->flow_mask, flows, error));
done:
  return status;
}

static Status write_steps(Loader *loader, int64_t steps, Error *error) {
  Status status = OK;
  const ClipShape shape = loader_shape(loader);
  for (int64_t i = 0; i < steps; i++) {
    Batch *batch = NULL;
    TRY(loader_next(loader, &batch, error));
    status = write_batch(batch, &shape, error);
    loader_release(loader, batch);
    TRY(status);
  }
done:
  return status;
}

static Status run(char **arguments, Error *error) {
  Status status = OK;
  Dataset *data = NULL, *targets = NULL;
  Loader *loader = NULL;
  int64_t numbers[4];
  for (int i = 0; i < 4; i++) numbers[i] = strtoll(arguments[3 + i], NULL, 10);
  TRY(dataset_open(arguments[1], &data, error));
  if (strcmp(arguments[2], "-") != 0) TRY(dataset_open(arguments[2], &targets, error));
  const LoaderOptions options = {.seed = (uint64_t)numbers[0],
                                 .global_batch = numbers[1],
                                 .micro_batch = (int)numbers[1],
                                 .world_size = 1,
                                 .crop_multiple = 1,
                                 .smooth_edges = true,
                                 .flow = dataset_info(data)->shape.frames > 1,
                                 .threads = 1,
                                 .prefetch_batches = 2,
                                 .timeout = 100};
  TRY(loader_open(data, targets, &options, numbers[2], &loader, error));
  TRY(write_steps(loader, numbers[3], error));
done:
  loader_close(loader);
  dataset_close(targets);
  dataset_close(data);
  return status;
}

int main(int argc, char **argv) {
  Error error = {0};
  if (argc != ARGUMENTS + 1) {
    fprintf(stderr, "samples: %d arguments given, %d expected; see the head of samples.c\n",
            argc - 1, ARGUMENTS);
    return ERROR_USAGE;
  }
  Status status = run(argv, &error);
  if (status != OK) fprintf(stderr, "samples: %s\n", error.message);
  return (int)status;
}
