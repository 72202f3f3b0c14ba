/* Internal to pack.
 *
 *   pack.c           runs over all series, summary
 *   pack_options.c   checks that the options fit together
 *   pack_series.c    opens and reads the videos of a series in step
 *   pack_windows.c   drops frames, finds scenes, fills windows, writes clips
 *   scene_cuts.c, frame_kinds.c, thumbnail.c   the decisions
 */
#ifndef CELFORGE_DATA_BUILD_PACK_H
#define CELFORGE_DATA_BUILD_PACK_H

#include "data/build/build.h"
#include "data/build/scene_cuts.h"
#include "data/build/thumbnail.h"
#include "data/dataset/dataset.h"
#include "data/video/video.h"

enum { MAX_STREAMS = PACK_MAX_INPUTS + 2 };

/* One video, or one more reading of it through another filter. */
typedef struct Stream {
  const char *path;
  const char *side; /* "source" or "target", for messages */
  VideoReader *reader;
  int64_t length; /* frames read */
  bool ended;
} Stream;

/* Streams that are read in step: the inputs, then the target if there is one, then the first input
 * without its filter if decisions need it. */
typedef struct Series {
  Stream streams[MAX_STREAMS];
  int count;
  int inputs;   /* 0 in a dataset of targets */
  int target;   /* index, or -1 */
  int analysed; /* index of the stream that scenes and frames are analysed on */
  int fps_numerator, fps_denominator;
  int64_t reported; /* frames that will be read as the containers report, or -1 */
} Series;

/* Facts that hold for all series; known before anything is opened. */
typedef struct PackPlan {
  const PackOptions *options;
  PackDetect detect;
  const char *target_filter; /* NULL, the option, or the look's graph */
  int series, inputs, stride, scale;
  bool has_target;
  bool has_probe;    /* the unfiltered first input is read as well */
  bool inspected;    /* all series were opened once, and what is odd about them was logged */
  int width, height; /* of the target, or of the only side; 0 until the first series is open */
} PackPlan;

/* Fails with ERROR_USAGE if options are out of range or do not fit together. */
Status pack_plan(const PackOptions *options, PackPlan *out, Error *error);
/* Appends "cuts,black" or "none". */
void pack_append_detect(PackDetect detect, Text *out);

/* --- Series ----------------------------------------------------------------------------------- */

/* Opens the videos of series `index` and checks that they fit together; the first series sets
 * plan->width and plan->height. The caller closes it, also on failure. */
Status series_open(PackPlan *plan, int index, Series *series, Error *error);
void series_close(Series *series);
/* The path that names the series in messages and clip names. */
const char *series_path(const Series *series);
/* Size of a stream's frames. */
size_t stream_bytes(const Stream *stream);
/* Reads the next frame of every stream into frames[stream]; *ended at the end of all. ERROR_DATA if
 * they end at different frames: the message names all lengths. */
Status series_read(const PackPlan *plan, Series *series, uint8_t *const *frames, bool *ended,
                   Error *error);

/* --- Windows ---------------------------------------------------------------------------------- */

typedef struct Tally {
  int64_t frames; /* in the range */
  int64_t duplicates, black, titles, cuts, clips;
  int64_t unused; /* frames of scenes, or ends of scenes, that are too short for a clip */
} Tally;

typedef struct Slot {
  int64_t position; /* of the frame in its video */
  bool distinct;    /* not a repetition of the frame before */
  Thumbnail thumbnail;
} Slot;

/* Consecutive frames of a scene in a ring of slots: first the window, up to a clip's frames; then
 * the pending ones, of which it is not yet known whether a new scene starts with them. */
typedef struct Windows {
  const PackPlan *plan;
  DatasetWriter *writer;
  int64_t already, clips; /* in complete shards of an interrupted run; cut so far */
  Tally tally;            /* of the current series; the caller clears it */

  int capacity, head, window, pending; /* slots */
  int covered;                         /* first frames of the window that a clip has already */
  int64_t skip;                        /* frames until the next window starts */
  Slot *slots;
  uint8_t *rings[MAX_STREAMS]; /* [capacity] frames each; one frame for the probe */
  size_t bytes[MAX_STREAMS];   /* of a frame */
  uint8_t *source, *target;    /* one clip, THWC */
  SceneHistory history;
  Thumbnail last; /* the latest distinct frame, if has_last */
  bool has_last;
} Windows;

/* Allocates the ring for series like this one. */
Status windows_init(Windows *windows, const PackPlan *plan, const Series *series, Error *error);
void windows_free(Windows *windows);
/* Sets where series_read is to write the next frame. */
void windows_next(const Windows *windows, uint8_t *frames[MAX_STREAMS]);
/* Takes the frame that lies there: drops it, or appends it and writes the clips that are complete.
 */
Status windows_take(Windows *windows, const Series *series, int64_t position, Error *error);
/* Ends the scene: writes what is complete, and counts the rest as unused. */
Status windows_end_scene(Windows *windows, const Series *series, Error *error);

#endif
