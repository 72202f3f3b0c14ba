#include "engine/parameters/parameters.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/bulk_memory.h"
#include "base/memory.h"
#include "base/random.h"
#include "engine/graph/op.h"
#include "engine/ops/autodiff.h"

enum { ALIGNMENT = 16 };  /* of a parameter in the flat arrays, elements */
enum { CHUNK = 1 << 16 }; /* elements converted at a time on the host */

/* --- Declaration ------------------------------------------------------------------------------ */

static Buffer named_buffer(const char *network, const char *what, DType dtype, int64_t count) {
  return buffer_describe(mem_format("%s.%s", network, what), dtype, count);
}

void parameters_init(Parameters *parameters, const char *network, DType precision) {
  *parameters = (Parameters){.network = mem_string(network), .precision = precision};
  parameters->master = named_buffer(network, "master", DTYPE_F32, 0);
  parameters->gradient = named_buffer(network, "gradient", DTYPE_F32, 0);
  parameters->moment1 = named_buffer(network, "moment1", DTYPE_F32, 0);
  parameters->moment2 = named_buffer(network, "moment2", DTYPE_F32, 0);
  parameters->ema = named_buffer(network, "ema", DTYPE_F32, 0);
  parameters->compute = named_buffer(network, "compute", precision, 0);
  parameters->counters = named_buffer(network, "counters", DTYPE_I64, ADAM_COUNTER_COUNT);
  parameters->squared_norms = named_buffer(network, "squared_norms", DTYPE_F32, 0);
}

void parameters_free(Parameters *parameters) {
  Buffer *buffers[] = {&parameters->master,   &parameters->gradient,     &parameters->moment1,
                       &parameters->moment2,  &parameters->ema,          &parameters->compute,
                       &parameters->counters, &parameters->squared_norms};
  for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
    buffer_free(buffers[i]);
    free((char *)buffers[i]->name);
  }
  if (parameters->spectral) parameters_free(parameters->spectral);
  free(parameters->spectral);
  for (int i = 0; i < parameters->count; i++) free(parameters->items[i].name);
  free(parameters->items);
  free(parameters->segment_offsets);
  free(parameters->network);
  *parameters = (Parameters){0};
}

const Parameter *parameters_find(const Parameters *parameters, const char *name) {
  for (int i = 0; i < parameters->count; i++) {
    if (strcmp(parameters->items[i].name, name) == 0) return &parameters->items[i];
  }
  return NULL;
}

