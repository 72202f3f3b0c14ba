#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "data/build/build.h"
#include "data/build/looks.h"
#include "data/dataset/dataset.h"
#include "data/video/image.h"
#include "data/video/video.h"
#include "tests/unit/data/support_media.h"

static Error error;

/* Packs every frame of `source` (NULL: none) with `target`; the frames here have one colour each
 * and would be dropped as blank. */
static PackOptions options(const char *source, const char *target) {
  static const char *paths[2];
  paths[0] = source;
  paths[1] = target;
  return (PackOptions){.out = media_path("data"),
                       .sources = &paths[0],
                       .source_count = source != NULL,
                       .targets = &paths[1],
                       .target_count = target != NULL,
                       .frames = 4,
                       .range_end = -1,
                       .detect = PACK_DETECT_NOTHING,
                       .command = "test"};
}

/* Writes a folder of frames; all bytes of frame i are base + i. */
static void flat_folder(const char *path, int frames, int width, int height, int base) {
  VideoWriter *writer = NULL;
  VideoWriterOptions spec = {.width = width, .height = height};
  size_t bytes = (size_t)(width * height * 3);
  uint8_t *rgb = mem_new(bytes, 1);
  assert_done(video_writer_open(path, &spec, &writer, &error), &error);
  for (int i = 0; i < frames; i++) {
    memset(rgb, base + i, bytes);
    assert_done(video_write(writer, rgb, NULL, &error), &error);
  }
  assert_done(video_writer_finish(writer, &error), &error);
  free(rgb);
}

typedef struct Clip {
  Dataset *dataset;
  uint8_t *source, *target;
} Clip;

static Clip open_packed(void) {
  Clip clip = {0};
  assert_done(dataset_open(media_path("data"), &clip.dataset, &error), &error);
  const ClipShape *shape = &dataset_info(clip.dataset)->shape;
  clip.source = mem_new(clip_source_bytes(shape) + 1, 1);
  clip.target = mem_new(clip_target_bytes(shape) + 1, 1);
  return clip;
}

static void read_clip(Clip *clip, int64_t index) {
  assert_done(dataset_read(clip->dataset, index, clip->source, clip->target, &error), &error);
}

static void close_packed(Clip *clip) {
  dataset_close(clip->dataset);
  free(clip->source);
  free(clip->target);
}

static void ranges_are_parsed(void **state) {
  (void)state;
  static const char *bad[] = {"", ":", "5", "5:5", "6:5", "-1:5", "a:b", "1:2:3", "1 :2", "1:2x"};
  int64_t begin, end;
  assert_done(pack_parse_range("0:200", &begin, &end, &error), &error);
  assert_true(begin == 0 && end == 200);
  assert_done(pack_parse_range("200:", &begin, &end, &error), &error);
  assert_true(begin == 200 && end == -1);
  assert_done(pack_parse_range(":7", &begin, &end, &error), &error);
  assert_true(begin == 0 && end == 7);
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    assert_int_equal(pack_parse_range(bad[i], &begin, &end, &error), ERROR_USAGE);
    assert_mentions(&error, "expected A:B");
  }
}

