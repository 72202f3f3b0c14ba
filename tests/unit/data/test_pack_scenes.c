/* Scene cuts and dropped frames: the decisions on drawn frames, and what pack makes of them. */
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
#include "data/build/frame_kinds.h"
#include "data/build/scene_cuts.h"
#include "data/dataset/dataset.h"
#include "data/video/video.h"
#include "tests/unit/data/support_media.h"

enum { WIDTH = 128, HEIGHT = 72, BYTES = WIDTH * HEIGHT * 3 };

static Error error;

/* --- Drawing ---------------------------------------------------------------------------------- */

/* A hash of three numbers, for textures. */
static uint32_t scramble(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t h = a * 0x9E3779B1u ^ b * 0x85EBCA77u ^ c * 0xC2B2AE3Du;
  h = (h ^ (h >> 15)) * 0x2C1B3C6Du;
  h = (h ^ (h >> 12)) * 0x297A2D39u;
  return h ^ (h >> 15);
}

/* Draws a scene: coloured blocks, moved to the left by `shift` pixels. */
static void draw_scene(int scene, int shift, uint8_t *rgb) {
  for (int y = 0; y < HEIGHT; y++)
    for (int x = 0; x < WIDTH; x++)
      for (int c = 0; c < 3; c++)
        rgb[3 * (y * WIDTH + x) + c] =
            (uint8_t)(40 + scramble((uint32_t)(scene * 3 + c), (uint32_t)(y / 12),
                                    (uint32_t)((x + shift) / 16)) %
                               176);
}

/* Draws a title card: lines of small bright letters on black. */
static void draw_title(int scroll, uint8_t *rgb) {
  memset(rgb, 4, BYTES);
  for (int y = 0; y < HEIGHT; y++)
    for (int x = 24; x < 104; x++) {
      int row = (y + scroll) % 16;
      bool stroke = x % 4 == 0 || (row == 4 && x % 4 < 2);
      if (row >= 4 && row < 9 && stroke) memset(rgb + 3 * (y * WIDTH + x), 230, 3);
    }
}

/* Adds noise of +-`levels` to all bytes, as of a lossy codec or a camera. */
static void add_noise(uint32_t seed, int levels, uint8_t *rgb) {
  for (int i = 0; i < BYTES; i++) {
    int noise = (int)(scramble(seed, (uint32_t)i, 77) % (uint32_t)(2 * levels + 1)) - levels;
    int value = rgb[i] + noise;
    rgb[i] = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
  }
}

/* --- Decisions -------------------------------------------------------------------------------- */

enum { MOST = 64 };
static uint8_t drawn[MOST][BYTES];

/* Returns the first frame of the second scene of drawn[0..count-1], or 0 if there is one scene
 * alone; fails if there are three. */
static int find_cut(int count) {
  static Thumbnail thumbnails[MOST];
  static SceneHistory history;
  int cut = 0;
  scene_history_clear(&history);
  for (int i = 0; i < count; i++) thumbnail_make(drawn[i], WIDTH, HEIGHT, &thumbnails[i]);
  for (int i = 0; i < count; i++) {
    const Thumbnail *after[1 + SCENE_NEIGHBOURS];
    int known = 0;
    while (known < 1 + SCENE_NEIGHBOURS && i + known < count) {
      after[known] = &thumbnails[i + known];
      known++;
    }
    if (scene_starts(&history, after, known)) {
      assert_int_equal(cut, 0);
      cut = i;
      scene_history_clear(&history);
    }
    scene_history_add(&history, &thumbnails[i]);
  }
  return cut;
}

/* A cut is found wherever it is, in slow and in faster motion, with noise. */
static void cuts_are_found(void **state) {
  (void)state;
  for (int speed = 0; speed <= 3; speed++)
    for (int at = 1; at < 12; at++) {
      for (int i = 0; i < 12; i++) {
        draw_scene(i < at ? 1 : 2 + speed, speed * i, drawn[i]);
        add_noise((uint32_t)i, 12, drawn[i]);
      }
      assert_int_equal(find_cut(12), at);
    }
}

