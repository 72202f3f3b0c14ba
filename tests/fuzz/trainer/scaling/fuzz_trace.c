/* Reads any bytes as the trace of a step. If it is accepted, simulating it takes a finite time. */
#include <math.h>
#include <string.h>

#include "tests/fuzz/support/fuzz.h"
#include "trainer/scaling/simulate.h"

static const char PATH[] = MEMORY_FILES "trace.json";

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed) {
  static const char *const WORDS[] = {"\"celforge-step-trace\"",
                                      "\"f32\"",
                                      "\"bf16\"",
                                      "1e18",
                                      "1048576",
                                      "{\"name\":\"a\",\"flops\":1e9,\"waits\":true}",
                                      "{\"name\":\"b\",\"reduces\":4194304}",
                                      "\"seconds\":0.1",
                                      NULL};
  Dice dice = dice_new(seed);
  return mutate_json(data, size, room, WORDS, &dice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static Cluster cluster;
  static bool ready;
  const SimulationOptions options = {.ranks = 2, .steps = 2, .seed = 1};
  Error error = {0};
  StepTrace trace;
  SimulationResult result;
  if (!ready) require(config_set_defaults(&cluster_schema, &cluster, &error) == OK);
  ready = true;
  cluster.node.ranks = 2;
  memory_files_set(data, size);
  Status status = step_trace_read(PATH, &trace, &error);
  if (status != OK) {
    require(status == ERROR_DATA && strncmp(error.message, PATH, sizeof PATH - 1) == 0);
    return 0;
  }
  require(trace.count > 0 && memchr(trace.name, 0, sizeof trace.name));
  status = simulate(&cluster, &trace, &options, &result, &error);
  if (status == OK)
    require(isfinite(result.step) && result.step > 0 && isfinite(result.clips_per_second));
  else
    require_error(status, &error);
  step_trace_free(&trace);
  return 0;
}
