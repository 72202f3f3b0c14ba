#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/files.h"
#include "data/video/image.h"
#include "data/video/video.h"
#include "tests/unit/data/support_media.h"

static Error error;
static char output[4096];

static void png_round_trip(void **state) {
  (void)state;
  Image image, read;
  assert_done(image_new(31, 7, &image, &error), &error);
  for (int i = 0; i < 31 * 7 * 3; i++) image.pixels[i] = (uint8_t)(i * 73);
  assert_done(image_write_png(media_path("a.png"), &image, &error), &error);
  assert_done(image_read_png(media_path("a.png"), &read, &error), &error);
  assert_int_equal(read.width, 31);
  assert_int_equal(read.height, 7);
  assert_memory_equal(read.pixels, image.pixels, 31 * 7 * 3);
  image_free(&read);
  image_free(&image);
}

/* Other kinds of PNG, written by ffmpeg, are read as ffmpeg reads them. */
static void all_kinds_of_png_become_rgb(void **state) {
  (void)state;
  static const char *formats[] = {"gray", "gray16be", "rgb48be", "rgba", "ya8", "monob", "pal8"};
  if (!have_tool("ffmpeg")) skip();
  for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
    Image image = {0};
    char *bytes = NULL;
    size_t size;
    int code =
        media_shell(output, sizeof output,
                    "ffmpeg -y -v error -f lavfi -i testsrc=size=40x30 -frames:v 1 -pix_fmt "
                    "%s '%s' 2>&1 && ffmpeg -y -v error -i '%s' -f rawvideo -pix_fmt rgb24 "
                    "'%s' 2>&1",
                    formats[i], media_path("a.png"), media_path("a.png"), media_path("a.rgb"));
    if (code != 0) fail_msg("%s: %s", formats[i], output);
    assert_done(file_read(media_path("a.rgb"), 1 << 20, &bytes, &size, &error), &error);
    assert_done(image_read_png(media_path("a.png"), &image, &error), &error);
    assert_int_equal(image.width, 40);
    assert_int_equal(image.height, 30);
    assert_int_equal(size, 40 * 30 * 3);
    for (size_t p = 0; p < size; p++)
      if (abs(image.pixels[p] - (uint8_t)bytes[p]) > 2)
        fail_msg("%s: byte %zu: %d, not %d", formats[i], p, image.pixels[p], (uint8_t)bytes[p]);
    image_free(&image);
    free(bytes);
  }
}

static void bad_files_are_rejected(void **state) {
  (void)state;
  Image image;
  char *bytes = NULL;
  size_t size;
  assert_int_equal(image_read_png(media_path("none.png"), &image, &error), ERROR_IO);
  assert_mentions(&error, "none.png");
  assert_done(atomic_file_replace(media_path("text.png"), "not an image", 12, &error), &error);
  assert_int_equal(image_read_png(media_path("text.png"), &image, &error), ERROR_DATA);
  assert_mentions(&error, "text.png: not a PNG");
  media_make(media_path("a.png"), 1, 40, 40, 25);
  assert_done(file_read(media_path("a.png"), 1 << 20, &bytes, &size, &error), &error);
  for (size_t cut = 8; cut < size - 12; cut += 97) { /* after that only the end chunk is missing */
    assert_done(atomic_file_replace(media_path("cut.png"), bytes, cut, &error), &error);
    assert_int_equal(image_read_png(media_path("cut.png"), &image, &error), ERROR_DATA);
    assert_mentions(&error, "cut.png: damaged PNG");
    assert_null(image.pixels);
  }
  bytes[size / 2] = (char)(bytes[size / 2] ^ 0x10);
  assert_done(atomic_file_replace(media_path("flip.png"), bytes, size, &error), &error);
  assert_int_equal(image_read_png(media_path("flip.png"), &image, &error), ERROR_DATA);
  free(bytes);
  assert_int_equal(image_new(0, 5, &image, &error), ERROR_USAGE);
  assert_done(image_new(4, 4, &image, &error), &error);
  assert_int_equal(image_write_png(media_path("no/a.png"), &image, &error), ERROR_IO);
  image_free(&image);
}

/* Writes a PNG whose header claims a size, in front of the pixels of a small one. */
static void write_claim(const char *path, uint32_t width, uint32_t height) {
  char *bytes = NULL;
  size_t size;
  enum { HEADER = 12, WIDTH = 16, CHECKSUM = 29 };
  media_make(media_path("a.png"), 1, 40, 40, 25);
  assert_done(file_read(media_path("a.png"), 1 << 20, &bytes, &size, &error), &error);
  for (int i = 0; i < 4; i++) {
    bytes[WIDTH + i] = (char)(width >> (24 - 8 * i));
    bytes[WIDTH + 4 + i] = (char)(height >> (24 - 8 * i));
  }
  uint32_t sum = (uint32_t)crc32(0, (const Bytef *)bytes + HEADER, CHECKSUM - HEADER);
  for (int i = 0; i < 4; i++) bytes[CHECKSUM + i] = (char)(sum >> (24 - 8 * i));
  assert_done(atomic_file_replace(path, bytes, size, &error), &error);
  free(bytes);
}

