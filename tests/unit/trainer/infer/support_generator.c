#include "tests/unit/trainer/infer/support_generator.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "base/memory.h"

static Error error;

static void check(Status status) {
  if (status != OK) fail_msg("%s", error.message);
}

static void declare(SmallGenerator *g, int64_t source_channels) {
  Graph *graph = graph_new();
  int64_t noise_channels = g->config.model.noise_channels;
  parameters_init(&g->parameters, "generator", DTYPE_F32);
  Value film = graph_constant(graph, shape_make(1, 2, 16, 16, source_channels), 0);
  Value noise = NO_VALUE;
  if (noise_channels > 0)
    noise = graph_constant(graph, shape_make(1, 2, 16, 16, noise_channels), 0);
  generator_build(graph, &g->parameters, READ_MASTER, &g->config.model, film, noise, NULL);
  check(graph_status(graph, &error));
  parameters_freeze(&g->parameters);
  graph_free(graph);
}

/* Initial weights leave the output near the source, or near zero; the head's are made ten times
 * larger. */
static void strengthen_head(SmallGenerator *g) {
  bool enhanced = g->config.model.local_enhancers > 0;
  const Parameter *head =
      parameters_find(&g->parameters, enhanced ? "enhancer.head.weight" : "head.weight");
  float *values = mem_new((size_t)head->count, sizeof *values);
  assert_non_null(head);
  check(buffer_download(&g->parameters.master, head->offset, values, head->count, &error));
  for (int64_t i = 0; i < head->count; i++) values[i] *= 10;
  check(buffer_upload(&g->parameters.master, head->offset, values, head->count, &error));
  free(values);
}

void small_generator_open(SmallGenerator *g, const char *const *assignments,
                          int64_t source_channels, Backend *backend) {
  static const char *const SMALL[] = {"model.channels=4", "model.blocks=2"};
  check(config_set_defaults(&config_schema, &g->config, &error));
  for (size_t i = 0; i < sizeof SMALL / sizeof *SMALL; i++)
    check(config_assign(&config_schema, SMALL[i], &g->config, &error));
  for (; *assignments; assignments++)
    check(config_assign(&config_schema, *assignments, &g->config, &error));
  declare(g, source_channels);
  check(parameters_allocate(&g->parameters, backend, false, false, &error));
  check(parameters_initialize(&g->parameters, 5, &error));
  strengthen_head(g);
  g->inference = inference_of_parameters(&g->config, &g->parameters, READ_MASTER, backend);
}

void small_generator_close(SmallGenerator *g) {
  inference_free(g->inference);
  parameters_free(&g->parameters);
}
