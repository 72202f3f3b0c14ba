/* Films through a model: one thread decodes, one runs the network, one encodes, each a frame ahead
 * of the next, so that a film takes as long as the slowest of the three and not their sum. */
#ifndef CELFORGE_TRAINER_INFER_FRAME_PIPELINE_H
#define CELFORGE_TRAINER_INFER_FRAME_PIPELINE_H

#include "data/video/video.h"
#include "trainer/infer/inference.h"

typedef struct FilmStream {
  Inference *inference; /* its stream was begun with `shape` */
  InferenceShape shape; /* of one frame; source_channels is 3 * input_count */
  VideoReader **readers;
  const char *const *paths; /* [input_count], for messages, as the readers */
  int input_count;
  VideoWriter *writer; /* of shape.width x shape.height */
} FilmStream;

/* All frames in order; *done is how many were written. What fails first ends all three, and is
 * what `error` says: inputs that do not end together are ERROR_DATA. STOPPED after a signal
 * (base/signals.h). The inference runs on the calling thread; readers and writer stay the
 * caller's, to finish or to abandon. */
Status film_stream_run(const FilmStream *stream, int64_t *done, Error *error);

#endif
