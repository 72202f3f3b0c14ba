/* Controls, metrics and gradients of the step under construction. */
#include "trainer/gan/step.h"

/* --- Controls and metrics --------------------------------------------------------------------- */

Value step_control(Step *step, int offset, int count) {
  return graph_view(step->graph, &step->gan->controls, offset, shape_vector(count));
}

Value step_metric_view(Step *step, Metric metric) {
  return graph_view(step->graph, &step->gan->metrics, metric, shape_scalar());
}

bool step_computes(const Step *step, StepKind kind, Metric metric) {
  return gan_computes_metric(step->gan, &(StepControls){.kind = kind}, metric);
}

void step_report(Step *step, Metric metric, Value value) {
  if (gan_in_micro_batches(step->gan)) {
    float weight = 1 / (float)step->gan->options.micro_batches;
    graph_accumulate(step->graph, graph_affine(step->graph, value, weight, 0),
                     step_metric_view(step, metric));
  } else {
    graph_store(step->graph, value, step_metric_view(step, metric));
  }
}

Value step_add_term(Step *step, Value sum, Metric metric, double weight, Value term) {
  step_report(step, metric, term);
  Value weighted = graph_affine(step->graph, term, (float)weight, 0);
  return sum.id < 0 ? weighted : graph_add(step->graph, sum, weighted);
}

/* --- Backward pass and gradient accumulation -------------------------------------------------- */

static AccumulationTree *accumulation_of(Gan *gan, const Parameters *parameters) {
  if (parameters == &gan->generator) return &gan->generator_accumulation;
  if (parameters == &gan->projection) return &gan->projection_accumulation;
  return &gan->discriminator_accumulation;
}

/* Computes the gradient of loss / micro-batches. The last micro-batch adds the partial sums of all
 * others (the set bits of its index) and all-reduces. Neighbouring micro-batches are added first,
 * then pairs of neighbours, and so on; ranks hold neighbouring micro-batches and are added in the
 * same order, so world sizes that are powers of two round alike. */
void step_backward(Step *step, Parameters *parameters, Value loss) {
  Gan *gan = step->gan;
  int micro_batches = gan->options.micro_batches;
  AccumulationTree *tree = accumulation_of(gan, parameters);
  Buffer *buffers[ACCUMULATION_MAX_LEVELS];
  PartialSums partial = {0, buffers};
  for (int k = 0; step->last_micro_batch && k < tree->levels; k++)
    if ((micro_batches - 1) >> k & 1) buffers[partial.count++] = &tree->partial_sums[k];
  if (gan_in_micro_batches(gan))
    loss = graph_affine(step->graph, loss, 1 / (float)micro_batches, 0);
  bool complete = step->last_micro_batch || !gan_in_micro_batches(gan);
  int64_t bucket = (int64_t)(gan->config->comm.bucket_mib * 1048576);
  parameters_differentiate(parameters, step->graph, loss, &partial,
                           complete && gan->options.all_reduce, bucket);
}