/* Animation that shows every drawing for one to four frames, moving by 3 to 12 pixels. */
static void animation_is_no_cut(void **state) {
  (void)state;
  for (int hold = 1; hold <= 4; hold++) {
    for (int i = 0; i < 40; i++) {
      draw_scene(1, i / hold * 3 * hold, drawn[i]);
      add_noise((uint32_t)i, 4, drawn[i]);
    }
    assert_int_equal(find_cut(40), 0);
  }
}

static void fast_motion_is_no_cut(void **state) {
  (void)state;
  for (int speed = 1; speed <= 32; speed++) {
    for (int i = 0; i < 20; i++) draw_scene(1, speed * i, drawn[i]);
    assert_int_equal(find_cut(20), 0);
  }
}

static void flashes_are_no_cut(void **state) {
  (void)state;
  for (int i = 0; i < 20; i++) {
    draw_scene(1, i, drawn[i]);
    if (i != 9) continue;
    for (int b = 0; b < BYTES; b++) drawn[i][b] = (uint8_t)(200 + drawn[i][b] / 5);
  }
  assert_int_equal(find_cut(20), 0);
}

static Thumbnail thumbnail_of(const uint8_t *rgb) {
  Thumbnail thumbnail;
  thumbnail_make(rgb, WIDTH, HEIGHT, &thumbnail);
  return thumbnail;
}

static bool is_blank(const uint8_t *rgb) {
  Thumbnail thumbnail = thumbnail_of(rgb);
  return frame_is_blank(&thumbnail);
}

static bool is_title(const uint8_t *rgb) {
  Thumbnail thumbnail = thumbnail_of(rgb);
  return frame_is_title(rgb, WIDTH, HEIGHT, &thumbnail);
}

static bool is_repeated(const uint8_t *before, const uint8_t *rgb) {
  Thumbnail a = thumbnail_of(before), b = thumbnail_of(rgb);
  return frame_is_repeated(&a, &b);
}

static void black_and_blank_frames_are_found(void **state) {
  (void)state;
  uint8_t *rgb = drawn[0];
  for (int level = 0; level < 256; level += 5) {
    memset(rgb, level, BYTES);
    add_noise(5, 6, rgb);
    assert_true(is_blank(rgb));
  }
  memset(rgb, 10, BYTES);
  memset(rgb, 200, BYTES / 100); /* a logo on 1 % of a black frame */
  assert_true(is_blank(rgb));
  memset(rgb, 200, BYTES * 3 / 100); /* 3 % are a picture */
  assert_false(is_blank(rgb));
  memset(rgb, 120, BYTES);
  memset(rgb, 200, BYTES / 100); /* on grey 1 % is a picture */
  assert_false(is_blank(rgb));
  for (int i = 0; i < BYTES; i++) rgb[i] = (uint8_t)(i % 3 == 0 ? 100 : i % 3 == 1 ? 110 : 90);
  assert_true(is_blank(rgb));
  for (int i = BYTES / 2; i < BYTES; i++) /* two colours of the same luma */
    rgb[i] = (uint8_t)(i % 3 == 0 ? 170 : i % 3 == 1 ? 60 : 164);
  assert_false(is_blank(rgb));
  draw_scene(1, 0, rgb);
  assert_false(is_blank(rgb));
}

static void titles_are_found(void **state) {
  (void)state;
  uint8_t *rgb = drawn[0];
  for (int scroll = 0; scroll < 16; scroll++) {
    draw_title(scroll, rgb);
    add_noise((uint32_t)scroll, 4, rgb);
    assert_true(is_title(rgb));
    assert_false(is_blank(rgb));
  }
  for (int i = 0; i < BYTES; i++) rgb[i] = (uint8_t)(255 - rgb[i]); /* ink on paper is no title */
  assert_false(is_title(rgb));
  memset(rgb, 10, BYTES); /* a lamp at night */
  for (int y = 20; y < 40; y++) memset(rgb + 3 * (y * WIDTH + 50), 230, 60);
  assert_false(is_title(rgb));
  for (int scene = 0; scene < 20; scene++) {
    draw_scene(scene, 0, rgb);
    assert_false(is_title(rgb));
  }
}