/* The right frames are in the right clips, for strides and ranges. */
static void strides_and_ranges_cut_the_right_frames(void **state) {
  (void)state;
  static const struct {
    int stride, begin, end, clips;
  } cases[] = {{0, 0, -1, 4}, {4, 0, -1, 4},  {2, 0, -1, 8}, {7, 0, -1, 3},
               {1, 3, 9, 3},  {0, 10, -1, 2}, {0, 0, 5, 1},  {6, 5, 18, 2}};
  flat_folder(media_path("live"), 18, 8, 6, 10);
  flat_folder(media_path("toon"), 18, 8, 6, 100);
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
    PackOptions o = options(media_path("live"), media_path("toon"));
    o.stride = cases[c].stride;
    o.range_begin = cases[c].begin;
    o.range_end = cases[c].end;
    o.clips_per_shard = 2;
    assert_done(pack_run(&o, &error), &error);
    Clip clip = open_packed();
    assert_int_equal(dataset_info(clip.dataset)->clips, cases[c].clips);
    assert_int_equal(dataset_info(clip.dataset)->fps_numerator, 0);
    for (int i = 0; i < cases[c].clips; i++) {
      int first = cases[c].begin + i * (cases[c].stride ? cases[c].stride : 4);
      ClipName name;
      read_clip(&clip, i);
      for (int t = 0; t < 4; t++) {
        assert_int_equal(clip.source[t * 8 * 6 * 3 + 17], 10 + first + t);
        assert_int_equal(clip.target[t * 8 * 6 * 3 + 17], 100 + first + t);
      }
      assert_done(dataset_clip_name(clip.dataset, i, &name, &error), &error);
      assert_int_equal(name.start_frame, first);
    }
    close_packed(&clip);
    assert_done(folder_remove(media_path("data"), &error), &error);
  }
}

static void further_inputs_are_stacked(void **state) {
  (void)state;
  flat_folder(media_path("a"), 4, 8, 6, 10);
  flat_folder(media_path("b"), 4, 16, 12, 50); /* resized to the target's size */
  flat_folder(media_path("toon"), 4, 8, 6, 100);
  for (int one_sided = 0; one_sided < 2; one_sided++) {
    const char *also[] = {media_path("b")};
    PackOptions o = options(media_path("a"), one_sided ? NULL : media_path("toon"));
    o.also = also;
    o.also_count = 1;
    assert_done(pack_run(&o, &error), &error);
    Clip clip = open_packed();
    assert_int_equal(dataset_info(clip.dataset)->shape.source_channels, 6);
    assert_int_equal(dataset_info(clip.dataset)->shape.target_width, one_sided ? 0 : 8);
    read_clip(&clip, 0);
    for (int t = 0; t < 4; t++)
      for (int p = 0; p < 8 * 6; p++)
        for (int c = 0; c < 6; c++)
          assert_int_equal(clip.source[(t * 8 * 6 + p) * 6 + c], (c < 3 ? 10 : 50) + t);
    close_packed(&clip);
    assert_done(folder_remove(media_path("data"), &error), &error);
  }
}

/* No clip spans two videos, and each video starts with a clip of its own. */
static void one_side_of_several_videos(void **state) {
  (void)state;
  flat_folder(media_path("a"), 6, 8, 6, 10);
  flat_folder(media_path("b"), 9, 16, 12, 50); /* scaled to the first one's size */
  const char *paths[] = {media_path("a"), media_path("b")};
  for (int targets = 0; targets < 2; targets++) {
    PackOptions o = options(NULL, NULL);
    o.sources = o.targets = paths;
    *(targets ? &o.target_count : &o.source_count) = 2;
    assert_done(pack_run(&o, &error), &error);
    Clip clip = open_packed();
    const DatasetInfo *info = dataset_info(clip.dataset);
    assert_int_equal(info->clips, 3);
    assert_int_equal(clip_has_source(&info->shape), !targets);
    assert_int_equal(clip_has_target(&info->shape), targets);
    assert_int_equal(targets ? info->shape.target_width : info->shape.source_width, 8);
    static const int first[] = {10, 50, 54};
    for (int i = 0; i < 3; i++) {
      ClipName name;
      read_clip(&clip, i);
      for (int t = 0; t < 4; t++)
        assert_int_equal((targets ? clip.target : clip.source)[t * 8 * 6 * 3], first[i] + t);
      assert_done(dataset_clip_name(clip.dataset, i, &name, &error), &error);
      assert_string_equal(name.origin, paths[i > 0]);
    }
    close_packed(&clip);
    assert_done(folder_remove(media_path("data"), &error), &error);
  }
}

