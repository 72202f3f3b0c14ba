#include "engine/cuda/autotune/candidates.h"

#include <math.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/memory.h"
#include "engine/cuda/convolution/convolution.h"

/* Engines of a form that are measured. The heuristics' order is a guess, and where a step spends
 * its time a better one pays: large convolutions get more. */
enum { MEASURED = 3, MEASURED_OF_LARGE = 6 };
static const double LARGE_FLOPS = 0.65e12; /* 0.8 ms of an H100 */

/* A form, its graph, and the engines that cuDNN has for it. */
typedef struct Offer {
  ConvolutionForm form;
  CudnnGraph *graph;
  CudnnEngines engines;
  CudnnPlan **plans; /* [engines.count]; NULL: not made, or given away */
  bool *refused;     /* [engines.count]: it cannot be made */
} Offer;

struct CudnnSearch {
  CudnnSearchSettings settings;
  CudnnTarget target; /* of who works on it now */
  cudaStream_t stream;
  Convolution convolution;
  int forms_count, next_form; /* forms before it had their turn */
  ConvolutionForm forms[CONVOLUTION_MAX_FORMS];
  int count; /* offers of one tier */
  Offer offers[CONVOLUTION_MAX_FORMS];
  double least_seconds;    /* that the convolution takes without tensor cores */
  ConvolutionTrial *trial; /* NULL until the first plan is tried */
  Error reason;            /* the last refusal */
  bool is_broken;          /* the device does nothing more after a failure */
};

/* --- Offers ----------------------------------------------------------------------------------- */
/* A form that cuDNN refuses is left out; why is remembered. */
static void add_offer(CudnnSearch *search, const ConvolutionForm *form) {
  const Convolution inner = convolution_inner(&search->convolution, form);
  Offer *offer = &search->offers[search->count];
  *offer = (Offer){.form = *form};
  if (cudnn_graph_new(&inner, form->frames, form->gradient == GRADIENT_IDENTITY,
                      search->target.handle, &offer->graph, &search->reason) != OK)
    return;
  if (cudnn_engines_offered(&search->target, offer->graph, inner.operands, &search->settings.rules,
                            &offer->engines, &search->reason) == OK &&
      offer->engines.count > 0) {
    offer->plans = mem_new((size_t)offer->engines.count, sizeof *offer->plans);
    offer->refused = mem_new((size_t)offer->engines.count, sizeof *offer->refused);
    search->count++;
    return;
  }
  cudnn_graph_free(offer->graph);
}

static void clear_offers(CudnnSearch *search) {
  for (int i = 0; i < search->count; i++) {
    Offer *offer = &search->offers[i];
    for (int k = 0; k < offer->engines.count; k++) cudnn_plan_free(offer->plans[k]);
    cudnn_engines_free(&offer->engines);
    cudnn_graph_free(offer->graph);
    free(offer->plans);
    free(offer->refused);
  }
  search->count = 0;
}

/* Those of the next tier; false behind the last one. */
static bool add_tier(CudnnSearch *search) {
  clear_offers(search);
  if (search->next_form == search->forms_count) return false;
  const int tier = search->forms[search->next_form].tier;
  while (search->next_form < search->forms_count && search->forms[search->next_form].tier == tier)
    add_offer(search, &search->forms[search->next_form++]);
  return true;
}

/* NULL where it cannot be made: `reason` says why. */
static CudnnPlan *make_plan(CudnnSearch *search, Offer *offer, int engine) {
  if (offer->plans[engine] || offer->refused[engine]) return offer->plans[engine];
  offer->refused[engine] =
      cudnn_plan_new(&search->target, &offer->engines.engines[engine], &search->settings.rules,
                     &offer->plans[engine], &search->reason) != OK;
  if (offer->refused[engine]) log_debug("cuDNN: no plan: %s", search->reason.message);
  return offer->plans[engine];
}

static void drop_plan(Offer *offer, int engine) {
  cudnn_plan_free(offer->plans[engine]);
  offer->plans[engine] = NULL;
  offer->refused[engine] = true;
}

