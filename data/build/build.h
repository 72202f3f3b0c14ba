/* Builds datasets: rendered scenes (synth), videos (pack) or other datasets (join). An interrupted
 * run continues when it is started again with the same options. The manifest is written last. */
#ifndef CELFORGE_DATA_BUILD_BUILD_H
#define CELFORGE_DATA_BUILD_BUILD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Reports progress in `unit` ("clips", "frames"). `total` is -1 if unknown. Returns false to stop:
 * the run then ends with STOPPED, without temporary files. */
typedef bool (*BuildProgress)(void *context, int64_t done, int64_t total, const char *unit);
/* Calls `progress` unless it is NULL. All done, it no longer stops the run. */
Status build_report(BuildProgress progress, void *context, int64_t done, int64_t total,
                    const char *unit, Error *error);

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

enum { PACK_MAX_INPUTS = 4 };

/* Kinds of frames that pack detects: clips end at scene cuts, the others are dropped. */
typedef enum PackDetect {
  PACK_DETECT_NOTHING = 0,
  PACK_DETECT_CUTS = 1,
  PACK_DETECT_BLACK = 2, /* and blank frames */
  PACK_DETECT_TITLES = 4,
  PACK_DETECT_DUPLICATES = 8,
  PACK_DETECT_ALL = 15,
  PACK_DETECT_DEFAULT = 16 /* all for one side alone; cuts and black frames for pairs */
} PackDetect;

typedef struct PackOptions {
  const char *out;
  /* The videos or frame folders. Only sources: a dataset without targets, unless target_filter,
   * look or scale makes a target of each; only targets: one without sources; both, as many of each:
   * pairs, in their order. */
  const char *const *sources;
  const char *const *targets;
  /* Further inputs of the only source, stacked along its channels; at most PACK_MAX_INPUTS with
   * it. */
  const char *const *also;
  int source_count, target_count, also_count;
  const char *source_filter; /* FFmpeg filter graphs, or NULL; see VideoReaderOptions */
  const char *target_filter;
  const char *look;  /* name of a look (data/build/looks.h) as target_filter, or NULL */
  int frames;        /* per clip */
  int width, height; /* of the target; 0: see VideoReaderOptions */
  int scale;         /* source size = target size / scale; 0 or 1: equal sizes */
  int stride;        /* frames between the starts of clips; 0: `frames` */
  int64_t range_begin, range_end; /* frames to use of each video, end excluded; end -1: all */
  PackDetect detect;              /* a set of them */
  uint64_t seed;                  /* only changes the dataset's UUID */
  bool deflate;
  int64_t clips_per_shard; /* see DatasetSpec */
  const char *command;     /* recorded in the manifest; NULL: the first path and the seed */
  BuildProgress progress;  /* may be NULL */
  void *progress_context;
} PackOptions;

/* Cuts videos or frame folders into clips: pairs, or one side alone. No clip spans two videos, a
 * scene cut or a dropped black, blank or title frame; where duplicates are dropped, the others form
 * the clips. Scenes and frames are analysed on the first input before its filter, or, in a dataset
 * of one side, on its frames as packed; frames are dropped from all sides alike. All videos are
 * scaled to the size of the first. Memory does not grow with the length. ERROR_USAGE if the options
 * do not fit together; ERROR_DATA if the sides of a pair differ in length or frame rate, pairs
 * among each other in frame rate (the message names all values), or no clip results. */
Status pack_run(const PackOptions *options, Error *error);

/* Parses a range of frames: "A:B", "A:" or ":B" with 0 <= A < B. *end is -1 for "A:". */
Status pack_parse_range(const char *text, int64_t *begin, int64_t *end, Error *error);
/* Parses a set: "all", "none", or some of "cuts,black,titles,duplicates". */
Status pack_parse_detect(const char *text, PackDetect *out, Error *error);

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

#endif