/* The n-th source belongs to the n-th target; a range applies to every video. */
static void pairs_keep_their_order(void **state) {
  (void)state;
  flat_folder(media_path("a"), 7, 8, 6, 10);
  flat_folder(media_path("b"), 9, 8, 6, 50);
  flat_folder(media_path("A"), 7, 8, 6, 110);
  flat_folder(media_path("B"), 9, 8, 6, 150);
  const char *sources[] = {media_path("a"), media_path("b")};
  const char *targets[] = {media_path("A"), media_path("B")};
  PackOptions o = options(NULL, NULL);
  o.sources = sources;
  o.targets = targets;
  o.source_count = o.target_count = 2;
  o.range_begin = 1;
  assert_done(pack_run(&o, &error), &error);
  Clip clip = open_packed();
  assert_int_equal(dataset_info(clip.dataset)->clips, 3);
  static const int first[] = {11, 51, 55};
  for (int i = 0; i < 3; i++) {
    read_clip(&clip, i);
    for (int t = 0; t < 4; t++) {
      assert_int_equal(clip.source[t * 8 * 6 * 3], first[i] + t);
      assert_int_equal(clip.target[t * 8 * 6 * 3], 100 + first[i] + t);
    }
  }
  close_packed(&clip);
}

static void scale_shrinks_the_source(void **state) {
  (void)state;
  flat_folder(media_path("live"), 4, 32, 24, 10);
  PackOptions o = options(media_path("live"), NULL);
  o.scale = 4;
  assert_done(pack_run(&o, &error), &error);
  Clip clip = open_packed();
  const ClipShape *shape = &dataset_info(clip.dataset)->shape;
  assert_int_equal(shape->source_width, 8);
  assert_int_equal(shape->source_height, 6);
  assert_int_equal(shape->target_width, 32);
  assert_int_equal(shape->target_height, 24);
  close_packed(&clip);
  o.out = media_path("other");
  o.scale = 5;
  assert_int_equal(pack_run(&o, &error), ERROR_USAGE);
  assert_mentions(&error, "--scale 5 does not divide the target size 32x24");
  assert_false(is_there(media_path("other")));
}

static void sizes_follow_the_target(void **state) {
  (void)state;
  flat_folder(media_path("live"), 4, 32, 24, 10);
  flat_folder(media_path("toon"), 4, 40, 20, 100);
  PackOptions o = options(media_path("live"), media_path("toon"));
  o.width = 20;
  assert_done(pack_run(&o, &error), &error);
  Clip clip = open_packed();
  const ClipShape *shape = &dataset_info(clip.dataset)->shape;
  assert_int_equal(shape->target_width, 20);
  assert_int_equal(shape->target_height, 10);
  assert_int_equal(shape->source_width, 20);
  assert_int_equal(shape->source_height, 10);
  close_packed(&clip);
}

static void different_lengths_are_rejected(void **state) {
  (void)state;
  flat_folder(media_path("live"), 17, 8, 6, 10);
  flat_folder(media_path("toon"), 13, 8, 6, 100);
  for (int side = 0; side < 2; side++) {
    PackOptions o = options(media_path(side ? "toon" : "live"), media_path(side ? "live" : "toon"));
    o.clips_per_shard = 1;
    assert_int_equal(pack_run(&o, &error), ERROR_DATA);
    assert_mentions(&error, "live has 17 frames");
    assert_mentions(&error, "toon has 13 frames");
    assert_false(is_there(media_path("data")));
    /* Also if they differ only after the range. */
    o.range_end = 8;
    assert_int_equal(pack_run(&o, &error), ERROR_DATA);
    assert_mentions(&error, "17 frames");
    assert_false(is_there(media_path("data")));
  }
}

static void bad_options_are_rejected(void **state) {
  (void)state;
  flat_folder(media_path("live"), 3, 8, 6, 10);
  PackOptions o = options(NULL, NULL);
  assert_int_equal(pack_run(&o, &error), ERROR_USAGE);
  assert_mentions(&error, "give --source, --target or both");
  o = options(media_path("live"), media_path("live"));
  assert_int_equal(pack_run(&o, &error), ERROR_DATA);
  assert_mentions(&error, "3 frames in the range; a clip needs 4");
  o.frames = 0;
  assert_int_equal(pack_run(&o, &error), ERROR_USAGE);
  o = options(media_path("none"), media_path("live"));
  assert_int_equal(pack_run(&o, &error), ERROR_IO);
  assert_mentions(&error, "none");
  assert_false(is_there(media_path("data")));
}

