/* Builds datasets: rendered scenes (synth), videos (pack) or other datasets (join). An interrupted
 * run continues when it is started again with the same options. The manifest is written last. */
#ifndef CELFORGE_DATA_BUILD_BUILD_H
#define CELFORGE_DATA_BUILD_BUILD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Reports progress in `unit` ("clips", "frames"). `total` is -1 if unknown. */
typedef void (*BuildProgress)(void *context, int64_t done, int64_t total, const char *unit);

typedef struct SynthOptions {
  const char *out;
  int64_t clips, first_clip; /* first_clip .. first_clip+clips-1 of the seed's endless series */
  int frames, width, height;
  uint64_t seed;
  int threads; /* 0: one per processor */
  bool deflate;
  int64_t clips_per_shard; /* see DatasetSpec */
  const char *command;     /* recorded in the manifest; NULL: the seed and first clip */
  BuildProgress progress;  /* may be NULL */
  void *progress_context;
} SynthOptions;

/* Renders moving scenes (camera, lights, articulated figures, textures, sensor noise), each frame
 * twice: shaded as the source, and as a cartoon (flat tones, ink lines) as the target. Equal seeds
 * give equal bytes. */
Status synth_run(const SynthOptions *options, Error *error);
/* Renders one clip into memory: source and target u8 [frames,height,width,3]. */
void synth_clip(uint64_t seed, int64_t clip, int frames, int width, int height, uint8_t *source,
                uint8_t *target);

enum { PACK_MAX_SOURCES = 4 };

typedef struct PackOptions {
  const char *out;
  const char *sources[PACK_MAX_SOURCES]; /* several are stacked along the channels */
  int source_count;
  const char *target;        /* NULL: the first source again, through target_filter */
  const char *source_filter; /* FFmpeg filter graphs, or NULL */
  const char *target_filter;
  int frames;                     /* per clip */
  int width, height;              /* of the target; 0: see VideoReaderOptions */
  int scale;                      /* source size = target size / scale; 0 or 1: equal sizes */
  int stride;                     /* frames between the starts of clips; 0: `frames` */
  int64_t range_begin, range_end; /* frames to use, end excluded; range_end -1: to the end */
  uint64_t seed;                  /* only changes the dataset's UUID */
  bool deflate;
  int64_t clips_per_shard; /* see DatasetSpec */
  const char *command;     /* recorded in the manifest; NULL: the first source and the seed */
  BuildProgress progress;  /* may be NULL */
  void *progress_context;
} PackOptions;

/* Cuts paired videos or frame folders into clips. ERROR_DATA if they differ in length or frame rate
 * (the message names all values), or are too short for one clip. */
Status pack_run(const PackOptions *options, Error *error);

typedef struct JoinOptions {
  const char *out;
  const char *parts; /* a folder of datasets, joined in the order of their names */
  int64_t count;     /* expected number of datasets; 0: any */
  /* Either of these rewrites all clips, checking their checksums. With neither (false, 0) the
   * parts' shard files are linked or copied. */
  bool deflate;
  int64_t clips_per_shard;
  BuildProgress progress; /* may be NULL */
  void *progress_context;
} JoinOptions;

/* Joins datasets with clips of one shape into one, in the order of the parts; clips keep their
 * names and origins. Shard files are hard-linked, so no data moves and the parts may be removed
 * afterwards; on another file system they are copied and their CRC-32C is compared. Equal parts
 * give an equal manifest, in any folder. ERROR_DATA, with both parts and values, if shapes, frame
 * rates or (unless rewriting) compression differ; ERROR_USAGE if `out` holds other files. */
Status join_run(const JoinOptions *options, Error *error);

/* Parses a range of frames: "A:B", "A:" or ":B" with 0 <= A < B. *end is -1 for "A:". */
Status pack_parse_range(const char *text, int64_t *begin, int64_t *end, Error *error);

#endif
