#include "trainer/eval/lpips_scores.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "trainer/eval/lpips.h"

struct LpipsScores {
  Lpips *network;
  size_t frame_bytes;
  int64_t frames, pairs;
  double lpips[VIDEO_CANDIDATES], tlp[VIDEO_CANDIDATES]; /* sums over frames, over pairs */
};

Status lpips_scores_new(Backend *backend, const char *path, int height, int width,
                        LpipsScores **out, Error *error) {
  LpipsScores *scores = mem_new(1, sizeof *scores);
  scores->frame_bytes = (size_t)height * (size_t)width * 3;
  Status status = lpips_new(backend, path, height, width, VIDEO_COUNT, &scores->network, error);
  if (status == OK)
    *out = scores;
  else
    free(scores);
  return status;
}

void lpips_scores_free(LpipsScores *scores) {
  if (!scores) return;
  lpips_free(scores->network);
  free(scores);
}

Status lpips_scores_add(LpipsScores *scores, uint8_t *const *clips, int frames, Error *error) {
  for (int t = 0; t < frames; t++) {
    const uint8_t *at[VIDEO_COUNT];
    LpipsDistances distances[VIDEO_COUNT];
    for (int i = 0; i < VIDEO_COUNT; i++) at[i] = clips[i] + (size_t)t * scores->frame_bytes;
    Status status = lpips_frame(scores->network, at, distances, error);
    if (status != OK) return status;
    for (int i = 0; i < VIDEO_CANDIDATES; i++) {
      scores->lpips[i] += distances[i].reference;
      if (t > 0) scores->tlp[i] += fabs(distances[i].previous - distances[VIDEO_TARGET].previous);
    }
    scores->frames++;
    scores->pairs += t > 0;
  }
  return OK;
}

const char *lpips_scores_network(const LpipsScores *scores) {
  return lpips_network(scores->network);
}

double lpips_scores_lpips(const LpipsScores *scores, Video video) {
  return scores->frames > 0 ? scores->lpips[video] / (double)scores->frames : (double)NAN;
}

double lpips_scores_tlp(const LpipsScores *scores, Video video) {
  return scores->pairs > 0 ? scores->tlp[video] / (double)scores->pairs : (double)NAN;
}
