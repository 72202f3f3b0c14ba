/* Recognises frames that teach a network nothing: black or blank ones, titles, repetitions. */
#ifndef CELFORGE_DATA_BUILD_FRAME_KINDS_H
#define CELFORGE_DATA_BUILD_FRAME_KINDS_H

#include <stdbool.h>
#include <stdint.h>

#include "data/build/thumbnail.h"

/* True for a black frame, 98 % of whose pixels have a luma below 10 % (the defaults of FFmpeg's
 * filter blackdetect); and for a blank one, 99.5 % of whose pixels have the same luma (within 16
 * levels of 255) and all of whose cells have the same colour. */
bool frame_is_blank(const Thumbnail *frame);

/* True for bright writing on a dark plain background: credits, title cards. That is, 80 % of the
 * pixels are within 8 levels of the most frequent luma, which is below 25 %; 0.2 to 15 % are at
 * least 80 levels brighter; and these form thin strokes (runs along a row of at most 1/40 of the
 * width on average), several of them in each row that has any (three on average). Measured on five
 * title cards and credits in sizes of 1/8 to 1/30 of the height, on three dark backgrounds: all are
 * found, at three frame sizes, and none in three real videos; but bright dots on black, such as a
 * starry sky, may be taken for one. Titles over
 * pictures, and dark writing on a light background, are not recognised: by such measures they
 * cannot be told from pictures and ink drawings. */
bool frame_is_title(const uint8_t *rgb, int width, int height, const Thumbnail *frame);

/* True if two frames show the same drawing but for the noise of lossy coding: the cells differ by
 * less than 1 grey level on average (luma and colour added), and none by more than 8. Measured on
 * five clips held for two and three frames each and coded with x264: at a rate factor of 23 all of
 * the repetitions are found, at 28 97 % (73 % of the noisiest clip's on twos), at 33 83 %; no new
 * drawing is taken for one. Compare with the last frame that was kept: slow motion adds up until it
 * shows. */
bool frame_is_repeated(const Thumbnail *before, const Thumbnail *frame);

#endif
