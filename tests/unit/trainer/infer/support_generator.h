/* A small generator with random weights that visibly changes its input. */
#ifndef CELFORGE_TESTS_UNIT_TRAINER_INFER_SUPPORT_GENERATOR_H
#define CELFORGE_TESTS_UNIT_TRAINER_INFER_SUPPORT_GENERATOR_H

#include "trainer/infer/inference.h"

typedef struct SmallGenerator {
  Config config;
  Parameters parameters;
  Inference *inference;
  Backend *backend;
} SmallGenerator;

/* `assignments`, NULL-terminated, change the config, which has 4 channels and 2 blocks. A failure
 * fails the test. */
void small_generator_open(SmallGenerator *generator, const char *const *assignments,
                          int64_t source_channels, Backend *backend);
void small_generator_close(SmallGenerator *generator);

/* The reference for streams: translates a whole clip in one program, as training does. `source` u8
 * [frames, source_height, source_width, source_channels], `output` f32 [frames, height, width, 3].
 */
void small_generator_clip(SmallGenerator *generator, const InferenceShape *shape, int frames,
                          const uint8_t *source, float *output);

#endif
