#include "engine/cuda/autotune/plan_search.h"

#include <math.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/memory.h"
#include "engine/cuda/convolution/conv_benchmark.h"

/* Engines of a variant that are timed. The order of the heuristics is a guess; large convolutions,
 * which dominate a step, get more attempts. */
enum { MEASURED = 3, MEASURED_IF_LARGE = 6 };
static const double LARGE_FLOPS = 0.65e12; /* 0.8 ms on an H100 */

/* A variant, its graph, and cuDNN's engines for it: one candidate each. */
typedef struct Candidates {
  ConvVariant variant;
  CudnnGraph *graph;
  CudnnEngines engines;
  CudnnPlan **plans; /* [engines.count]; NULL: not built, or moved out */
  bool *rejected;    /* [engines.count]: cannot be built, or failed validation */
} Candidates;

struct PlanSearch {
  PlanSearchSettings settings;
  CudnnTarget target; /* of the current thread */
  cudaStream_t stream;
  Convolution convolution;
  int variant_count, next_variant; /* variants before next_variant have been added */
  ConvVariant variants[CONV_MAX_VARIANTS];
  int count; /* of the current tier's candidates */
  Candidates candidates[CONV_MAX_VARIANTS];
  double min_f32_seconds;   /* a lower bound for engines without tensor cores */
  ConvBenchmark *benchmark; /* NULL until the first candidate is validated */
  Error reason;             /* the last refusal */
  bool is_out_of_memory;    /* for the benchmark's tensors: nothing can be validated */
  bool is_broken;           /* the device fails after an error */
};

/* --- Candidates ------------------------------------------------------------------------------- */
/* Skips a variant that cuDNN rejects and keeps the reason. */
static void add_candidates(PlanSearch *search, const ConvVariant *variant) {
  const Convolution inner = conv_variant_apply(&search->convolution, variant);
  Candidates *added = &search->candidates[search->count];
  char name[64];
  *added = (Candidates){.variant = *variant};
  if (cudnn_graph_new(&inner, variant->frames, variant->wgrad == WGRAD_IDENTITY,
                      search->target.handle, &added->graph, &search->reason) != OK) {
    error_context(&search->reason, "%s", conv_variant_name(variant, name));
    return;
  }
  if (cudnn_engines_query(&search->target, added->graph, inner.operands,
                          &search->settings.constraints, &added->engines, &search->reason) == OK &&
      added->engines.count > 0) {
    added->plans = mem_new((size_t)added->engines.count, sizeof *added->plans);
    added->rejected = mem_new((size_t)added->engines.count, sizeof *added->rejected);
    search->count++;
    return;
  }
  cudnn_graph_free(added->graph);
}

static void clear_candidates(PlanSearch *search) {
  for (int i = 0; i < search->count; i++) {
    Candidates *candidates = &search->candidates[i];
    for (int k = 0; k < candidates->engines.count; k++) cudnn_plan_free(candidates->plans[k]);
    cudnn_engines_free(&candidates->engines);
    cudnn_graph_free(candidates->graph);
    free(candidates->plans);
    free(candidates->rejected);
  }
  search->count = 0;
}

/* Replaces the candidates by those of the next tier; false after the last tier. */
static bool next_tier(PlanSearch *search) {
  clear_candidates(search);
  if (search->next_variant == search->variant_count) return false;
  const int tier = search->variants[search->next_variant].tier;
  while (search->next_variant < search->variant_count &&
         search->variants[search->next_variant].tier == tier)
    add_candidates(search, &search->variants[search->next_variant++]);
  return true;
}

/* NULL where the plan cannot be built, with the reason in `reason`, or was rejected before. */
static CudnnPlan *build_plan(PlanSearch *search, Candidates *candidates, int engine) {
  if (candidates->plans[engine] || candidates->rejected[engine]) return candidates->plans[engine];
  candidates->rejected[engine] =
      cudnn_plan_new(&search->target, &candidates->engines.engines[engine],
                     &search->settings.constraints, &candidates->plans[engine],
                     &search->reason) != OK;
  if (candidates->rejected[engine]) log_debug("cuDNN: no plan: %s", search->reason.message);
  return candidates->plans[engine];
}

static void reject(Candidates *candidates, int engine) {
  cudnn_plan_free(candidates->plans[engine]);
  candidates->plans[engine] = NULL;
  candidates->rejected[engine] = true;
}

