/* Reads any bytes as a config file and as an assignment. They are rejected with a message that
 * names the location, or accepted, and then the written config reads back the same. */
#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "base/config/config.h"
#include "base/memory.h"
#include "tests/fuzz/support/fuzz.h"

enum { MAX_ASSIGNMENT = 64 };

typedef struct Target {
  int64_t steps;
  double rate;
  bool resume;
  int adversarial;
  ConfigString dir;
} Target;

static const ConfigKey keys[] = {
    {"steps", CONFIG_INT, offsetof(Target, steps), 1, 1000, "4", NULL, "Steps."},
    {"a.rate", CONFIG_REAL, offsetof(Target, rate), -DBL_MAX, DBL_MAX, "1e-4", NULL,
     "Learning rate."},
    {"a.resume", CONFIG_BOOL, offsetof(Target, resume), 0, 0, "true", NULL, "Resume."},
    {"b.adversarial", CONFIG_CHOICE, offsetof(Target, adversarial), 0, 0, "bce", "lsgan|bce",
     "Loss."},
    {"b.dir", CONFIG_STRING, offsetof(Target, dir), 0, 0, "runs", NULL, "Folder."},
};
static const ConfigRenamed renamed[] = {{"a.speed", "a.rate"}};
static const ConfigSchema schema = {.keys = keys,
                                    .count = sizeof keys / sizeof *keys,
                                    .option = "--set",
                                    .renamed = renamed,
                                    .renamed_count = 1};

static void check_written(const Target *target) {
  Target back;
  Text text = {0};
  Error error;
  memset(&back, 0, sizeof back);
  config_write(&schema, target, true, &text);
  require(config_parse(&schema, "written", text.data, text.length, &back, NULL, &error) == OK);
  require(memcmp(target, &back, sizeof back) == 0);
  text_free(&text);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed) {
  static const char *const WORDS[] = {"steps",          "a.rate", "lsgan", "bce", "a:\n  rate: 1",
                                      "{a: {rate: 2}}", "speed",  "b.dir", NULL};
  Dice dice = dice_new(seed);
  return mutate_lines(data, size, room, WORDS, &dice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static Target defaults;
  static bool ready;
  Target target;
  Error error = {0};
  if (!ready) require(config_set_defaults(&schema, &defaults, &error) == OK);
  ready = true;
  memcpy(&target, &defaults, sizeof target); /* with its padding, for memcmp */
  ConfigSources *sources = config_sources_new();
  Status status = config_parse(&schema, "fuzz", (const char *)data, size, &target, sources, &error);
  if (status == OK) {
    check_written(&target);
  } else {
    require(status == ERROR_USAGE && strncmp(error.message, "fuzz:", 5) == 0);
    require(memcmp(&target, &defaults, sizeof target) == 0);
  }
  if (size > 0 && size < MAX_ASSIGNMENT) {
    char *assignment = mem_new(size + 1, 1);
    memcpy(assignment, data, size);
    status = config_assign(&schema, assignment, &target, sources, &error);
    require(status == OK || status == ERROR_USAGE);
    if (status == OK) check_written(&target);
    free(assignment);
  }
  config_sources_free(sources);
  return 0;
}