static void repeated_frames_are_found(void **state) {
  (void)state;
  draw_scene(1, 0, drawn[0]);
  for (int levels = 0; levels <= 1; levels++) {
    memcpy(drawn[1], drawn[0], BYTES);
    add_noise(9, levels, drawn[1]);
    assert_true(is_repeated(drawn[0], drawn[1]));
  }
  draw_scene(1, 1, drawn[1]); /* one pixel further */
  assert_false(is_repeated(drawn[0], drawn[1]));
  memcpy(drawn[1], drawn[0], BYTES); /* a mouth of 6 x 3 pixels closes */
  for (int y = 30; y < 33; y++) memset(drawn[1] + 3 * (y * WIDTH + 60), 20, 18);
  assert_false(is_repeated(drawn[0], drawn[1]));
}

/* Also frames with fewer pixels than a thumbnail has cells. */
static void small_frames_have_thumbnails(void **state) {
  (void)state;
  static const int sizes[][2] = {{1, 1}, {5, 3}, {63, 35}, {65, 37}, {128, 1}, {1, 72}};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    Thumbnail a, b;
    int width = sizes[i][0], height = sizes[i][1];
    memset(drawn[0], 100, BYTES);
    thumbnail_make(drawn[0], width, height, &a);
    assert_in_range(a.cells, 1, THUMBNAIL_CELLS);
    assert_int_equal(a.pixels, width * height);
    assert_int_equal(a.histogram[100], width * height);
    for (int c = 0; c < a.cells; c++) {
      assert_int_equal(a.channel[0][c], 100 * THUMBNAIL_UNIT);
      assert_int_equal(a.channel[1][c], 0);
      assert_int_equal(a.channel[2][c], 0);
    }
    drawn[0][3 * (width * height - 1)] = 255; /* the last pixel */
    thumbnail_make(drawn[0], width, height, &b);
    assert_true(thumbnail_difference(&a, &b).largest > 0);
  }
}

/* --- pack ------------------------------------------------------------------------------------- */

/* One letter for each frame: a lower-case letter is the next frame of that scene, '.' repeats the
 * frame before, ' ' is black, '#' a title. */
static void write_frames(const char *path, const char *letters) {
  VideoWriter *writer = NULL;
  VideoWriterOptions options = {
      .width = WIDTH, .height = HEIGHT, .quality = -1, .fps_numerator = 25, .fps_denominator = 1};
  int shift = 0;
  assert_done(video_writer_open(path, &options, &writer, &error), &error);
  for (const char *at = letters; *at; at++) {
    if (*at == ' ') memset(drawn[0], 3, BYTES);
    if (*at == '#') draw_title(0, drawn[0]);
    if (*at >= 'a') draw_scene(*at, 2 * shift++, drawn[0]);
    assert_done(video_write(writer, drawn[0], NULL, &error), &error);
  }
  assert_done(video_writer_finish(writer, &error), &error);
}

static PackOptions options(const char *source) {
  static char path[512];
  static const char *const paths[] = {path};
  snprintf(path, sizeof path, "%s", source);
  return (PackOptions){.out = media_path("data"),
                       .sources = paths,
                       .source_count = 1,
                       .frames = 3,
                       .range_end = -1,
                       .detect = PACK_DETECT_DEFAULT,
                       .command = "test"};
}

/* Compares the first frame of every clip with the expected ones, which -1 ends. */
static void assert_clips(const int *expected) {
  Dataset *dataset = NULL;
  int count = 0;
  while (expected[count] >= 0) count++;
  assert_done(dataset_open(media_path("data"), &dataset, &error), &error);
  assert_int_equal(dataset_info(dataset)->clips, count);
  for (int i = 0; i < count; i++) {
    ClipName name;
    assert_done(dataset_clip_name(dataset, i, &name, &error), &error);
    assert_int_equal(name.start_frame, expected[i]);
  }
  dataset_close(dataset);
}

