/* The generator of a checkpoint on raw frames: for tests that compare its output with PyTorch's.
 *
 *   forward CHECKPOINT ema|plain f32|bf16 clip|stream FRAMES SOURCE_HEIGHT SOURCE_WIDTH CHANNELS
 * HEIGHT WIDTH
 *
 * Reads u8 [T,H,W,C] from standard input, writes f32 [T,H',W',3] to standard output. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "trainer/infer/inference.h"

enum { ARGUMENTS = 11 };

typedef struct Frames {
  size_t source_bytes, output_count; /* of the whole clip */
  uint8_t *source;
  float *output;
} Frames;

static Status read_frames(const InferenceShape *shape, Frames *frames, Error *error) {
  Status status = OK;
  int64_t source = shape->source_height * shape->source_width * shape->source_channels;
  frames->source_bytes = (size_t)(shape->frames * source);
  frames->output_count = (size_t)(shape->frames * shape->height * shape->width * 3);
  TRY(mem_bulk(frames->source_bytes, "source frames", (void **)&frames->source, error));
  TRY(mem_bulk(frames->output_count * sizeof(float), "output frames", (void **)&frames->output,
               error));
  if (fread(frames->source, 1, frames->source_bytes, stdin) != frames->source_bytes)
    FAIL(error, ERROR_DATA, "standard input: ends before %zu bytes", frames->source_bytes);
done:
  return status;
}

static Status run_stream(Inference *inference, InferenceShape shape, const Frames *frames,
                         Error *error) {
  Status status = OK;
  int64_t count = shape.frames;
  size_t source = frames->source_bytes / (size_t)count,
         output = frames->output_count / (size_t)count;
  shape.frames = 1;
  TRY(inference_stream_begin(inference, &shape, error));
  for (size_t t = 0; t < (size_t)count; t++)
    TRY(inference_stream_frame(inference, frames->source + t * source, frames->output + t * output,
                               error));
done:
  return status;
}

static Status run(char **arguments, Error *error) {
  Status status = OK;
  Checkpoint *checkpoint = NULL;
  Backend *backend = NULL;
  Inference *inference = NULL;
  Frames frames = {0};
  int64_t sizes[6];
  for (int i = 0; i < 6; i++) sizes[i] = strtoll(arguments[5 + i], NULL, 10);
  InferenceShape shape = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]};
  TRY(read_frames(&shape, &frames, error));
  TRY(checkpoint_open_path(arguments[1], &checkpoint, error));
  TRY(backend_cpu_new(0, &backend, error));
  TRY(inference_of_checkpoint(checkpoint, strcmp(arguments[2], "ema") == 0,
                              strcmp(arguments[3], "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32, backend,
                              &inference, error));
  if (strcmp(arguments[4], "stream") == 0)
    TRY(run_stream(inference, shape, &frames, error));
  else
    TRY(inference_clip(inference, &shape, frames.source, 0, frames.output, error));
  if (fwrite(frames.output, sizeof(float), frames.output_count, stdout) != frames.output_count)
    FAIL(error, ERROR_IO, "standard output: could not write %zu numbers", frames.output_count);
done:
  inference_free(inference);
  if (backend) backend->free(backend);
  checkpoint_close(checkpoint);
  free(frames.source);
  free(frames.output);
  return status;
}

int main(int argc, char **argv) {
  Error error = {0};
  if (argc != ARGUMENTS) {
    fprintf(stderr, "forward: %d arguments, not %d; its head says which\n", ARGUMENTS - 1,
            argc - 1);
    return ERROR_USAGE;
  }
  Status status = run(argv, &error);
  if (status != OK) fprintf(stderr, "forward: %s\n", error.message);
  return (int)status;
}