/* Options that do not fit together, with a part of the message. */
static void options_that_do_not_fit_are_rejected(void **state) {
  (void)state;
  const char *paths[] = {"a", "b", "c", "d", ""};
  const struct {
    int sources, targets, also, scale;
    const char *source_filter, *target_filter, *look, *says;
  } cases[] = {
      {2, 1, 0, 1, NULL, NULL, NULL, "2 --source and 1 --target"},
      {1, 2, 0, 1, NULL, NULL, NULL, "1 --source and 2 --target"},
      {2, 0, 1, 1, NULL, NULL, NULL, "--also adds an input to the only --source"},
      {1, 0, 4, 1, NULL, NULL, NULL, "--also is given 4 times; allowed: 0 to 3"},
      {0, 1, 1, 1, NULL, NULL, NULL, "--also has no effect without --source"},
      {0, 1, 0, 2, NULL, NULL, NULL, "--scale has no effect without --source"},
      {0, 1, 0, 1, "negate", NULL, NULL, "--source-filter has no effect without --source"},
      {0, 1, 0, 1, NULL, NULL, "comic", "--look has no effect without --source"},
      {1, 1, 0, 1, NULL, NULL, "comic", "excludes --target;"},
      {1, 0, 0, 1, NULL, "negate", "comic", "excludes --target-filter;"},
      {1, 0, 0, 1, NULL, NULL, "cubism", "allowed: comic, "},
      {5, 0, 0, 1, NULL, NULL, NULL, "--source number 5 is empty"},
      {1, 0, 0, 17, NULL, NULL, NULL, "--scale 17"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    PackOptions o = options(NULL, NULL);
    o.sources = o.targets = o.also = paths;
    o.source_count = cases[i].sources;
    o.target_count = cases[i].targets;
    o.also_count = cases[i].also;
    o.scale = cases[i].scale;
    o.source_filter = cases[i].source_filter;
    o.target_filter = cases[i].target_filter;
    o.look = cases[i].look;
    assert_int_equal(pack_run(&o, &error), ERROR_USAGE);
    assert_mentions(&error, cases[i].says);
    assert_false(is_there(media_path("data")));
  }
}

static void sets_of_detections_are_parsed(void **state) {
  (void)state;
  static const struct {
    const char *text;
    unsigned set;
  } good[] = {{"all", PACK_DETECT_ALL},
              {"none", PACK_DETECT_NOTHING},
              {"cuts", PACK_DETECT_CUTS},
              {"titles,black", PACK_DETECT_BLACK | PACK_DETECT_TITLES},
              {"cuts,black,titles,duplicates", PACK_DETECT_ALL}};
  static const char *bad[] = {"", ",", "cuts,", "cut", "all,cuts", "black titles", "Black"};
  PackDetect detect;
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    assert_done(pack_parse_detect(good[i].text, &detect, &error), &error);
    assert_int_equal(detect, good[i].set);
  }
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    assert_int_equal(pack_parse_detect(bad[i], &detect, &error), ERROR_USAGE);
    assert_mentions(&error, "list of cuts, black, titles and duplicates");
  }
}

#if WITH_FFMPEG

static void filter_makes_the_target(void **state) {
  (void)state;
  media_make(media_path("live.mp4"), 10, 64, 48, 25);
  PackOptions o = options(media_path("live.mp4"), NULL);
  o.target_filter = "negate";
  o.width = 32;
  assert_done(pack_run(&o, &error), &error);
  Clip clip = open_packed();
  const DatasetInfo *info = dataset_info(clip.dataset);
  assert_int_equal(info->clips, 2);
  assert_int_equal(info->shape.target_width, 32);
  assert_int_equal(info->shape.target_height, 24);
  assert_int_equal(info->fps_numerator, 25);
  read_clip(&clip, 1);
  for (int i = 0; i < 4 * 32 * 24 * 3; i++)
    assert_in_range(clip.source[i] + clip.target[i], 245, 265);
  close_packed(&clip);
}

