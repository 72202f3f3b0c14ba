/* For tests that make and look at pictures and videos. */
#ifndef CELFORGE_TESTS_SUPPORT_MEDIA_H
#define CELFORGE_TESTS_SUPPORT_MEDIA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "data/video/video.h"

/* cmocka's setup and teardown: a fresh folder for each test, removed behind it. */
int media_setup(void **state);
int media_teardown(void **state);
/* A path in that folder; one of eight buffers in turn. */
const char *media_path(const char *name);

void assert_done(Status status, const Error *error);
void assert_mentions(const Error *error, const char *part);

/* Runs a shell command; its output, at most `size` - 1 bytes, into `output`. The exit status. */
int media_shell(char *output, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool have_tool(const char *name);

/* Frame `index` of a moving colour gradient: smooth, so that lossy codecs keep it. */
void media_frame(int index, int width, int height, uint8_t *rgb);
/* Writes `frames` of them; a folder, picture or video, by the name. */
void media_make(const char *path, int frames, int width, int height, int rate);
/* Reads to the end; the frames, or -1 with `error` filled. Keeps the last frame where `last` is
 * given. */
int64_t media_count(const char *path, const VideoReaderOptions *options, uint8_t *last,
                    Error *error);

#endif
