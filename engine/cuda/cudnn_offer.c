#include "engine/cuda/cudnn_offer.h"

#include <math.h>

#include "base/log.h"
#include "engine/cuda/convolution.h"

enum { MEASURED_OF_A_FORM = 3 };

/* A form, its graph, and the engines that cuDNN has for it. */
typedef struct Offer {
  ConvolutionForm form;
  CudnnGraph *graph;
  CudnnEngines engines;
} Offer;

typedef struct Search {
  const CudnnSearch *settings;
  const Convolution *convolution;
  int count;
  Offer offers[CONVOLUTION_MAX_FORMS];
  Error reason;   /* the last refusal */
  bool is_broken; /* the device does nothing more after a failure */
} Search;

/* A form that cuDNN refuses is left out; why is remembered. */
static void add_offer(Search *search, const ConvolutionForm *form) {
  const CudnnSearch *settings = search->settings;
  const Convolution inner = convolution_inner(search->convolution, form);
  Offer *offer = &search->offers[search->count];
  *offer = (Offer){.form = *form};
  if (cudnn_graph_new(&inner, form->frames, form->gradient == GRADIENT_IDENTITY,
                      settings->target.handle, &offer->graph, &search->reason) != OK)
    return;
  if (cudnn_engines_offered(&settings->target, offer->graph, inner.operands, &settings->rules,
                            &offer->engines, &search->reason) == OK &&
      offer->engines.count > 0) {
    search->count++;
    return;
  }
  cudnn_graph_free(offer->graph);
}

static void clear_offers(Search *search) {
  for (int i = 0; i < search->count; i++) {
    cudnn_engines_free(&search->offers[i].engines);
    cudnn_graph_free(search->offers[i].graph);
  }
  search->count = 0;
}

/* Moves the graph and the engine's configuration out of the offer. */
static void take(Offer *offer, int engine, CudnnPlan *plan, CudnnFound *out) {
  *out = (CudnnFound){.form = offer->form,
                      .plan = plan,
                      .config = offer->engines.engines[engine].config,
                      .graph = offer->graph};
  offer->engines.engines[engine].config = NULL;
  offer->graph = NULL;
}

/* Whether the plan runs and computes what it should, on numbers of its own and in the full shape:
 * what cuDNN promises for a shape it may break when it runs, and a wrong engine is often wrong for
 * large shapes alone. A plan that fails is said, since it is none of the user's doing, and left. */
static bool passes_trial(Search *search, const Offer *offer, const CudnnPlan *plan) {
  const CudnnSearch *settings = search->settings;
  const ConvolutionSteps steps = convolution_steps(search->convolution, &offer->form, plan);
  char name[64];
  Text text = {0};
  if (!settings->target.handle) return true;
  if (convolution_trial(&steps, settings->target.handle, settings->stream, settings->rules.tf32,
                        &search->reason) == OK)
    return true;
  convolution_text(search->convolution, &text);
  error_context(&search->reason, "%s, %s", convolution_form_name(&offer->form, name),
                plan->details);
  log_warning("cuDNN: an engine is left out: %s: %s", text.data, search->reason.message);
  text_free(&text);
  search->is_broken = cudaStreamSynchronize(settings->stream) != cudaSuccess;
  return false;
}

/* NULL where there is none: `reason` says why. */
static CudnnPlan *make_plan(Search *search, const Offer *offer, int engine) {
  const CudnnSearch *settings = search->settings;
  CudnnPlan *plan = NULL;
  if (search->is_broken || cudnn_plan_new(&settings->target, &offer->engines.engines[engine],
                                          &settings->rules, &plan, &search->reason) != OK)
    return NULL;
  if (passes_trial(search, offer, plan)) return plan;
  cudnn_plan_free(plan);
  return NULL;
}

/* The first plan that can be made, on tensor cores if there is one. */
static bool take_first(Search *search, CudnnFound *out) {
  for (int others = 0; others <= 1; others++) {
    for (int i = 0; i < search->count; i++) {
      Offer *offer = &search->offers[i];
      for (int k = 0; k < offer->engines.count; k++) {
        if (offer->engines.engines[k].tensor_cores == (others == 1)) continue;
        CudnnPlan *plan = make_plan(search, offer, k);
        if (!plan) continue;
        take(offer, k, plan, out);
        return true;
      }
    }
  }
  return false;
}

/* Infinity where it could not be measured. */
static double measure(Search *search, const Offer *offer, const CudnnPlan *plan) {
  const CudnnSearch *settings = search->settings;
  const ConvolutionSteps steps = convolution_steps(search->convolution, &offer->form, plan);
  double seconds = INFINITY;
  char name[64];
  if (convolution_measure(&steps, settings->target.handle, settings->stream, &seconds,
                          &search->reason) != OK) {
    log_debug("cuDNN: not measured: %s", search->reason.message);
    return INFINITY;
  }
  log_debug("cuDNN: %s, %s: %.1f us", convolution_form_name(&offer->form, name), plan->details,
            1e6 * seconds);
  return seconds;
}

/* The fastest of the first few plans of each form. False where none was measured. */
static bool take_fastest(Search *search, CudnnFound *out) {
  double best = INFINITY;
  int best_offer = -1, best_engine = -1;
  CudnnPlan *best_plan = NULL;
  for (int i = 0; i < search->count; i++) {
    const Offer *offer = &search->offers[i];
    int measured = 0;
    for (int k = 0; k < offer->engines.count && measured < MEASURED_OF_A_FORM; k++) {
      CudnnPlan *plan = make_plan(search, offer, k);
      if (!plan) continue;
      const double seconds = measure(search, offer, plan);
      measured++;
      if (seconds < best) {
        cudnn_plan_free(best_plan);
        best = seconds, best_offer = i, best_engine = k, best_plan = plan;
      } else {
        cudnn_plan_free(plan);
      }
    }
  }
  if (!best_plan) return false;
  take(&search->offers[best_offer], best_engine, best_plan, out);
  return true;
}

static bool same_form(const ConvolutionForm *a, const ConvolutionForm *b) {
  return a->frames == b->frames && a->fused == b->fused && a->aligned == b->aligned &&
         a->padded == b->padded && a->gradient == b->gradient;
}

Status cudnn_search(const CudnnSearch *settings, const Convolution *convolution,
                    const ConvolutionForm *only, CudnnFound *out, Error *error) {
  ConvolutionForm forms[CONVOLUTION_MAX_FORMS];
  const int count = convolution_forms(convolution, forms);
  Search search = {.settings = settings, .convolution = convolution};
  bool found = false;
  *out = (CudnnFound){0};
  error_set(&search.reason, ERROR_INTERNAL, "no form has an engine");
  for (int i = 0; i < count && !found && !search.is_broken;) {
    const int tier = forms[i].tier;
    for (; i < count && forms[i].tier == tier; i++)
      if (!only || same_form(only, &forms[i])) add_offer(&search, &forms[i]);
    found = settings->tune && take_fastest(&search, out);
    if (!found) found = take_first(&search, out);
    clear_offers(&search);
  }
  if (found) return OK;
  Text text = {0};
  convolution_text(convolution, &text);
  const Status status = error_set(error, ERROR_INTERNAL, "cuDNN %zu has no plan for %s: %s",
                                  cudnnGetVersion(), text.data, search.reason.message);
  text_free(&text);
  return status;
}