/* A filter gets frames of the size that is packed: a grid of lines one pixel wide is exact. */
static void filters_follow_the_scaling(void **state) {
  (void)state;
  media_make(media_path("live.mp4"), 4, 64, 48, 25);
  media_make(media_path("live"), 4, 64, 48, 25);
  for (int folder = 0; folder < 2; folder++) {
    PackOptions o = options(media_path(folder ? "live" : "live.mp4"), NULL);
    o.target_filter = "format=gbrp,drawgrid=w=8:h=8:t=1:color=white";
    o.width = 32;
    assert_done(pack_run(&o, &error), &error);
    Clip clip = open_packed();
    read_clip(&clip, 0);
    for (int y = 0; y < 24; y++)
      for (int x = 0; x < 32; x++) {
        const uint8_t *pixel = clip.target + 3 * (y * 32 + x);
        if (x % 8 == 0 || y % 8 == 0)
          assert_true(pixel[0] == 255 && pixel[1] == 255 && pixel[2] == 255);
        else
          for (int c = 0; c < 3; c++) /* one level: planar and packed conversion to RGB */
            assert_in_range(pixel[c] - clip.source[3 * (y * 32 + x) + c] + 1, 0, 2);
      }
    close_packed(&clip);
    assert_done(folder_remove(media_path("data"), &error), &error);
  }
}

/* A filter that changes the size does not change the size of the clips. */
static void filters_may_crop(void **state) {
  (void)state;
  media_make(media_path("live.mp4"), 4, 64, 48, 25);
  PackOptions o = options(media_path("live.mp4"), NULL);
  o.target_filter = "crop=20:12:4:4";
  o.width = 32;
  o.height = 24;
  assert_done(pack_run(&o, &error), &error);
  Clip clip = open_packed();
  assert_int_equal(dataset_info(clip.dataset)->shape.target_width, 32);
  assert_int_equal(dataset_info(clip.dataset)->shape.target_height, 24);
  close_packed(&clip);
}

/* The filter also gets the frames before the range, so that its state is right. */
static void ranges_count_filtered_frames(void **state) {
  (void)state;
  media_make(media_path("live.mp4"), 20, 64, 48, 25);
  PackOptions o = options(media_path("live.mp4"), NULL);
  o.source_filter = o.target_filter = "tmix=frames=3";
  o.range_begin = 8;
  o.range_end = 12;
  assert_done(pack_run(&o, &error), &error);
  VideoReader *reader = NULL;
  static uint8_t rgb[64 * 48 * 3];
  bool end = false;
  assert_done(video_open(media_path("live.mp4"), &(VideoReaderOptions){.filter = "tmix=frames=3"},
                         &reader, &error),
              &error);
  Clip clip = open_packed();
  read_clip(&clip, 0);
  for (int i = 0; i < 12; i++) {
    assert_done(video_read(reader, rgb, &end, &error), &error);
    if (i < 8) continue;
    assert_memory_equal(rgb, clip.source + (size_t)(i - 8) * sizeof rgb, sizeof rgb);
    assert_memory_equal(rgb, clip.target + (size_t)(i - 8) * sizeof rgb, sizeof rgb);
  }
  video_close(reader);
  close_packed(&clip);
}

