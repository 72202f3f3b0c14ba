/* Translates raw frames with the generator of a checkpoint, for tests that compare with PyTorch.
 *
 *   forward CHECKPOINT ema|plain f32|bf16 FRAMES SOURCE_HEIGHT SOURCE_WIDTH CHANNELS HEIGHT WIDTH
 *
 * Reads u8 [FRAMES,SOURCE_HEIGHT,SOURCE_WIDTH,CHANNELS] from standard input, writes f32
 * [FRAMES,HEIGHT,WIDTH,3] to standard output, frame by frame. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "trainer/infer/inference.h"

enum { ARGUMENTS = 9 };

static Status translate(Inference *inference, const InferenceShape *shape, int64_t frames,
                        Error *error) {
  Status status = OK;
  size_t source_size =
      (size_t)(shape->source_height * shape->source_width) * (size_t)shape->source_channels;
  size_t output_count = (size_t)(shape->height * shape->width * 3);
  uint8_t *source = mem_new(source_size, 1);
  float *output = mem_new(output_count, sizeof *output);
  TRY(inference_stream_begin(inference, shape, error));
  for (int64_t t = 0; t < frames; t++) {
    if (fread(source, 1, source_size, stdin) != source_size)
      FAIL(error, ERROR_DATA, "standard input: ends in frame %lld of %lld", (long long)t,
           (long long)frames);
    TRY(inference_stream_frame(inference, source, output, error));
    if (fwrite(output, sizeof *output, output_count, stdout) != output_count)
      FAIL(error, ERROR_IO, "standard output: cannot write");
  }
done:
  free(source);
  free(output);
  return status;
}

static Status run(char **arguments, Error *error) {
  Status status = OK;
  Checkpoint *checkpoint = NULL;
  Backend *backend = NULL;
  Inference *inference = NULL;
  const bool ema = strcmp(arguments[2], "ema") == 0;
  const DType precision = strcmp(arguments[3], "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
  int64_t sizes[6];
  for (int i = 0; i < 6; i++) sizes[i] = strtoll(arguments[4 + i], NULL, 10);
  const InferenceShape shape = {sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]};
  TRY(checkpoint_open_path(arguments[1], NULL, &checkpoint, error));
  TRY(backend_cpu_new(0, &backend, error));
  TRY(inference_from_checkpoint(checkpoint, ema, precision, backend, &inference, error));
  TRY(translate(inference, &shape, sizes[0], error));
done:
  inference_free(inference);
  if (backend) backend->free(backend);
  checkpoint_close(checkpoint);
  return status;
}

int main(int argc, char **argv) {
  Error error = {0};
  if (argc != ARGUMENTS + 1) {
    fprintf(stderr, "forward: %d arguments given, %d expected; see the head of forward.c\n",
            argc - 1, ARGUMENTS);
    return ERROR_USAGE;
  }
  Status status = run(argv, &error);
  if (status != OK) fprintf(stderr, "forward: %s\n", error.message);
  return (int)status;
}
