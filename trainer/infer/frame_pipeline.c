#include "trainer/infer/frame_pipeline.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/progress.h"
#include "base/signals.h"
#include "base/thread.h"

/* One in each stage, and one that lies ready between two of them. */
enum { FRAMES = 4 };

typedef struct Frame {
  uint8_t *source; /* u8 [source_height, source_width, 3 * input_count], the inputs side by side */
  float *output;   /* f32 [height, width, 3] */
  char *name;      /* of its file, or NULL */
} Frame;

typedef struct Film {
  const FilmStream *stream;
  Frame frames[FRAMES];
  Queue *idle, *decoded, *translated; /* of frames; each can hold all */
  uint8_t *input;                     /* u8 [source_height, source_width, 3]; NULL: there is one */
  uint8_t *bytes;                     /* u8 [height, width, 3], the encoder's */
  size_t pixels, samples;             /* of an input; of the output */
  int64_t written;                    /* the encoder's, until its thread has ended */
  pthread_mutex_t mutex;
  Error error;        /* of what failed first, guarded by the mutex; its status is OK until then */
  atomic_bool broken; /* something failed: nobody begins another frame */
} Film;

/* The first one's error is kept; everybody who waits for a frame is woken. */
static void film_break(Film *film, const Error *error) {
  pthread_mutex_lock(&film->mutex);
  if (film->error.status == OK) film->error = *error;
  pthread_mutex_unlock(&film->mutex);
  film->broken = true;
  queue_close(film->idle);
  queue_close(film->decoded);
  queue_close(film->translated);
}

/* The next frame, or NULL: there is none any more. */
static Frame *next_frame(Film *film, Queue *from) {
  void *frame = NULL;
  return queue_pop(from, &frame) && !film->broken ? frame : NULL;
}

/* --- Decoding --------------------------------------------------------------------------------- */
/* The next frame of all inputs, as they lie in a dataset; all have to end together. */
static Status decode(Film *film, Frame *frame, bool *end, Error *error) {
  Status status = OK;
  const FilmStream *stream = film->stream;
  size_t stride = 3 * (size_t)stream->input_count;
  const bool alone = stream->input_count == 1;
  for (int i = 0; i < stream->input_count; i++) {
    bool over = false;
    TRY(video_read(stream->readers[i], alone ? frame->source : film->input, &over, error));
    if (i == 0) *end = over;
    if (over != *end)
      FAIL(error, ERROR_DATA, "%s: is %s than %s; inputs of a model have one length",
           stream->paths[i], over ? "shorter" : "longer", stream->paths[0]);
    for (size_t p = 0; !over && !alone && p < film->pixels; p++)
      memcpy(frame->source + p * stride + 3 * (size_t)i, film->input + 3 * p, 3);
  }
  const char *name = video_frame_name(stream->readers[0]);
  free(frame->name);
  frame->name = name ? mem_string(name) : NULL;
done:
  return status;
}

static void *run_decoder(void *argument) {
  Film *film = argument;
  Frame *frame;
  Error error = {0};
  bool end = false;
  while ((frame = next_frame(film, film->idle))) {
    if (decode(film, frame, &end, &error) != OK) film_break(film, &error);
    if (error.status != OK || end) break;
    queue_push(film->decoded, frame);
  }
  queue_close(film->decoded);
  return NULL;
}

/* --- Encoding --------------------------------------------------------------------------------- */
static void *run_encoder(void *argument) {
  Film *film = argument;
  Frame *frame;
  Error error = {0};
  while ((frame = next_frame(film, film->translated))) {
    frames_to_u8(frame->output, film->samples, film->bytes);
    if (video_write(film->stream->writer, film->bytes, frame->name, &error) != OK) {
      film_break(film, &error);
      break;
    }
    film->written++;
    queue_push(film->idle, frame);
  }
  return NULL;
}

/* --- The network, in the calling thread ------------------------------------------------------- */
static void run_network(Film *film) {
  Frame *frame;
  Error error = {0};
  int64_t done = 0;
  Progress *progress = progress_new("translate", 0, video_info(film->stream->readers[0])->frames);
  while ((frame = next_frame(film, film->decoded))) {
    Status status = OK;
    if (signals_ask_to_stop())
      status = error_set(&error, STOPPED, "translate: stopped by a signal; nothing is left");
    if (status == OK)
      status =
          inference_stream_frame(film->stream->inference, frame->source, frame->output, &error);
    if (status != OK) {
      film_break(film, &error);
      break;
    }
    queue_push(film->translated, frame);
    progress_update(progress, ++done, NULL);
  }
  queue_close(film->translated);
  progress_end(progress);
}

/* --- All three -------------------------------------------------------------------------------- */
static Status set_up(Film *film, Error *error) {
  Status status = OK;
  const InferenceShape *shape = &film->stream->shape;
  film->pixels = (size_t)(shape->source_height * shape->source_width);
  film->samples = (size_t)(shape->height * shape->width * 3);
  if (film->stream->input_count > 1)
    TRY(mem_bulk(film->pixels * 3, "a frame", (void **)&film->input, error));
  TRY(mem_bulk(film->samples, "a frame", (void **)&film->bytes, error));
  for (int i = 0; i < FRAMES; i++) {
    Frame *frame = &film->frames[i];
    TRY(mem_bulk(film->pixels * (size_t)shape->source_channels, "a frame", (void **)&frame->source,
                 error));
    TRY(mem_bulk(film->samples * sizeof(float), "a frame", (void **)&frame->output, error));
    queue_push(film->idle, frame);
  }
done:
  return status;
}

static void run_stages(Film *film) {
  pthread_t decoder, encoder;
  Error error = {0};
  Status status = thread_start(&decoder, "decoder", run_decoder, film, &error);
  const bool decodes = status == OK;
  if (status == OK) status = thread_start(&encoder, "encoder", run_encoder, film, &error);
  const bool encodes = status == OK;
  if (status != OK) film_break(film, &error);
  run_network(film);
  if (decodes) pthread_join(decoder, NULL);
  if (encodes) pthread_join(encoder, NULL);
}

Status film_stream_run(const FilmStream *stream, int64_t *done, Error *error) {
  Film film = {.stream = stream,
               .idle = queue_new(FRAMES),
               .decoded = queue_new(FRAMES),
               .translated = queue_new(FRAMES)};
  pthread_mutex_init(&film.mutex, NULL);
  Status status = set_up(&film, error);
  if (status == OK) {
    run_stages(&film);
    status = film.error.status;
    if (status != OK && error) *error = film.error;
  }
  *done = film.written;
  for (int i = 0; i < FRAMES; i++) {
    free(film.frames[i].source);
    free(film.frames[i].output);
    free(film.frames[i].name);
  }
  free(film.input);
  free(film.bytes);
  queue_free(film.idle);
  queue_free(film.decoded);
  queue_free(film.translated);
  pthread_mutex_destroy(&film.mutex);
  return status;
}