/* Memory for the claimed pixels would be more than this process may have. */
static void claims_are_checked_before_memory_is_allocated(void **state) {
  (void)state;
  static const struct {
    uint32_t width, height;
    const char *says;
  } claims[] = {{32768, 32768, "32768x32768 pixels; at most"},
                {16384, 16384, "do not fit into a file of"},
                {32768, 4096, "do not fit into a file of"},
                {40000, 8, "damaged PNG"},
                {0, 8, "damaged PNG"}};
  struct rlimit before;
  Image image;
  getrlimit(RLIMIT_AS, &before);
  for (size_t i = 0; i < sizeof claims / sizeof *claims; i++) {
    write_claim(media_path("claim.png"), claims[i].width, claims[i].height);
#ifndef __SANITIZE_ADDRESS__
    setrlimit(RLIMIT_AS, &(struct rlimit){(rlim_t)1 << 28, before.rlim_max});
#endif
    Status status = image_read_png(media_path("claim.png"), &image, &error);
    setrlimit(RLIMIT_AS, &before);
    assert_int_equal(status, ERROR_DATA);
    assert_mentions(&error, "claim.png");
    assert_mentions(&error, claims[i].says);
  }
}

/* A pipe without a writer would block for ever. */
static void only_regular_files_are_read(void **state) {
  (void)state;
  Image image;
  VideoReader *reader = NULL;
  const char *pipe_path = media_path("frames/2.png");
  assert_int_equal(mkdir(media_path("frames"), 0777), 0);
  assert_done(image_new(8, 8, &image, &error), &error);
  memset(image.pixels, 0, 8 * 8 * 3);
  assert_done(image_write_png(media_path("frames/1.png"), &image, &error), &error);
  uint8_t pixels[8 * 8 * 3];
  bool end = false;
  image_free(&image);
  assert_int_equal(mkfifo(pipe_path, 0666), 0);
  alarm(20);
  assert_int_equal(image_read_png(pipe_path, &image, &error), ERROR_IO);
  assert_mentions(&error, "frames/2.png");
  assert_int_equal(image_read_png("/dev/zero", &image, &error), ERROR_IO);
  assert_int_equal(image_read_png(media_path("frames"), &image, &error), ERROR_IO);
  assert_mentions(&error, "folder");
  assert_done(video_open(media_path("frames"), NULL, &reader, &error), &error);
  assert_done(video_read(reader, pixels, &end, &error), &error);
  assert_int_equal(video_read(reader, pixels, &end, &error), ERROR_IO);
  video_close(reader);
  alarm(0);
}

/* The definition: weights by a triangle as wide as the coarser of the two grids. */
static double reference(const Image *from, int to_width, int to_height, int x, int y, int c) {
  double rx = (double)from->width / to_width, ry = (double)from->height / to_height;
  double sx = rx > 1 ? rx : 1, sy = ry > 1 ? ry : 1, sum = 0, weights = 0;
  for (int j = 0; j < from->height; j++)
    for (int i = 0; i < from->width; i++) {
      double u = 1 - fabs((i + 0.5 - (x + 0.5) * rx) / sx);
      double v = 1 - fabs((j + 0.5 - (y + 0.5) * ry) / sy);
      if (u <= 0 || v <= 0) continue;
      sum += u * v * from->pixels[3 * (j * from->width + i) + c];
      weights += u * v;
    }
  return sum / weights;
}

static void resizing_matches_the_definition(void **state) {
  (void)state;
  static const int sizes[][4] = {{13, 9, 26, 27}, {13, 9, 13, 9}, {40, 30, 10, 7},
                                 {5, 40, 17, 11}, {1, 1, 6, 4},   {9, 8, 1, 1}};
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
    Image from, to;
    assert_done(image_new(sizes[s][0], sizes[s][1], &from, &error), &error);
    assert_done(image_new(sizes[s][2], sizes[s][3], &to, &error), &error);
    for (int i = 0; i < from.width * from.height * 3; i++)
      from.pixels[i] = (uint8_t)(i * 91 + i / 7);
    image_resize(&from, &to);
    for (int y = 0; y < to.height; y++)
      for (int x = 0; x < to.width; x++)
        for (int c = 0; c < 3; c++) {
          double wanted = reference(&from, to.width, to.height, x, y, c);
          double got = to.pixels[3 * (y * to.width + x) + c];
          if (fabs(got - wanted) > 0.51) fail_msg("%zu: %d,%d: %g, not %g", s, x, y, got, wanted);
        }
    image_free(&from);
    image_free(&to);
  }
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, media_setup, media_teardown)

int main(void) {
  const struct CMUnitTest tests[] = {TEST(png_round_trip),
                                     TEST(all_kinds_of_png_become_rgb),
                                     TEST(bad_files_are_rejected),
                                     TEST(claims_are_checked_before_memory_is_allocated),
                                     TEST(only_regular_files_are_read),
                                     TEST(resizing_matches_the_definition)};
  return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