/* Which clips result from the frames, as pairs or not, for all kinds of media. */
static void frames_are_dropped_and_scenes_cut(void **state) {
  (void)state;
  static const struct {
    const char *letters;
    int detect, stride;
    int clips[12];
  } cases[] = {
      {"aaaaabbbbbbccc", PACK_DETECT_DEFAULT, 0, {0, 5, 8, 11, -1}},
      {"aaaaabbbbbbccc", PACK_DETECT_DEFAULT, 1, {0, 1, 2, 5, 6, 7, 8, 11, -1}},
      {"aaaaabbbbbbccc", PACK_DETECT_DEFAULT, 4, {0, 5, 11, -1}},
      {"aaaaabbbbbbccc", PACK_DETECT_NOTHING, 0, {0, 3, 6, 9, -1}},
      {"a.a.a.a.a.a.bb", PACK_DETECT_DEFAULT, 0, {0, 6, -1}},
      {"a..a..a..a..a..a..b..b..b..", PACK_DETECT_DEFAULT, 0, {0, 9, 18, -1}},
      {"a..a..a..a..a..a..b..b..b..", PACK_DETECT_CUTS, 0, {0, 3, 6, 9, 12, 15, 18, 21, 24, -1}},
      {"aaaa  aaa   bbbb", PACK_DETECT_DEFAULT, 0, {0, 6, 12, -1}},
      {"aaaa  aaa   bbbb", PACK_DETECT_BLACK, 0, {0, 6, 12, -1}},
      {"####.aaaa##bbb", PACK_DETECT_DEFAULT, 0, {5, 11, -1}},
      {"   ##    aaa   ", PACK_DETECT_ALL, 0, {9, -1}},
      {"aab bcc##aa aa.a", PACK_DETECT_ALL, 0, {12, -1}},
  };
  const char *media[] = {"frames", "video.mkv"};
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
    for (int m = 0; m < (WITH_FFMPEG ? 2 : 1); m++) {
      const char *path = media_path(media[m]);
      write_frames(path, cases[c].letters);
      for (int targets = 0; targets < 2; targets++) {
        PackOptions o = options(path);
        o.detect = (PackDetect)cases[c].detect;
        o.stride = cases[c].stride;
        if (targets) {
          o.targets = o.sources;
          o.source_count = 0;
          o.target_count = 1;
        }
        assert_done(pack_run(&o, &error), &error);
        assert_clips(cases[c].clips);
        assert_done(folder_remove(media_path("data"), &error), &error);
      }
      if (m == 0) assert_done(folder_remove(path, &error), &error);
    }
}

/* Pairs drop the same frames on both sides, analysed on the source; duplicates stay by default. */
static void pairs_stay_aligned(void **state) {
  (void)state;
  write_frames(media_path("frames"), "aaaa  a.a.a bbbb");
  write_frames(media_path("toon"), "ccccccdddddddddd");
  char toon[512];
  const char *target = toon;
  snprintf(toon, sizeof toon, "%s", media_path("toon"));
  for (int all = 0; all < 2; all++) {
    PackOptions o = options(media_path("frames"));
    o.targets = &target;
    o.target_count = 1;
    if (all) o.detect = PACK_DETECT_ALL;
    assert_done(pack_run(&o, &error), &error);
    assert_clips(all ? (int[]){0, 6, 12, -1} : (int[]){0, 6, 12, -1});
    Dataset *dataset = NULL;
    uint8_t *clip = mem_new(2 * 3, BYTES);
    assert_done(dataset_open(media_path("data"), &dataset, &error), &error);
    assert_done(dataset_read(dataset, 1, clip, clip + (size_t)3 * BYTES, &error), &error);
    for (int t = 0; t < 3; t++) {
      int frame = all ? 6 + 2 * t : 6 + t; /* of the target's second scene */
      draw_scene('d', 2 * frame, drawn[1]);
      assert_memory_equal(clip + (size_t)(3 + t) * BYTES, drawn[1], BYTES);
      draw_scene('a', 2 * (4 + (all ? t : t / 2)), drawn[1]);
      assert_memory_equal(clip + (size_t)t * BYTES, drawn[1], BYTES);
    }
    dataset_close(dataset);
    free(clip);
    assert_done(folder_remove(media_path("data"), &error), &error);
  }
}

