/* Looks: FFmpeg filter graphs that draw, by name. They make the targets of a first style from a
 * video alone. Lines and washes have a width in pixels, so a video is scaled to the size of the
 * dataset first. Every frame is drawn from itself alone, without palettes chosen per frame, and
 * nothing depends on the position in the frame: both would flicker, or could not be learnt from
 * crops. */
#ifndef CELFORGE_DATA_BUILD_LOOKS_H
#define CELFORGE_DATA_BUILD_LOOKS_H

#include "base/error.h"
#include "base/text.h"

typedef struct PackLook {
  const char *name, *description; /* the description is a line for --help */
  const char *graph;
} PackLook;

/* Returns the number of looks, and look `index` (0 and up). */
int look_count(void);
const PackLook *look_at(int index);
/* Finds a look. ERROR_USAGE, listing all names, if there is none of this name. */
Status look_find(const char *name, const PackLook **out, Error *error);
/* Appends "  comic        flat shading ..." for each look. */
void looks_describe(Text *out);

#endif
