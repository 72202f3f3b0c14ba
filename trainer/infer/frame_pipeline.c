#include "trainer/infer/frame_pipeline.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/memory.h"
#include "base/progress.h"
#include "base/signals.h"
#include "base/thread.h"

/* One frame in each of the three stages, and one in a queue between them. */
enum { FRAMES = 4 };

typedef struct Frame {
  uint8_t *source; /* u8 [source_height, source_width, 3 * input_count] */
  float *output;   /* f32 [height, width, 3] */
  char *name;      /* of its file in a frame folder, or NULL */
} Frame;

typedef struct Run {
  const FramePipeline *pipeline;
  Frame frames[FRAMES];
  Queue *idle, *decoded, *translated; /* of frames; each has room for all */
  uint8_t *input;         /* u8 [source_height, source_width, 3]; NULL for a single input */
  uint8_t *bytes;         /* u8 [height, width, 3], for the encoder */
  size_t pixels, samples; /* pixels of an input, values of the output */
  int64_t written;        /* written by the encoder thread */
  pthread_mutex_t mutex;
  Error error;        /* the first error, guarded by the mutex; status OK: none */
  atomic_bool failed; /* no stage begins another frame */
} Run;

/* Records the error unless there is one, and wakes all stages. */
static void fail(Run *run, const Error *error) {
  pthread_mutex_lock(&run->mutex);
  if (run->error.status == OK) run->error = *error;
  pthread_mutex_unlock(&run->mutex);
  run->failed = true;
  queue_close(run->idle);
  queue_close(run->decoded);
  queue_close(run->translated);
}

/* Waits for the next frame; NULL: the previous stage has ended, or a stage has failed. */
static Frame *next_frame(Run *run, Queue *from) {
  void *frame = NULL;
  return queue_pop(from, &frame) && !run->failed ? frame : NULL;
}

/* --- Decoding --------------------------------------------------------------------------------- */
/* Reads the next frame of every input and stacks them along the channels. */
static Status decode(Run *run, Frame *frame, bool *end, Error *error) {
  Status status = OK;
  const FramePipeline *pipeline = run->pipeline;
  size_t stride = 3 * (size_t)pipeline->input_count;
  const bool single = pipeline->input_count == 1;
  for (int i = 0; i < pipeline->input_count; i++) {
    bool input_end = false;
    TRY(video_read(pipeline->readers[i], single ? frame->source : run->input, &input_end, error));
    if (i == 0) *end = input_end;
    if (input_end != *end)
      FAIL(error, ERROR_DATA, "%s: is %s than %s; all inputs must have the same number of frames",
           pipeline->paths[i], input_end ? "shorter" : "longer", pipeline->paths[0]);
    for (size_t p = 0; !input_end && !single && p < run->pixels; p++)
      memcpy(frame->source + p * stride + 3 * (size_t)i, run->input + 3 * p, 3);
  }
  const char *name = video_frame_name(pipeline->readers[0]);
  free(frame->name);
  frame->name = name ? mem_string(name) : NULL;
done:
  return status;
}

static void *run_decoder(void *argument) {
  Run *run = argument;
  Frame *frame;
  Error error = {0};
  bool end = false;
  while ((frame = next_frame(run, run->idle))) {
    if (decode(run, frame, &end, &error) != OK) fail(run, &error);
    if (error.status != OK || end) break;
    queue_push(run->decoded, frame);
  }
  queue_close(run->decoded);
  return NULL;
}

/* --- Encoding --------------------------------------------------------------------------------- */
static void *run_encoder(void *argument) {
  Run *run = argument;
  Frame *frame;
  Error error = {0};
  while ((frame = next_frame(run, run->translated))) {
    frames_to_u8(frame->output, run->samples, run->bytes);
    if (video_write(run->pipeline->writer, run->bytes, frame->name, &error) != OK) {
      fail(run, &error);
      break;
    }
    run->written++;
    queue_push(run->idle, frame);
  }
  return NULL;
}

/* --- The generator, on the calling thread ----------------------------------------------------- */
static void run_generator(Run *run) {
  Frame *frame;
  Error error = {0};
  int64_t done = 0;
  Progress *progress = progress_new("translate", 0, video_info(run->pipeline->readers[0])->frames);
  while ((frame = next_frame(run, run->decoded))) {
    Status status = OK;
    if (signals_stop_requested())
      status = error_set(&error, STOPPED, "translate: stopped by a signal; no output is left");
    if (status == OK)
      status =
          inference_stream_frame(run->pipeline->inference, frame->source, frame->output, &error);
    if (status != OK) {
      fail(run, &error);
      break;
    }
    queue_push(run->translated, frame);
    progress_update(progress, ++done);
  }
  queue_close(run->translated);
  progress_end(progress);
}

/* --- Setup and threads ------------------------------------------------------------------------ */
static Status set_up(Run *run, Error *error) {
  Status status = OK;
  const InferenceShape *shape = &run->pipeline->shape;
  run->pixels = (size_t)(shape->source_height * shape->source_width);
  run->samples = (size_t)(shape->height * shape->width * 3);
  if (run->pipeline->input_count > 1)
    TRY(mem_bulk(run->pixels * 3, "a frame", (void **)&run->input, error));
  TRY(mem_bulk(run->samples, "a frame", (void **)&run->bytes, error));
  for (int i = 0; i < FRAMES; i++) {
    Frame *frame = &run->frames[i];
    TRY(mem_bulk(run->pixels * (size_t)shape->source_channels, "a frame", (void **)&frame->source,
                 error));
    TRY(mem_bulk(run->samples * sizeof(float), "a frame", (void **)&frame->output, error));
    queue_push(run->idle, frame);
  }
done:
  return status;
}

static void run_stages(Run *run) {
  pthread_t decoder, encoder;
  Error error = {0};
  Status status = thread_start(&decoder, "decoder", run_decoder, run, &error);
  const bool decodes = status == OK;
  if (status == OK) status = thread_start(&encoder, "encoder", run_encoder, run, &error);
  const bool encodes = status == OK;
  if (status != OK) fail(run, &error);
  run_generator(run);
  if (decodes) pthread_join(decoder, NULL);
  if (encodes) pthread_join(encoder, NULL);
}

Status frame_pipeline_run(const FramePipeline *pipeline, int64_t *done, Error *error) {
  Run run = {.pipeline = pipeline,
             .idle = queue_new(FRAMES),
             .decoded = queue_new(FRAMES),
             .translated = queue_new(FRAMES)};
  pthread_mutex_init(&run.mutex, NULL);
  Status status = set_up(&run, error);
  if (status == OK) {
    run_stages(&run);
    status = run.error.status;
    if (status != OK && error) *error = run.error;
  }
  *done = run.written;
  for (int i = 0; i < FRAMES; i++) {
    free(run.frames[i].source);
    free(run.frames[i].output);
    free(run.frames[i].name);
  }
  free(run.input);
  free(run.bytes);
  queue_free(run.idle);
  queue_free(run.decoded);
  queue_free(run.translated);
  pthread_mutex_destroy(&run.mutex);
  return status;
}
