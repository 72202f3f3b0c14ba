#include "data/build/scene_cuts.h"

#include <limits.h>
#include <string.h>

enum {
  MINIMUM = 10 * THUMBNAIL_UNIT,       /* smallest difference at a cut */
  MINIMUM_ALONE = 30 * THUMBNAIL_UNIT, /* the same where nothing is known of the motion around it */
  RATIO_10 = 18,                       /* least multiple of the largest neighbour, in tenths */
};

void scene_history_clear(SceneHistory *history) {
  history->frames = history->scores = 0;
}

void scene_history_add(SceneHistory *history, const Thumbnail *frame) {
  if (history->frames > 0) {
    memmove(history->score + 1, history->score, sizeof history->score - sizeof *history->score);
    history->score[0] = thumbnail_difference(&history->frame[0], frame).mean;
    if (history->scores < SCENE_NEIGHBOURS) history->scores++;
    history->frame[1] = history->frame[0];
  }
  history->frame[0] = *frame;
  if (history->frames < SCENE_FLASH) history->frames++;
}

/* The smallest difference between the frames before a cut and those after it. Around a flash of one
 * frame, one of them is small. */
static int smallest_across(const SceneHistory *history, const Thumbnail *const *after, int count) {
  int smallest = INT_MAX;
  for (int b = 0; b < history->frames; b++)
    for (int a = 0; a < count && a < SCENE_FLASH; a++) {
      int mean = thumbnail_difference(&history->frame[b], after[a]).mean;
      if (mean < smallest) smallest = mean;
    }
  return smallest;
}

bool scene_starts(const SceneHistory *history, const Thumbnail *const *after, int count) {
  int largest = 0;
  bool alone = history->scores == 0 && count < 2;
  if (history->frames == 0 || count < 1) return false;
  int score = thumbnail_difference(&history->frame[0], after[0]).mean;
  if (score < (alone ? MINIMUM_ALONE : MINIMUM)) return false;
  for (int i = 0; i < history->scores; i++)
    if (history->score[i] > largest) largest = history->score[i];
  for (int i = 1; i < count; i++) {
    int next = thumbnail_difference(after[i - 1], after[i]).mean;
    if (next > largest) largest = next;
  }
  if (score * 10 < RATIO_10 * largest) return false;
  return smallest_across(history, after, count) * 2 >= score;
}