static void one_side_is_filtered(void **state) {
  (void)state;
  media_make(media_path("live.mp4"), 8, 64, 48, 25);
  for (int targets = 0; targets < 2; targets++) {
    const char *path = media_path("live.mp4");
    PackOptions o = options(targets ? NULL : path, targets ? path : NULL);
    *(targets ? &o.target_filter : &o.source_filter) = "format=gbrp,lutrgb=r=7,fps=12.5";
    assert_done(pack_run(&o, &error), &error);
    Clip clip = open_packed();
    assert_int_equal(dataset_info(clip.dataset)->clips, 1);
    assert_int_equal(dataset_info(clip.dataset)->fps_denominator, 2);
    read_clip(&clip, 0);
    for (int i = 0; i < 4 * 64 * 48; i++)
      assert_int_equal((targets ? clip.target : clip.source)[3 * i], 7);
    close_packed(&clip);
    assert_done(folder_remove(media_path("data"), &error), &error);
  }
}

/* Each look's frames differ from the source and from those of every other look. */
static void looks_make_targets(void **state) {
  (void)state;
  enum { BYTES = 4 * 64 * 48 * 3 };
  uint8_t *before = mem_new(BYTES, 8);
  media_make(media_path("live.mp4"), 4, 64, 48, 25);
  assert_in_range(look_count(), 3, 8);
  for (int l = 0; l < look_count(); l++) {
    PackOptions o = options(media_path("live.mp4"), NULL);
    o.look = look_at(l)->name;
    assert_done(pack_run(&o, &error), &error);
    Clip clip = open_packed();
    read_clip(&clip, 0);
    assert_true(memcmp(clip.source, clip.target, BYTES) != 0);
    memcpy(before + (size_t)l * BYTES, clip.target, BYTES);
    for (int k = 0; k < l; k++) {
      int64_t difference = 0;
      for (int i = 0; i < BYTES; i++)
        difference += abs(before[(size_t)k * BYTES + (size_t)i] - clip.target[i]);
      assert_true(difference > 10 * BYTES); /* ten levels on average */
    }
    close_packed(&clip);
    assert_done(folder_remove(media_path("data"), &error), &error);
  }
  free(before);
}

/* Videos of other rates: recorded as the first one's rate on one side alone, refused for pairs. */
static void rates_of_several_videos(void **state) {
  (void)state;
  media_make(media_path("a.mp4"), 4, 64, 48, 25);
  media_make(media_path("b.mp4"), 4, 64, 48, 30);
  const char *paths[] = {media_path("a.mp4"), media_path("b.mp4")};
  PackOptions o = options(NULL, NULL);
  o.sources = paths;
  o.source_count = 2;
  assert_done(pack_run(&o, &error), &error);
  Clip clip = open_packed();
  assert_int_equal(dataset_info(clip.dataset)->fps_numerator, 25);
  assert_int_equal(dataset_info(clip.dataset)->clips, 2);
  close_packed(&clip);
  assert_done(folder_remove(media_path("data"), &error), &error);
  o.look = "comic";
  assert_int_equal(pack_run(&o, &error), ERROR_DATA);
  assert_mentions(&error, "b.mp4 has 30/1, the videos before it have 25/1");
  assert_false(is_there(media_path("data")));
}

/* Decisions need the source without its filter, frame by frame. */
static void source_filters_that_change_the_rate_are_rejected(void **state) {
  (void)state;
  media_make(media_path("live.mp4"), 8, 64, 48, 25);
  PackOptions o = options(media_path("live.mp4"), NULL);
  o.source_filter = o.target_filter = "fps=12.5";
  assert_done(pack_run(&o, &error), &error);
  assert_done(folder_remove(media_path("data"), &error), &error);
  o.detect = PACK_DETECT_DEFAULT;
  assert_int_equal(pack_run(&o, &error), ERROR_DATA);
  assert_mentions(&error, "--source-filter changes the frame rate");
  assert_mentions(&error, "--detect none");
  o.source_filter = o.target_filter = "select=not(mod(n\\,2))";
  assert_int_equal(pack_run(&o, &error), ERROR_DATA);
  assert_mentions(&error, "--source-filter changes the number of frames");
  assert_mentions(&error, "--detect none");
  assert_false(is_there(media_path("data")));
}

