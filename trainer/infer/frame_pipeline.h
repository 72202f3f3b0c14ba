/* Translates all frames of a video in three concurrent stages: one thread decodes, one runs the
 * generator, one encodes. The video takes as long as the slowest stage, not the sum of the three.
 */
#ifndef CELFORGE_TRAINER_INFER_FRAME_PIPELINE_H
#define CELFORGE_TRAINER_INFER_FRAME_PIPELINE_H

#include "data/video/video.h"
#include "trainer/infer/inference.h"

typedef struct FramePipeline {
  Inference *inference; /* inference_stream_begin has been called with `shape` */
  InferenceShape shape; /* source_channels is 3 * input_count */
  VideoReader **readers;
  const char *const *paths; /* [input_count], of the readers, for error messages */
  int input_count;
  VideoWriter *writer; /* of shape.width x shape.height */
} FramePipeline;

/* Translates all frames in order; *done receives the number of frames written. The generator runs
 * on the calling thread; the caller keeps readers and writer, to finish or abandon. The first error
 * of any stage ends all three and is returned; ERROR_DATA if the inputs differ in length. STOPPED
 * after a signal (base/signals.h). */
Status frame_pipeline_run(const FramePipeline *pipeline, int64_t *done, Error *error);

#endif
