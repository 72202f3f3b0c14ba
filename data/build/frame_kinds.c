#include "data/build/frame_kinds.h"

enum {
  BLACK_LUMA = 26,        /* 10 % of 255, excluded */
  BLACK_SHARE = 980,      /* of 1000 pixels */
  BLANK_LEVELS = 16,      /* luma levels of a blank frame's pixels */
  BLANK_SHARE = 995,      /* of 1000 pixels */
  BLANK_COLOUR = 12,      /* grey levels between the cells of a blank frame */
  TITLE_DARK = 64,        /* luma of the background, excluded */
  TITLE_AROUND = 8,       /* luma levels to either side of the background's */
  TITLE_BACKGROUND = 800, /* of 1000 pixels */
  TITLE_BRIGHTER = 80,    /* luma levels between background and writing */
  TITLE_LEAST = 2,        /* of 1000 pixels that are writing */
  TITLE_MOST = 150,
  TITLE_RUN = 40, /* 1/40 of the width: longest mean run of writing */
  TITLE_RUNS = 3, /* fewest mean runs in a row with writing */
  REPEATED_MEAN = THUMBNAIL_UNIT,
  REPEATED_LARGEST = 8 * THUMBNAIL_UNIT
};

static int64_t count_lumas(const Thumbnail *frame, int first, int end) {
  int64_t count = 0;
  for (int i = first < 0 ? 0 : first; i < end && i < LUMA_LEVELS; i++) count += frame->histogram[i];
  return count;
}

/* True if the colour differences of all cells are alike. */
static bool has_one_colour(const Thumbnail *frame) {
  for (int channel = 1; channel < 3; channel++) {
    int lowest = INT16_MAX, highest = INT16_MIN;
    for (int i = 0; i < frame->cells; i++) {
      int value = frame->channel[channel][i];
      if (value < lowest) lowest = value;
      if (value > highest) highest = value;
    }
    if (highest - lowest > BLANK_COLOUR * THUMBNAIL_UNIT) return false;
  }
  return true;
}

bool frame_is_blank(const Thumbnail *frame) {
  if (count_lumas(frame, 0, BLACK_LUMA) * 1000 >= BLACK_SHARE * frame->pixels) return true;
  for (int first = 0; first + BLANK_LEVELS <= LUMA_LEVELS; first++)
    if (count_lumas(frame, first, first + BLANK_LEVELS) * 1000 >= BLANK_SHARE * frame->pixels)
      return has_one_colour(frame);
  return false;
}

/* Runs of bright pixels along the rows. */
typedef struct Strokes {
  int64_t pixels, runs, rows; /* rows: that have any */
} Strokes;

static Strokes find_strokes(const uint8_t *rgb, int width, int height, int luma) {
  Strokes strokes = {0};
  for (int y = 0; y < height; y++) {
    int64_t runs = 0;
    bool inside = false;
    for (int x = 0; x < width; x++, rgb += 3) {
      bool bright = pixel_luma(rgb) >= luma;
      strokes.pixels += bright;
      runs += bright && !inside;
      inside = bright;
    }
    strokes.runs += runs;
    strokes.rows += runs > 0;
  }
  return strokes;
}

bool frame_is_title(const uint8_t *rgb, int width, int height, const Thumbnail *frame) {
  int background = 0;
  for (int i = 1; i < LUMA_LEVELS; i++)
    if (frame->histogram[i] > frame->histogram[background]) background = i;
  if (background >= TITLE_DARK) return false;
  int64_t plain = count_lumas(frame, background - TITLE_AROUND, background + TITLE_AROUND + 1);
  int64_t bright = count_lumas(frame, background + TITLE_BRIGHTER, LUMA_LEVELS);
  if (plain * 1000 < TITLE_BACKGROUND * frame->pixels ||
      bright * 1000 < TITLE_LEAST * frame->pixels || bright * 1000 > TITLE_MOST * frame->pixels)
    return false;
  Strokes strokes = find_strokes(rgb, width, height, background + TITLE_BRIGHTER);
  return strokes.pixels * TITLE_RUN <= strokes.runs * width &&
         strokes.runs >= TITLE_RUNS * strokes.rows;
}

bool frame_is_repeated(const Thumbnail *before, const Thumbnail *frame) {
  ThumbnailDifference difference = thumbnail_difference(before, frame);
  return difference.mean < REPEATED_MEAN && difference.largest <= REPEATED_LARGEST;
}
