#include <stdlib.h>

#include "base/memory.h"
#include "data/build/build.h"
#include "data/synth/scene.h"

enum { FRAMES_PER_SECOND = 25 };

void synth_clip(uint64_t seed, int64_t clip, int frames, int width, int height, uint8_t *source,
                uint8_t *target) {
  size_t pixels = (size_t)width * (size_t)height;
  Scene *scene = mem_new(1, sizeof *scene);
  Frame *frame = mem_new(1, sizeof *frame);
  float *scratch = mem_new(pixels * RENDER_PLANES, sizeof *scratch);
  scene_generate(seed, clip, scene);
  for (int t = 0; t < frames; t++) {
    scene_pose(scene, (float)t / FRAMES_PER_SECOND, width, height, frame);
    frame_render(frame, scene, t, scratch, source + 3 * pixels * (size_t)t,
                 target + 3 * pixels * (size_t)t);
  }
  free(scratch);
  free(frame);
  free(scene);
}
