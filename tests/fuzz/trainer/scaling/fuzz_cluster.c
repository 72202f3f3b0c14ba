/* Loads any bytes as a cluster file. If it is accepted, a small step simulated on it takes a finite
 * time, whatever the file says. */
#include <math.h>
#include <string.h>

#include "tests/fuzz/support/fuzz.h"
#include "trainer/scaling/simulate.h"

static const char PATH[] = MEMORY_FILES "cluster.yaml";

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed) {
  static const char *const WORDS[] = {"measured",      "roofline", "ring",  "tree", "doubling",
                                      "hierarchical",  "best",     "1e-6",  "1e9",  "1e12",
                                      "node.cores: 4", "near: 1",  "65536", "1024", NULL};
  Dice dice = dice_new(seed);
  return mutate_lines(data, size, room, WORDS, &dice);
}

static void run(const Cluster *cluster, int ranks) {
  static TraceOp ops[] = {
      {.name = "a", .seconds = 1e-3, .flops = 1e9, .bytes = 1e6},
      {.name = "bucket", .reduces = 4e6},
      {.name = "b", .seconds = 2e-3, .flops = 2e9, .bytes = 1e6, .waits = true}};
  const StepTrace trace = {.name = "fuzz",
                           .clips = 4,
                           .threads = 1,
                           .clip_bytes = 1e5,
                           .state_bytes = 1e7,
                           .batches_ahead = 1,
                           .checkpoint_every = 100,
                           .overlap = true,
                           .measured = true,
                           .count = 3,
                           .ops = ops};
  const SimulationOptions options = {.ranks = ranks, .steps = 2, .seed = 1};
  SimulationResult result;
  Error error = {0};
  Status status = cluster_check_ranks(cluster, ranks, &error);
  if (status == OK) status = simulate(cluster, &trace, &options, &result, &error);
  if (status != OK) {
    require_error(status, &error);
    return;
  }
  require(isfinite(result.step) && result.step > 0 && isfinite(result.goodput));
  require(result.goodput >= 0 && result.goodput <= 1 && isfinite(result.best_interval));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Error error = {0};
  Cluster cluster;
  memory_files_set(data, size);
  Status status = cluster_load(PATH, NULL, 0, &cluster, &error);
  if (status != OK) {
    require((status == ERROR_USAGE || status == ERROR_DATA) &&
            strncmp(error.message, PATH, sizeof PATH - 1) == 0);
    return 0;
  }
  run(&cluster, 1);
  run(&cluster, 8);
  return 0;
}