/* Moves the plan, the graph and the engine's configuration out of the offer. */
static void take(Offer *offer, int engine, CudnnFound *out) {
  *out = (CudnnFound){.form = offer->form,
                      .plan = offer->plans[engine],
                      .config = offer->engines.engines[engine].config,
                      .graph = offer->graph};
  offer->plans[engine] = NULL;
  offer->engines.engines[engine].config = NULL;
  offer->graph = NULL;
}

/* Calls `look` for the engines in the order in which they are wanted untuned, those on tensor cores
 * first, until it says that this is the one; NULL where it never does. */
typedef bool Look(CudnnSearch *search, Offer *offer, int engine);

static Offer *first_of(CudnnSearch *search, Look *look, int *engine) {
  for (int others = 0; others <= 1; others++) {
    for (int i = 0; i < search->count; i++) {
      Offer *offer = &search->offers[i];
      for (*engine = 0; *engine < offer->engines.count; (*engine)++)
        if (offer->engines.engines[*engine].tensor_cores != (others == 1) &&
            look(search, offer, *engine))
          return offer;
    }
  }
  return NULL;
}

/* --- Preparing -------------------------------------------------------------------------------- */
static bool can_be_made(CudnnSearch *search, Offer *offer, int engine) {
  return make_plan(search, offer, engine) != NULL;
}

static int most_measured(const CudnnSearch *search) {
  return convolution_flops(&search->convolution) >= LARGE_FLOPS ? MEASURED_OF_LARGE : MEASURED;
}

static void make_first_few(CudnnSearch *search) {
  const int most = most_measured(search);
  for (int i = 0; i < search->count; i++) {
    Offer *offer = &search->offers[i];
    int made = 0;
    for (int k = 0; k < offer->engines.count && made < most; k++)
      if (offer->engines.engines[k].tensor_cores && make_plan(search, offer, k)) made++;
  }
}

/* At twice what any GPU so far does in f32 (H200: 67 TFLOP/s). */
static double least_seconds(const Convolution *convolution) {
  static const double MOST_FLOPS = 130e12;
  return convolution_flops(convolution) / MOST_FLOPS;
}

static bool same_form(const ConvolutionForm *a, const ConvolutionForm *b) {
  return a->taps == b->taps && a->taps_of_time == b->taps_of_time &&
         a->taps_of_width == b->taps_of_width && a->frames == b->frames && a->fused == b->fused &&
         a->aligned == b->aligned && a->padded == b->padded && a->gradient == b->gradient;
}

CudnnSearch *cudnn_search_prepare(const CudnnSearchSettings *settings, const CudnnTarget *target,
                                  const Convolution *convolution, const ConvolutionForm *only) {
  CudnnSearch *search = mem_new(1, sizeof *search);
  ConvolutionForm forms[CONVOLUTION_MAX_FORMS];
  const int count = convolution_forms(convolution, forms);
  search->settings = *settings;
  search->target = *target;
  search->convolution = *convolution;
  search->least_seconds = least_seconds(convolution);
  for (int i = 0; i < count; i++)
    if (!only || same_form(only, &forms[i])) search->forms[search->forms_count++] = forms[i];
  error_set(&search->reason, ERROR_INTERNAL, "no form has an engine");
  while (add_tier(search) && search->count == 0) continue;
  int engine;
  if (settings->tune)
    make_first_few(search);
  else
    first_of(search, can_be_made, &engine);
  return search;
}

/* --- Trying ----------------------------------------------------------------------------------- */
static void say_left_out(CudnnSearch *search, const Offer *offer, const CudnnPlan *plan) {
  char name[64];
  Text text = {0};
  convolution_text(&search->convolution, &text);
  error_context(&search->reason, "%s, %s", convolution_form_name(&offer->form, name),
                plan->details);
  log_warning("cuDNN: an engine is left out: %s: %s", text.data, search->reason.message);
  text_free(&text);
}

/* Whether the plan runs and computes what it should, on numbers of its own and in the full shape:
 * what cuDNN promises for a shape it may break when it runs, and a wrong engine is often wrong for
 * large shapes alone. A plan that fails is said, since it is none of the user's doing, and left. */