static int64_t aligned(int64_t count) {
  return (count + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static const Parameter *declare(Parameters *parameters, const Parameter *wanted) {
  MEM_PUSH_SLOT(parameters->items, parameters->count, parameters->capacity);
  Parameter *added = &parameters->items[parameters->count++];
  *added = *wanted;
  added->name = mem_string(wanted->name);
  added->offset = parameters->total;
  added->count = shape_count(wanted->shape);
  parameters->total = aligned(added->offset + added->count);
  Buffer *flat[] = {&parameters->master,  &parameters->gradient, &parameters->moment1,
                    &parameters->moment2, &parameters->ema,      &parameters->compute};
  for (size_t i = 0; i < sizeof flat / sizeof *flat; i++) flat[i]->count = parameters->total;
  return added;
}

/* The parameter of that name, declared if it is new; NULL if the graph has failed. */
static const Parameter *find_or_declare(Parameters *parameters, Graph *graph,
                                        const Parameter *wanted) {
  if (!graph_usable(graph, NULL, 0)) return NULL;
  const Parameter *found = parameters_find(parameters, wanted->name);
  char left[SHAPE_TEXT_SIZE], right[SHAPE_TEXT_SIZE];
  shape_text(wanted->shape, right);
  if (found == NULL && parameters->frozen) {
    graph_fail(graph, "parameters: %s.%s is new, but the parameters of the network are frozen",
               parameters->network, wanted->name);
    return NULL;
  }
  if (!shape_is_countable(wanted->shape)) {
    graph_fail(graph,
               "parameters: %s.%s is %s; every axis must be at least 1, their product below 2^59",
               parameters->network, wanted->name, right);
    return NULL;
  }
  if (found == NULL) return declare(parameters, wanted);
  bool was_weight = found->init == INIT_NORMAL, is_weight = wanted->init == INIT_NORMAL;
  if (shape_equal(found->shape, wanted->shape) && was_weight == is_weight) return found;
  graph_fail(graph, "parameters: %s.%s was declared as %s %s, but is used as %s %s",
             parameters->network, wanted->name, was_weight ? "weight" : "vector",
             shape_text(found->shape, left), is_weight ? "weight" : "vector", right);
  return NULL;
}

bool parameters_have_compute(const Parameters *parameters) {
  return parameters->precision == DTYPE_BF16 || parameters->spectral;
}

/* The view that a graph reads; `compute` has weights only. */
static Value view_of(Parameters *parameters, Graph *graph, const Parameter *parameter,
                     ParameterSource source) {
  Buffer *buffer = &parameters->master;
  if (source == READ_EMA) buffer = &parameters->ema;
  if (source == READ_COMPUTE && parameter->init == INIT_NORMAL &&
      parameters_have_compute(parameters))
    buffer = &parameters->compute;
  return graph_view(graph, buffer, parameter->offset, parameter->shape);
}

Value parameters_weight(Parameters *parameters, Graph *graph, ParameterSource source,
                        const char *name, Shape shape, float deviation) {
  if (!(deviation >= 0) || !isfinite(deviation)) {
    graph_fail(graph, "parameters: %s.%s: standard deviation %g, expected finite and at least 0",
               parameters->network, name, (double)deviation);
    return NO_VALUE;
  }
  Parameter wanted = {
      .name = (char *)name, .shape = shape, .init = INIT_NORMAL, .deviation = deviation};
  const Parameter *parameter = find_or_declare(parameters, graph, &wanted);
  return parameter == NULL ? NO_VALUE : view_of(parameters, graph, parameter, source);
}

Value parameters_vector(Parameters *parameters, Graph *graph, const char *name, int64_t channels,
                        ParameterSource source, InitKind init) {
  if (init == INIT_NORMAL) {
    graph_fail(graph, "parameters: %s.%s: a vector is initialised with zeros or ones, not randomly",
               parameters->network, name);
    return NO_VALUE;
  }
  Parameter wanted = {.name = (char *)name, .shape = shape_vector(channels), .init = init};
  const Parameter *parameter = find_or_declare(parameters, graph, &wanted);
  return parameter == NULL ? NO_VALUE : view_of(parameters, graph, parameter, source);
}

void parameters_freeze(Parameters *parameters) {
  if (parameters->frozen) return;
  parameters->frozen = true;
  parameters->squared_norms.count = parameters->count;
  parameters->segment_offsets =
      mem_new((size_t)parameters->count + 1, sizeof *parameters->segment_offsets);
  for (int i = 0; i < parameters->count; i++)
    parameters->segment_offsets[i] = parameters->items[i].offset;
  parameters->segment_offsets[parameters->count] = parameters->total;
  if (parameters->reparametrization) parameters->reparametrization->declare(parameters);
}

/* --- Memory and initial values ---------------------------------------------------------------- */

Status parameters_allocate(Parameters *parameters, Backend *backend, bool for_training,
                           bool with_ema, Error *error) {
  Status status = OK;
  if (!parameters->frozen)
    FAIL(error, ERROR_INTERNAL, "parameters of %s: cannot be allocated before they are frozen",
         parameters->network);
  TRY(buffer_allocate(&parameters->master, backend, error));
  if (with_ema) TRY(buffer_allocate(&parameters->ema, backend, error));
  if (for_training) {
    TRY(buffer_allocate(&parameters->gradient, backend, error));
    TRY(buffer_allocate(&parameters->moment1, backend, error));
    TRY(buffer_allocate(&parameters->moment2, backend, error));
    TRY(buffer_allocate(&parameters->counters, backend, error));
    TRY(buffer_allocate(&parameters->squared_norms, backend, error));
    if (parameters->spectral)
      TRY(parameters_allocate(parameters->spectral, backend, false, false, error));
  }
  if (parameters_have_compute(parameters))
    TRY(buffer_allocate(&parameters->compute, backend, error));
done:
  return status;
}

/* FNV-1a (Fowler, Noll, Vo), 64 bits, of "network.name": the random numbers of a parameter depend
 * on its name, not on the order of declaration. */
static uint64_t stream_index(const char *network, const char *name) {
  const char *const parts[] = {network, ".", name};
  uint64_t hash = UINT64_C(14695981039346656037);
  for (int i = 0; i < 3; i++) {
    for (const char *c = parts[i]; *c != '\0'; c++)
      hash = (hash ^ (unsigned char)*c) * UINT64_C(1099511628211);
  }
  return hash;
}

static void initial_values(const char *network, const Parameter *parameter, uint64_t seed,
                           float *out) {
  if (parameter->init == INIT_NORMAL) {
    Random random = random_stream(seed, RANDOM_WEIGHTS, stream_index(network, parameter->name), 0);
    random_fill_normal(&random, out, (size_t)parameter->count, parameter->deviation);
    return;
  }
  if (parameter->init == INIT_RAMP) {
    double step = 2.0 / (double)(parameter->count > 1 ? parameter->count - 1 : 1);
    for (int64_t i = 0; i < parameter->count; i++) out[i] = (float)((double)i * step - 1);
    return;
  }
  float value = parameter->init == INIT_ONE ? 1 : 0;
  for (int64_t i = 0; i < parameter->count; i++) out[i] = value;
}

Status parameters_initialize(Parameters *parameters, uint64_t seed, Error *error) {
  Status status = OK;
  void *values = NULL;
  TRY(mem_bulk((size_t)parameters->total * sizeof(float), "the initial parameters", &values,
               error));
  for (int i = 0; i < parameters->count; i++) {
    const Parameter *parameter = &parameters->items[i];
    initial_values(parameters->network, parameter, seed, (float *)values + parameter->offset);
  }
  TRY(buffer_upload(&parameters->master, 0, values, parameters->total, error));
  if (parameters->ema.data != NULL)
    TRY(buffer_upload(&parameters->ema, 0, values, parameters->total, error));
  if (parameters->reparametrization)
    TRY(parameters->reparametrization->initialize(parameters, seed, error));
  TRY(parameters_refresh(parameters, error));
done:
  free(values);
  return status;
}

Status parameters_refresh(Parameters *parameters, Error *error) {
  Status status = OK;
  if (parameters->compute.data == NULL) return OK;
  if (parameters->reparametrization)
    return parameters->reparametrization->refresh(parameters, error);
  float *values = mem_new(CHUNK, sizeof *values);
  uint16_t *rounded = mem_new(CHUNK, sizeof *rounded);
  for (int64_t begin = 0; begin < parameters->total; begin += CHUNK) {
    int64_t count = parameters->total - begin < CHUNK ? parameters->total - begin : CHUNK;
    TRY(buffer_download(&parameters->master, begin, values, count, error));
    for (int64_t i = 0; i < count; i++) rounded[i] = bf16_from_f32(values[i]);
    TRY(buffer_upload(&parameters->compute, begin, rounded, count, error));
  }
done:
  free(values);
  free(rounded);
  return status;
}

/* --- Gradients -------------------------------------------------------------------------------- */

typedef struct Bucket {
  int64_t begin, end; /* elements of the flat gradient */
  int missing;        /* its parameters whose gradients are not stored yet */
} Bucket;

/* The state of parameters_differentiate while gradients become ready. */
typedef struct GradientCollector {
  Parameters *parameters;
  Graph *graph;
  const PartialSums *partial; /* or NULL */
  int bucket_count, buckets_done;
  Bucket *buckets; /* from the end of the flat gradient to its beginning */
  int *bucket_of;  /* by parameter */
} GradientCollector;

static void cut_buckets(GradientCollector *collector, int64_t bucket_bytes) {
  const Parameters *parameters = collector->parameters;
  int64_t end = parameters->total;
  collector->buckets = mem_new((size_t)parameters->count, sizeof *collector->buckets);
  collector->bucket_of = mem_new((size_t)parameters->count, sizeof *collector->bucket_of);
  for (int i = parameters->count - 1; i >= 0; i--) {
    int64_t begin = parameters->items[i].offset;
    Bucket *bucket = &collector->buckets[collector->bucket_count];
    collector->bucket_of[i] = collector->bucket_count;
    *bucket = (Bucket){begin, end, bucket->missing + 1};
    if ((end - begin) * (int64_t)sizeof(float) < bucket_bytes && i > 0) continue;
    collector->bucket_count++;
    end = begin;
  }
}

/* Buckets start in the same order on every rank, whatever the order of the gradients. */
static void append_ready_buckets(GradientCollector *collector) {
  while (collector->buckets_done < collector->bucket_count) {
    const Bucket *bucket = &collector->buckets[collector->buckets_done];
    if (bucket->missing > 0) return;
    graph_scope_push(collector->graph, "%s.bucket%d", collector->parameters->network,
                     collector->buckets_done++);
    graph_all_reduce(collector->graph,
                     graph_view(collector->graph, &collector->parameters->gradient, bucket->begin,
                                shape_vector(bucket->end - bucket->begin)));
    graph_scope_pop(collector->graph);
  }
}

static void store_gradient(void *context, int index, Value gradient) {
  GradientCollector *collector = context;
  Graph *graph = collector->graph;
  const Parameter *parameter = &collector->parameters->items[index];
  graph_scope_push(graph, "%s.%s", collector->parameters->network, parameter->name);
  Value target =
      graph_view(graph, &collector->parameters->gradient, parameter->offset, parameter->shape);
  for (int i = 0; collector->partial && i < collector->partial->count; i++) {
    Buffer *array = collector->partial->arrays[i];
    gradient =
        graph_add(graph, gradient, graph_view(graph, array, parameter->offset, parameter->shape));
  }
  graph_store(graph, gradient, target);
  graph_scope_pop(graph);
  if (collector->bucket_count == 0) return;
  collector->buckets[collector->bucket_of[index]].missing--;
  append_ready_buckets(collector);
}

void parameters_differentiate(Parameters *parameters, Graph *graph, Value loss,
                              const PartialSums *partial, bool all_reduce, int64_t bucket_bytes) {
  if (parameters->count == 0 || bucket_bytes < 1) {
    graph_fail(
        graph,
        "parameters: %s has %d parameters, buckets of %lld bytes; expected at least 1 of both",
        parameters->network, parameters->count, (long long)bucket_bytes);
    return;
  }
  size_t count = (size_t)parameters->count;
  GradientCollector collector = {.parameters = parameters, .graph = graph, .partial = partial};
  Value *wrt = mem_new(count, sizeof *wrt), *gradients = mem_new(count, sizeof *gradients);
  for (size_t i = 0; i < count; i++)
    wrt[i] = view_of(parameters, graph, &parameters->items[i], READ_COMPUTE);
  if (all_reduce) cut_buckets(&collector, bucket_bytes);
  Differentiation request = {
      .wrt = wrt, .wrt_count = parameters->count, .ready = store_gradient, .context = &collector};
  graph_differentiate_loss(graph, loss, &request, gradients);
  free(wrt);
  free(gradients);
  free(collector.buckets);
  free(collector.bucket_of);
}

Value parameters_gradient_norm(Parameters *parameters, Graph *graph) {
  if (!parameters->frozen) {
    graph_fail(graph, "parameters of %s: no gradient norm before they are frozen",
               parameters->network);
    return NO_VALUE;
  }
  graph_scope_push(graph, "%s.gradient_norm", parameters->network);
  Value all = graph_view(graph, &parameters->gradient, 0, shape_vector(parameters->total));
  Value squared_norms =
      graph_view(graph, &parameters->squared_norms, 0, shape_vector(parameters->count));
  graph_store(
      graph,
      graph_segment_squared_norms(graph, all, parameters->segment_offsets, parameters->count),
      squared_norms);
  Value norm = graph_sqrt(graph, graph_reduce_sum(graph, squared_norms, ALL_AXES, 1));
  graph_scope_pop(graph);
  return norm;
}

int parameters_worst_gradient(const Parameters *parameters, const float *squared_norms) {
  int worst = parameters->count > 0 ? 0 : -1;
  for (int i = 0; i < parameters->count; i++) {
    if (!isfinite(squared_norms[i])) return i;
    if (squared_norms[i] > squared_norms[worst]) worst = i;
  }
  return worst;
}
