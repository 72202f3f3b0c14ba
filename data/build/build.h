/* Making datasets: rendered (synth), from video (pack), of other datasets (join). All go on where
 * they were interrupted and write the manifest last. */
#ifndef CELFORGE_DATA_BUILD_BUILD_H
#define CELFORGE_DATA_BUILD_BUILD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Called now and then with what is done; may be NULL. `total` is -1 where it is not known. */
typedef void (*MakeProgress)(void *context, int64_t done, int64_t total, const char *what);

typedef struct SynthOptions {
  const char *out;
  int64_t clips,
      first_clip; /* clips first_clip .. first_clip+clips-1 of the seed's endless series */
  int frames, width, height;
  uint64_t seed;
  int threads; /* 0: every core */
  bool deflate;
  int64_t clips_per_shard;
  const char *command; /* kept in the manifest */
  MakeProgress progress;
  void *progress_context;
} SynthOptions;

/* One moving scene (camera, lights, articulated figures, textures, sensor noise) rendered twice a
 * frame: as film and as a cel (flat tones, ink lines). The same bytes for the same seed. */
Status synth_run(const SynthOptions *options, Error *error);
/* One clip in memory: film and cel u8 [frames,height,width,3]. */
void synth_clip(uint64_t seed, int64_t clip, int frames, int width, int height, uint8_t *film,
                uint8_t *cel);

enum { PACK_MAX_SOURCES = 4 };

typedef struct PackOptions {
  const char *out;
  const char *sources[PACK_MAX_SOURCES]; /* several are stacked along the channels */
  int source_count;
  const char *target;        /* NULL: the first source again, through target_filter */
  const char *source_filter; /* FFmpeg filter graphs, or NULL */
  const char *target_filter;
  int frames;        /* a clip's */
  int width, height; /* the target's; 0: the video's own (see VideoReaderOptions) */
  int scale;  /* the source is the target's size divided by this (super-resolution); 1: equal */
  int stride; /* between the first frames of neighbouring clips; 0: frames */
  int64_t range_begin, range_end; /* frames, end excluded; range_end -1: to the end */
  uint64_t seed;                  /* only names the dataset */
  bool deflate;
  int64_t clips_per_shard;
  const char *command;
  MakeProgress progress;
  void *progress_context;
} PackOptions;

/* ERROR_DATA where the sides differ in length (both lengths named) or rate, or are too short. */
Status pack_run(const PackOptions *options, Error *error);

typedef struct JoinOptions {
  const char *out;
  const char *parts; /* a folder whose folders are datasets, joined in the order of their names */
  int64_t count;     /* how many there must be; 0: as many as there are */
  /* Either of them: all clips are written anew, through their checksums. Neither (false, 0): the
   * parts' shard files become the dataset's. */
  bool deflate;
  int64_t clips_per_shard;
  MakeProgress progress;
  void *progress_context;
} JoinOptions;

/* One dataset of several that were made apart, its clips in the order of the parts; names and
 * origins stay. Shard files are hard-linked: no data moves, the parts stay as they are and may be
 * removed afterwards. Where a file cannot be linked (another file system) it is copied and held
 * against its CRC-32C. Equal parts give an equal manifest, wherever they lie. ERROR_DATA, with both
 * parts and values, where shapes, rates or (when not written anew) compression differ; ERROR_USAGE
 * where `out` holds something else. */
Status join_run(const JoinOptions *options, Error *error);

/* "A:B", "A:" or ":B" with 0 <= A < B. */
Status pack_parse_range(const char *text, int64_t *begin, int64_t *end, Error *error);

#endif