/* Moves the plan, the graph and the engine's configuration to the caller. */
static FoundPlan move_plan(Candidates *candidates, int engine) {
  const FoundPlan found = {.variant = candidates->variant,
                           .plan = candidates->plans[engine],
                           .config = candidates->engines.engines[engine].config,
                           .graph = candidates->graph};
  candidates->plans[engine] = NULL;
  candidates->engines.engines[engine].config = NULL;
  candidates->graph = NULL;
  return found;
}

/* The first candidate, in order of preference without measurements (engines on tensor cores first),
 * for which `accept` returns true; NULL where there is none. */
typedef bool Accept(PlanSearch *search, Candidates *candidates, int engine);

static Candidates *first_of(PlanSearch *search, Accept *accept, int *engine) {
  for (int without_tensor_cores = 0; without_tensor_cores <= 1; without_tensor_cores++) {
    for (int i = 0; i < search->count; i++) {
      Candidates *candidates = &search->candidates[i];
      const CudnnEngines *engines = &candidates->engines;
      for (*engine = 0; *engine < engines->count; (*engine)++)
        if (engines->engines[*engine].tensor_cores != (without_tensor_cores == 1) &&
            accept(search, candidates, *engine))
          return candidates;
    }
  }
  return NULL;
}

/* --- Preparing -------------------------------------------------------------------------------- */
static bool can_be_built(PlanSearch *search, Candidates *candidates, int engine) {
  return build_plan(search, candidates, engine) != NULL;
}

static int max_measured(const PlanSearch *search) {
  return convolution_flops(&search->convolution) >= LARGE_FLOPS ? MEASURED_IF_LARGE : MEASURED;
}

static void build_measured(PlanSearch *search) {
  const int most = max_measured(search);
  for (int i = 0; i < search->count; i++) {
    Candidates *candidates = &search->candidates[i];
    int built = 0;
    for (int k = 0; k < candidates->engines.count && built < most; k++)
      if (candidates->engines.engines[k].tensor_cores && build_plan(search, candidates, k)) built++;
  }
}

/* At twice the f32 peak of any GPU so far (H200: 67 TFLOP/s). */
static double min_f32_seconds(const Convolution *convolution) {
  static const double MAX_FLOPS = 130e12;
  return convolution_flops(convolution) / MAX_FLOPS;
}

static bool same_variant(const ConvVariant *a, const ConvVariant *b) {
  return a->im2col == b->im2col && a->im2col_time == b->im2col_time &&
         a->im2col_width == b->im2col_width && a->frames == b->frames && a->fused == b->fused &&
         a->aligned == b->aligned && a->padded == b->padded && a->wgrad == b->wgrad;
}

PlanSearch *plan_search_prepare(const PlanSearchSettings *settings, const CudnnTarget *target,
                                const Convolution *convolution, const ConvVariant *only) {
  PlanSearch *search = mem_new(1, sizeof *search);
  ConvVariant variants[CONV_MAX_VARIANTS];
  const int count = conv_variants(convolution, variants);
  search->settings = *settings;
  search->target = *target;
  search->convolution = *convolution;
  search->min_f32_seconds = min_f32_seconds(convolution);
  for (int i = 0; i < count; i++)
    if (!only || same_variant(only, &variants[i]))
      search->variants[search->variant_count++] = variants[i];
  error_set(&search->reason, ERROR_INTERNAL, "no variant has an engine");
  while (next_tier(search) && search->count == 0) continue;
  int engine;
  if (settings->measure)
    build_measured(search);
  else
    first_of(search, can_be_built, &engine);
  return search;
}

/* --- Validation ------------------------------------------------------------------------------- */
static void warn(const PlanSearch *search, const Candidates *candidates, int engine,
                 const char *what, const char *why) {
  char name[64];
  Text text = {0};
  convolution_text(&search->convolution, &text);
  log_warning("cuDNN: %s: %s: %s, %s: %s", text.data, what,
              conv_variant_name(&candidates->variant, name), candidates->plans[engine]->details,
              why);
  text_free(&text);
}

/* Validates a candidate; false also where device memory is missing, without rejecting it. One that
 * fails is logged as a warning, since the user can do nothing about it, and rejected. */