#if WITH_FFMPEG

/* A filter of the source does not hide scene cuts. */
static void filtered_sources_are_analysed_without_the_filter(void **state) {
  (void)state;
  write_frames(media_path("video.mkv"), "aaaaabbbbbbccc");
  PackOptions o = options(media_path("video.mkv"));
  o.targets = o.sources;
  o.target_count = 1;
  o.source_filter = "lutrgb=r=90:g=80:b=70"; /* one colour */
  assert_done(pack_run(&o, &error), &error);
  assert_clips((int[]){0, 5, 8, 11, -1});
}

#endif

/* A run that was interrupted behind any of its shards continues to the same bytes. */
static void interrupted_runs_continue(void **state) {
  (void)state;
  enum { SHARDS = 4 };
  char frames[512], more[512], whole[512], output[4096];
  const char *paths[] = {frames, more};
  snprintf(frames, sizeof frames, "%s", media_path("frames"));
  snprintf(more, sizeof more, "%s", media_path("more"));
  snprintf(whole, sizeof whole, "%s", media_path("whole"));
  write_frames(frames, "aaaa.aa  bbb#b.b.bbbccccccc");
  write_frames(more, "dddddd");
  PackOptions o = options("");
  o.sources = paths;
  o.source_count = 2;
  o.clips_per_shard = 2;
  o.out = whole;
  assert_done(pack_run(&o, &error), &error);
  Dataset *dataset = NULL;
  assert_done(dataset_open(o.out, &dataset, &error), &error);
  assert_int_equal(dataset_info(dataset)->shards, SHARDS);
  dataset_close(dataset);
  for (int kept = 0; kept < SHARDS; kept++) {
    o.out = media_path("data");
    assert_int_equal(media_shell(output, sizeof output,
                                 "cp -r '%s' '%s' && cd '%s' && rm manifest.json && "
                                 "ls | tail -n +%d | xargs rm",
                                 whole, o.out, o.out, kept + 1),
                     0);
    assert_done(pack_run(&o, &error), &error);
    assert_int_equal(media_shell(output, sizeof output, "diff -r '%s' '%s'", whole, o.out), 0);
    assert_done(folder_remove(o.out, &error), &error);
  }
}

static void the_error_says_what_was_dropped(void **state) {
  (void)state;
  write_frames(media_path("frames"), "a.a.....   ##");
  PackOptions o = options(media_path("frames"));
  assert_int_equal(pack_run(&o, &error), ERROR_DATA);
  assert_mentions(&error,
                  "13 frames in the range; 6 duplicates, 3 black or blank frames, 2 title frames "
                  "dropped; a clip needs 3 in one scene (--frames)");
  assert_mentions(&error, "--detect cuts,black,titles");
  assert_false(is_there(media_path("data")));
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, media_setup, media_teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(cuts_are_found),
    cmocka_unit_test(animation_is_no_cut),
    cmocka_unit_test(fast_motion_is_no_cut),
    cmocka_unit_test(flashes_are_no_cut),
    cmocka_unit_test(black_and_blank_frames_are_found),
    cmocka_unit_test(titles_are_found),
    cmocka_unit_test(repeated_frames_are_found),
    cmocka_unit_test(small_frames_have_thumbnails),
    TEST(frames_are_dropped_and_scenes_cut),
    TEST(pairs_stay_aligned),
#if WITH_FFMPEG
    TEST(filtered_sources_are_analysed_without_the_filter),
#endif
    TEST(interrupted_runs_continue),
    TEST(the_error_says_what_was_dropped),
  };
  return cmocka_run_group_tests_name("pack scenes", tests, NULL, NULL);
}
