/* For tests that write and read images and videos. */
#ifndef CELFORGE_TESTS_SUPPORT_MEDIA_H
#define CELFORGE_TESTS_SUPPORT_MEDIA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "data/video/video.h"

/* Setup and teardown for cmocka: a new folder for each test, removed after it. */
int media_setup(void **state);
int media_teardown(void **state);
/* Returns a path in that folder, in one of eight static buffers in turn. */
const char *media_path(const char *name);

bool is_there(const char *path);
void assert_done(Status status, const Error *error);
void assert_mentions(const Error *error, const char *part);

/* Runs a shell command, stores at most `size` - 1 bytes of its output and returns its exit status.
 */
int media_shell(char *output, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool have_tool(const char *name);

/* Draws frame `index` of a changing colour gradient, smooth so that lossy codecs keep it. */
void media_frame(int index, int width, int height, uint8_t *rgb);
/* Writes `frames` such frames as a folder, image or video, depending on the name. */
void media_make(const char *path, int frames, int width, int height, int rate);
/* Reads to the end and returns the number of frames, or -1 with `error` set. Copies the last frame
 * into `last`, if not NULL. */
int64_t media_count(const char *path, const VideoReaderOptions *options, uint8_t *last,
                    Error *error);

#endif