static bool passes_validation(PlanSearch *search, Candidates *candidates, int engine) {
  const CudnnTarget *target = &search->target;
  bool out_of_memory = false;
  Status status = OK;
  if (search->is_broken || search->is_out_of_memory || !build_plan(search, candidates, engine))
    return false;
  if (!target->handle) return true;
  if (!search->benchmark) {
    status = conv_benchmark_new(&search->convolution, target->handle, search->stream,
                                search->settings.constraints.tf32, &search->benchmark,
                                &search->is_out_of_memory, &search->reason);
    if (search->is_out_of_memory) return false;
  }
  if (status == OK) {
    const ConvRun run =
        conv_run_layout(&search->convolution, &candidates->variant, candidates->plans[engine]);
    status = conv_benchmark_validate(search->benchmark, &run, &out_of_memory, &search->reason);
  }
  if (status == OK) return true;
  if (out_of_memory) return false;
  warn(search, candidates, engine, "engine rejected", search->reason.message);
  reject(candidates, engine);
  search->is_broken = cudaStreamSynchronize(search->stream) != cudaSuccess;
  return false;
}

/* Infinity where the candidate cannot be timed. */
static double measure(PlanSearch *search, const Candidates *candidates, int engine, double best) {
  const CudnnPlan *plan = candidates->plans[engine];
  const ConvRun run = conv_run_layout(&search->convolution, &candidates->variant, plan);
  double seconds = INFINITY;
  char name[64];
  if (conv_benchmark_measure(search->benchmark, &run, best, &seconds, &search->reason) != OK) {
    log_debug("cuDNN: not timed: %s", search->reason.message);
    return INFINITY;
  }
  log_debug("cuDNN: %s, %s: %.1f us", conv_variant_name(&candidates->variant, name), plan->details,
            1e6 * seconds);
  return seconds;
}

/* Whether an engine without tensor cores may be faster than the best so far. Some of them run for
 * seconds on large tensors. */
static bool may_win(const PlanSearch *search, const CudnnEngine *engine, double best) {
  return best == INFINITY || (search->min_f32_seconds < best && !engine->is_reference);
}

/* The fastest of the first few candidates of each variant, those on tensor cores first. NULL where
 * none could be timed. */
static Candidates *fastest_of(PlanSearch *search, int *engine) {
  const int most = max_measured(search);
  double best = INFINITY;
  Candidates *fastest = NULL;
  for (int without_tensor_cores = 0; without_tensor_cores <= 1; without_tensor_cores++) {
    for (int i = 0; i < search->count; i++) {
      Candidates *candidates = &search->candidates[i];
      int measured = 0;
      for (int k = 0; k < candidates->engines.count && measured < most; k++) {
        const CudnnEngine *candidate = &candidates->engines.engines[k];
        if (candidate->tensor_cores == (without_tensor_cores == 1)) continue;
        if (without_tensor_cores == 1 && !may_win(search, candidate, best)) continue;
        if (!passes_validation(search, candidates, k)) continue;
        const double seconds = measure(search, candidates, k, best);
        measured++;
        if (seconds < best) best = seconds, fastest = candidates, *engine = k;
      }
    }
  }
  return fastest;
}

/* --- Choosing --------------------------------------------------------------------------------- */
/* Chooses among the current tier's candidates; false where none is usable. */
static bool choose(PlanSearch *search, FoundPlan *out) {
  int engine = 0;
  Candidates *chosen = search->settings.measure ? fastest_of(search, &engine) : NULL;
  const bool is_measured = chosen != NULL;
  if (!chosen) chosen = first_of(search, passes_validation, &engine);
  const bool is_validated = chosen != NULL;
  /* Candidates that failed are rejected by now: those that can be built lacked memory. */
  if (!chosen && !search->is_broken) chosen = first_of(search, can_be_built, &engine);
  if (!chosen) return false;
  if (!is_validated)
    warn(search, chosen, engine, "engine used without validation", "not enough free device memory");
  *out = move_plan(chosen, engine);
  out->is_measured = is_measured;
  out->is_unvalidated = !is_validated;
  return true;
}

Status plan_search_finish(PlanSearch *search, const CudnnTarget *target, cudaStream_t stream,
                          FoundPlan *out, Error *error) {
  *out = (FoundPlan){0};
  search->target = *target;
  search->stream = stream;
  do {
    if (choose(search, out)) return OK;
  } while (!search->is_broken && next_tier(search));
  Text text = {0};
  convolution_text(&search->convolution, &text);
  const Status status = error_set(error, ERROR_INTERNAL, "cuDNN %zu has no plan for %s: %s",
                                  cudnnGetVersion(), text.data, search->reason.message);
  text_free(&text);
  return status;
}

void plan_search_free(PlanSearch *search) {
  if (!search) return;
  clear_candidates(search);
  conv_benchmark_free(search->benchmark);
  free(search);
}
