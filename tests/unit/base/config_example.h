/* A schema with every type and kind of range, for the tests of the config reader. */
#ifndef CELFORGE_TESTS_UNIT_BASE_CONFIG_EXAMPLE_H
#define CELFORGE_TESTS_UNIT_BASE_CONFIG_EXAMPLE_H

#include <float.h>
#include <string.h>

#include "base/config/config.h"

typedef struct Example {
  int64_t seed;
  ConfigString dir;
  bool resume;
  int64_t steps, batch, offset;
  double rate, weight;
  int adversarial;
  ConfigString notes;
} Example;

static const ConfigKey example_keys[] = {
    {"seed", CONFIG_INT, offsetof(Example, seed), 0, 0x1p63, "1", NULL,
     "Seed of all random numbers."},
    {"run.dir", CONFIG_STRING, offsetof(Example, dir), 0, 0, "runs/demo", NULL, "Run folder."},
    {"run.resume", CONFIG_BOOL, offsetof(Example, resume), 0, 0, "true", NULL, "Resume the run."},
    {"train.steps", CONFIG_INT, offsetof(Example, steps), 1, 1000000, "400", NULL,
     "Training steps."},
    {"train.global_batch", CONFIG_INT, offsetof(Example, batch), 1, 4096, "8", NULL,
     "Clips per step over all ranks."},
    {"train.offset", CONFIG_INT, offsetof(Example, offset), -0x1p63, 0x1p63, "0", NULL,
     "Any number."},
    {"optim.generator_lr", CONFIG_REAL, offsetof(Example, rate), 0, 1, "2e-4", NULL,
     "Learning rate of the generator."},
    {"loss.weight", CONFIG_REAL, offsetof(Example, weight), -DBL_MAX, DBL_MAX, "10", NULL,
     "Weight, per unit."},
    {"loss.adversarial", CONFIG_CHOICE, offsetof(Example, adversarial), 0, 0, "bce",
     "lsgan|bce|hinge", "The adversarial loss."},
    {"loss.notes", CONFIG_STRING, offsetof(Example, notes), 0, 0, "", NULL, "Free text."},
};

static inline const char *example_section_help(const char *section) {
  return strcmp(section, "train") == 0 ? "Length and batch size." : NULL;
}

static const ConfigRenamed example_renamed[] = {
    {"optim.step_size", "optim.generator_lr"},
    {"train.stepz", "train.steps"},
    {"velocity", "optim.generator_lr"},
};

static const ConfigSchema example = {
    .keys = example_keys,
    .count = sizeof example_keys / sizeof *example_keys,
    .section_help = example_section_help,
    .option = "--set",
    .renamed = example_renamed,
    .renamed_count = sizeof example_renamed / sizeof *example_renamed,
};

#endif