static bool passes_trial(CudnnSearch *search, Offer *offer, int engine) {
  const CudnnTarget *target = &search->target;
  if (search->is_broken || !make_plan(search, offer, engine)) return false;
  if (!target->handle) return true;
  const CudnnPlan *plan = offer->plans[engine];
  const ConvolutionSteps steps = convolution_steps(&search->convolution, &offer->form, plan);
  Status status = OK;
  if (!search->trial)
    status = convolution_trial_new(&search->convolution, target->handle, search->stream,
                                   search->settings.rules.tf32, &search->trial, &search->reason);
  if (status == OK) status = convolution_trial_check(search->trial, &steps, &search->reason);
  if (status == OK) return true;
  say_left_out(search, offer, plan);
  drop_plan(offer, engine);
  search->is_broken = cudaStreamSynchronize(search->stream) != cudaSuccess;
  return false;
}

/* Infinity where it could not be measured. */
static double measure(CudnnSearch *search, const Offer *offer, int engine, double best) {
  const CudnnPlan *plan = offer->plans[engine];
  const ConvolutionSteps steps = convolution_steps(&search->convolution, &offer->form, plan);
  double seconds = INFINITY;
  char name[64];
  if (convolution_trial_measure(search->trial, &steps, best, &seconds, &search->reason) != OK) {
    log_debug("cuDNN: not measured: %s", search->reason.message);
    return INFINITY;
  }
  log_debug("cuDNN: %s, %s: %.1f us", convolution_form_name(&offer->form, name), plan->details,
            1e6 * seconds);
  return seconds;
}

/* Whether an engine without tensor cores may yet be faster than what was found. On large tensors
 * some of cuDNN's run for seconds. */
static bool may_win(const CudnnSearch *search, const CudnnEngine *engine, double best) {
  return best == INFINITY || (search->least_seconds < best && !engine->plain);
}

/* The fastest of the first few plans of each form, those on tensor cores first. NULL where none was
 * measured. */
static Offer *fastest_of(CudnnSearch *search, int *engine) {
  const int most = most_measured(search);
  double best = INFINITY;
  Offer *fastest = NULL;
  for (int others = 0; others <= 1; others++) {
    for (int i = 0; i < search->count; i++) {
      Offer *other = &search->offers[i];
      int measured = 0;
      for (int k = 0; k < other->engines.count && measured < most; k++) {
        const CudnnEngine *candidate = &other->engines.engines[k];
        if (candidate->tensor_cores == (others == 1)) continue;
        if (others == 1 && !may_win(search, candidate, best)) continue;
        if (!passes_trial(search, other, k)) continue;
        const double seconds = measure(search, other, k, best);
        measured++;
        if (seconds < best) best = seconds, fastest = other, *engine = k;
      }
    }
  }
  return fastest;
}

Status cudnn_search_finish(CudnnSearch *search, const CudnnTarget *target, cudaStream_t stream,
                           CudnnFound *out, Error *error) {
  Offer *offer = NULL;
  int engine = 0;
  bool is_measured = false;
  *out = (CudnnFound){0};
  search->target = *target;
  search->stream = stream;
  do {
    if (search->settings.tune) offer = fastest_of(search, &engine);
    is_measured = offer != NULL;
    if (!offer) offer = first_of(search, passes_trial, &engine);
  } while (!offer && !search->is_broken && add_tier(search));
  if (offer) {
    take(offer, engine, out);
    out->is_measured = is_measured;
    return OK;
  }
  Text text = {0};
  convolution_text(&search->convolution, &text);
  const Status status = error_set(error, ERROR_INTERNAL, "cuDNN %zu has no plan for %s: %s",
                                  cudnnGetVersion(), text.data, search->reason.message);
  text_free(&text);
  return status;
}

void cudnn_search_free(CudnnSearch *search) {
  if (!search) return;
  clear_offers(search);
  convolution_trial_free(search->trial);
  free(search);
}
