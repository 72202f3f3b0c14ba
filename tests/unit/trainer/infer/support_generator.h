/* A small generator with random weights, which does something to what it is given. */
#ifndef CELFORGE_TESTS_UNIT_TRAINER_SUPPORT_GENERATOR_H
#define CELFORGE_TESTS_UNIT_TRAINER_SUPPORT_GENERATOR_H

#include "trainer/infer/inference.h"

typedef struct SmallGenerator {
  Config config;
  Parameters parameters;
  Inference *inference;
} SmallGenerator;

/* `assignments`, NULL-terminated, change the config, which has 4 channels and 2 blocks. What fails
 * fails the test. */
void small_generator_open(SmallGenerator *generator, const char *const *assignments,
                          int64_t source_channels, Backend *backend);
void small_generator_close(SmallGenerator *generator);

#endif