/* The shards written before the failure are removed. A folder that existed before stays, empty. */
static void bad_pair_leaves_no_files(void **state) {
  (void)state;
  char **names = NULL;
  size_t count = 1;
  media_make(media_path("live.mp4"), 20, 64, 48, 25);
  media_make(media_path("toon.mp4"), 17, 64, 48, 25);
  PackOptions o = options(media_path("live.mp4"), media_path("toon.mp4"));
  o.clips_per_shard = 1;
  assert_int_equal(pack_run(&o, &error), ERROR_DATA);
  assert_mentions(&error, "live.mp4 has 20 frames");
  assert_mentions(&error, "toon.mp4 has 17 frames");
  assert_false(is_there(media_path("data")));
  assert_done(folder_create(media_path("data"), &error), &error);
  assert_int_equal(pack_run(&o, &error), ERROR_DATA);
  assert_done(folder_list(media_path("data"), &names, &count, &error), &error);
  assert_int_equal(count, 0);
  folder_list_free(names, count);
}

static void filters_that_change_length_or_rate_are_rejected(void **state) {
  (void)state;
  media_make(media_path("live.mp4"), 20, 64, 48, 25);
  PackOptions o = options(media_path("live.mp4"), NULL);
  o.target_filter = "select=not(mod(n\\,2))";
  assert_int_equal(pack_run(&o, &error), ERROR_DATA);
  assert_mentions(&error, "has 20 frames");
  assert_mentions(&error, "has 10 frames");
  assert_false(is_there(media_path("data")));
  o.target_filter = "fps=50";
  assert_int_equal(pack_run(&o, &error), ERROR_DATA);
  assert_mentions(&error, "25/1");
  assert_mentions(&error, "50/1");
  o.target_filter = "nosuchfilter";
  assert_int_equal(pack_run(&o, &error), ERROR_USAGE);
  assert_mentions(&error, "nosuchfilter");
  assert_false(is_there(media_path("data")));
}

static void different_rates_are_rejected(void **state) {
  (void)state;
  media_make(media_path("live.mp4"), 8, 64, 48, 25);
  media_make(media_path("toon.mp4"), 8, 64, 48, 30);
  PackOptions o = options(media_path("live.mp4"), media_path("toon.mp4"));
  assert_int_equal(pack_run(&o, &error), ERROR_DATA);
  assert_mentions(&error, "25/1");
  assert_mentions(&error, "30/1");
  assert_false(is_there(media_path("data")));
  /* A folder has no rate and takes the other side's. */
  media_make(media_path("toon"), 8, 64, 48, 25);
  o = options(media_path("live.mp4"), media_path("toon"));
  assert_done(pack_run(&o, &error), &error);
  Clip clip = open_packed();
  assert_int_equal(dataset_info(clip.dataset)->fps_numerator, 25);
  close_packed(&clip);
}

#endif

#define TEST(function) cmocka_unit_test_setup_teardown(function, media_setup, media_teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
    TEST(ranges_are_parsed),
    TEST(strides_and_ranges_cut_the_right_frames),
    TEST(further_inputs_are_stacked),
    TEST(one_side_of_several_videos),
    TEST(pairs_keep_their_order),
    TEST(options_that_do_not_fit_are_rejected),
    TEST(sets_of_detections_are_parsed),
    TEST(scale_shrinks_the_source),
    TEST(sizes_follow_the_target),
    TEST(different_lengths_are_rejected),
    TEST(bad_options_are_rejected),
#if WITH_FFMPEG
    TEST(filter_makes_the_target),
    TEST(filters_follow_the_scaling),
    TEST(filters_may_crop),
    TEST(one_side_is_filtered),
    TEST(looks_make_targets),
    TEST(rates_of_several_videos),
    TEST(source_filters_that_change_the_rate_are_rejected),
    TEST(ranges_count_filtered_frames),
    TEST(bad_pair_leaves_no_files),
    TEST(filters_that_change_length_or_rate_are_rejected),
    TEST(different_rates_are_rejected),
#endif
  };
  return cmocka_run_group_tests_name("pack", tests, NULL, NULL);
}
