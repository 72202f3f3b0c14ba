/* Reads any bytes as the config of a run: rejected with a message that names the file, or accepted,
 * and then the written config reads back the same, and the checks of combinations hold for it. */
#include <string.h>

#include "tests/fuzz/support/fuzz.h"
#include "trainer/config/config.h"

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed) {
  static const char *const WORDS[] = {"model.generator: pix2pixhd",
                                      "pix2pixhd",
                                      "celnet",
                                      "convgru",
                                      "conv3d",
                                      "hinge",
                                      "wgan-gp",
                                      "bf16",
                                      "reproducible",
                                      "adaptive",
                                      "data.target_path: x",
                                      "model.norm: none",
                                      "1000000000000",
                                      "4",
                                      "train:\n  steps: 1",
                                      "optim.generator_lr",
                                      "0.5",
                                      "loss.r1: 10",
                                      NULL};
  Dice dice = dice_new(seed);
  return mutate_lines(data, size, room, WORDS, &dice);
}

static void check_written(const Config *config) {
  static Config back;
  Error error = {0};
  Text text = {0};
  memset(&back, 0, sizeof back);
  config_write(&config_schema, config, false, &text);
  require(config_parse(&config_schema, "written", text.data, text.length, &back, NULL, &error) ==
          OK);
  require(memcmp(config, &back, sizeof back) == 0);
  text_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static Config defaults, config;
  static bool ready;
  Error error = {0};
  if (!ready) require(config_set_defaults(&config_schema, &defaults, &error) == OK);
  ready = true;
  memcpy(&config, &defaults, sizeof config);
  ConfigSources *sources = config_sources_new();
  Status status =
      config_parse(&config_schema, "fuzz", (const char *)data, size, &config, sources, &error);
  if (status == OK) {
    if (size % 8 == 0) check_written(&config); /* slow */
    for (int ranks = 1; ranks <= 4; ranks *= 4) {
      status = config_check(&config, sources, ranks, &error);
      require(status == OK || status == ERROR_USAGE);
      if (status != OK) require_error(status, &error);
    }
  } else {
    require(status == ERROR_USAGE && strncmp(error.message, "fuzz:", 5) == 0);
    require(memcmp(&config, &defaults, sizeof config) == 0);
  }
  config_sources_free(sources);
  return 0;
}
