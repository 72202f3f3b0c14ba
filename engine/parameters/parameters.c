#include "engine/parameters/parameters.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/memory.h"
#include "base/random.h"
#include "engine/backend/shared/adam.h"
#include "engine/ops/autodiff.h"
#include "engine/parameters/spectral_norm.h"

enum { ALIGNMENT = 16, COUNTERS = sizeof(AdamCounters) / sizeof(float) };
/* Elements that go through the host at a time. */
enum { PIECE = 1 << 16 };

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
  parameters->counters = named_buffer(network, "counters", DTYPE_F32, COUNTERS);
  parameters->squares = named_buffer(network, "squares", DTYPE_F32, 0);
}

void parameters_free(Parameters *parameters) {
  Buffer *buffers[] = {&parameters->master,   &parameters->gradient, &parameters->moment1,
                       &parameters->moment2,  &parameters->ema,      &parameters->compute,
                       &parameters->counters, &parameters->squares};
  for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
    buffer_free(buffers[i]);
    free((char *)buffers[i]->name);
  }
  if (parameters->spectral) parameters_free(parameters->spectral);
  free(parameters->spectral);
  for (int i = 0; i < parameters->count; i++) free(parameters->items[i].name);
  free(parameters->items);
  free(parameters->borders);
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

/* The parameter of that name, declared now if need be; NULL when the graph has failed. */
static const Parameter *find_or_declare(Parameters *parameters, Graph *graph,
                                        const Parameter *wanted) {
  if (!graph_usable(graph, NULL, 0)) return NULL;
  const Parameter *found = parameters_find(parameters, wanted->name);
  char left[SHAPE_TEXT_SIZE], right[SHAPE_TEXT_SIZE];
  shape_text(wanted->shape, right);
  if (found == NULL && parameters->frozen) {
    graph_fail(graph, "parameters: %s.%s is new, but the network's parameters are frozen",
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
  graph_fail(graph, "parameters: %s.%s was declared as %s %s, here it is %s %s",
             parameters->network, wanted->name, was_weight ? "weight" : "vector",
             shape_text(found->shape, left), is_weight ? "weight" : "vector", right);
  return NULL;
}

bool parameters_have_compute(const Parameters *parameters) {
  return parameters->precision == DTYPE_BF16 || parameters->spectral;
}

/* What a graph reads of a parameter: weights alone are in compute. */
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
    graph_fail(graph, "parameters: %s.%s: deviation %g; it is at least 0 and finite",
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
    graph_fail(graph, "parameters: %s.%s: a vector begins as zeros or ones, not random",
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
  parameters->squares.count = parameters->count;
  parameters->borders = mem_new((size_t)parameters->count + 1, sizeof *parameters->borders);
  for (int i = 0; i < parameters->count; i++) parameters->borders[i] = parameters->items[i].offset;
  parameters->borders[parameters->count] = parameters->total;
  if (parameters->spectral) spectral_declare(parameters);
}

/* --- Memory and initial values ---------------------------------------------------------------- */

Status parameters_allocate(Parameters *parameters, Backend *backend, bool for_training,
                           bool with_ema, Error *error) {
  Status status = OK;
  if (!parameters->frozen)
    FAIL(error, ERROR_INTERNAL, "parameters of %s: allocated before they are frozen",
         parameters->network);
  TRY(buffer_allocate(&parameters->master, backend, error));
  if (with_ema) TRY(buffer_allocate(&parameters->ema, backend, error));
  if (for_training) {
    TRY(buffer_allocate(&parameters->gradient, backend, error));
    TRY(buffer_allocate(&parameters->moment1, backend, error));
    TRY(buffer_allocate(&parameters->moment2, backend, error));
    TRY(buffer_allocate(&parameters->counters, backend, error));
    TRY(buffer_allocate(&parameters->squares, backend, error));
    if (parameters->spectral)
      TRY(parameters_allocate(parameters->spectral, backend, false, false, error));
  }
  if (parameters_have_compute(parameters))
    TRY(buffer_allocate(&parameters->compute, backend, error));
done:
  return status;
}

/* FNV-1a (Fowler, Noll, Vo), 64 bits, of "network.name": a parameter's stream of random numbers
 * depends on what it is called, not on when it is declared. */
static uint64_t stream_index(const char *network, const char *name) {
  const char *const parts[] = {network, ".", name};
  uint64_t hash = UINT64_C(14695981039346656037);
  for (int i = 0; i < 3; i++) {
    for (const char *c = parts[i]; *c != '\0'; c++)
      hash = (hash ^ (unsigned char)*c) * UINT64_C(1099511628211);
  }
  return hash;
}

static void draw(const char *network, const Parameter *parameter, uint64_t seed, float *out) {
  if (parameter->init == INIT_NORMAL) {
    Random random = random_stream(seed, RANDOM_WEIGHTS, stream_index(network, parameter->name), 0);
    random_fill_normal(&random, out, (size_t)parameter->count, parameter->deviation);
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
    draw(parameters->network, parameter, seed, (float *)values + parameter->offset);
  }
  TRY(buffer_upload(&parameters->master, 0, values, parameters->total, error));
  if (parameters->ema.data != NULL)
    TRY(buffer_upload(&parameters->ema, 0, values, parameters->total, error));
  if (parameters->spectral) TRY(spectral_initialize(parameters, seed, error));
  TRY(parameters_refresh(parameters, error));
done:
  free(values);
  return status;
}

Status parameters_refresh(Parameters *parameters, Error *error) {
  Status status = OK;
  if (parameters->compute.data == NULL) return OK;
  if (parameters->spectral) return spectral_refresh(parameters, error);
  float *values = mem_new(PIECE, sizeof *values);
  uint16_t *rounded = mem_new(PIECE, sizeof *rounded);
  for (int64_t begin = 0; begin < parameters->total; begin += PIECE) {
    int64_t count = parameters->total - begin < PIECE ? parameters->total - begin : PIECE;
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
  int missing;        /* parameters in it whose gradients are not stored yet */
} Bucket;

/* What parameters_differentiate appends while the gradients come in. */
typedef struct Gathering {
  Parameters *parameters;
  Graph *graph;
  const PartialSums *partial; /* or NULL */
  int bucket_count, buckets_done;
  Bucket *buckets; /* from the end of the flat gradient to its begin */
  int *bucket_of;  /* by parameter */
} Gathering;

static void cut_buckets(Gathering *gathering, int64_t bucket_bytes) {
  const Parameters *parameters = gathering->parameters;
  int64_t end = parameters->total;
  gathering->buckets = mem_new((size_t)parameters->count, sizeof *gathering->buckets);
  gathering->bucket_of = mem_new((size_t)parameters->count, sizeof *gathering->bucket_of);
  for (int i = parameters->count - 1; i >= 0; i--) {
    int64_t begin = parameters->items[i].offset;
    Bucket *bucket = &gathering->buckets[gathering->bucket_count];
    gathering->bucket_of[i] = gathering->bucket_count;
    *bucket = (Bucket){begin, end, bucket->missing + 1};
    if ((end - begin) * (int64_t)sizeof(float) < bucket_bytes && i > 0) continue;
    gathering->bucket_count++;
    end = begin;
  }
}

/* Buckets start in their order on every rank, however the gradients become ready. */
static void append_ready_buckets(Gathering *gathering) {
  while (gathering->buckets_done < gathering->bucket_count) {
    const Bucket *bucket = &gathering->buckets[gathering->buckets_done];
    if (bucket->missing > 0) return;
    graph_scope_push(gathering->graph, "%s.bucket%d", gathering->parameters->network,
                     gathering->buckets_done++);
    graph_all_reduce(gathering->graph,
                     graph_view(gathering->graph, &gathering->parameters->gradient, bucket->begin,
                                shape_vector(bucket->end - bucket->begin)));
    graph_scope_pop(gathering->graph);
  }
}

static void store_gradient(void *context, int index, Value gradient) {
  Gathering *gathering = context;
  Graph *graph = gathering->graph;
  const Parameter *parameter = &gathering->parameters->items[index];
  graph_scope_push(graph, "%s.%s", gathering->parameters->network, parameter->name);
  Value target =
      graph_view(graph, &gathering->parameters->gradient, parameter->offset, parameter->shape);
  for (int i = 0; gathering->partial && i < gathering->partial->count; i++) {
    Buffer *array = gathering->partial->arrays[i];
    gradient =
        graph_add(graph, gradient, graph_view(graph, array, parameter->offset, parameter->shape));
  }
  graph_store(graph, gradient, target);
  graph_scope_pop(graph);
  if (gathering->bucket_count == 0) return;
  gathering->buckets[gathering->bucket_of[index]].missing--;
  append_ready_buckets(gathering);
}

void parameters_differentiate(Parameters *parameters, Graph *graph, Value loss,
                              const PartialSums *partial, bool all_reduce, int64_t bucket_bytes) {
  if (parameters->count == 0 || bucket_bytes < 1) {
    graph_fail(graph,
               "parameters: %s has %d parameters, buckets of %lld bytes; both must be at "
               "least 1",
               parameters->network, parameters->count, (long long)bucket_bytes);
    return;
  }
  size_t count = (size_t)parameters->count;
  Gathering gathering = {.parameters = parameters, .graph = graph, .partial = partial};
  Value *wrt = mem_new(count, sizeof *wrt), *gradients = mem_new(count, sizeof *gradients);
  for (size_t i = 0; i < count; i++)
    wrt[i] = view_of(parameters, graph, &parameters->items[i], READ_COMPUTE);
  if (all_reduce) cut_buckets(&gathering, bucket_bytes);
  Differentiation request = {
      .wrt = wrt, .wrt_count = parameters->count, .ready = store_gradient, .context = &gathering};
  graph_scalar_gradients(graph, loss, &request, gradients);
  free(wrt);
  free(gradients);
  free(gathering.buckets);
  free(gathering.bucket_of);
}

Value parameters_gradient_norm(Parameters *parameters, Graph *graph) {
  if (!parameters->frozen) {
    graph_fail(graph, "parameters of %s: their gradient's norm before they are frozen",
               parameters->network);
    return NO_VALUE;
  }
  graph_scope_push(graph, "%s.gradient_norm", parameters->network);
  Value all = graph_view(graph, &parameters->gradient, 0, shape_vector(parameters->total));
  Value squares = graph_view(graph, &parameters->squares, 0, shape_vector(parameters->count));
  graph_store(graph, graph_square_sums(graph, all, parameters->borders, parameters->count),
              squares);
  Value norm = graph_sqrt(graph, graph_reduce_sum(graph, squares, ALL_AXES, 1));
  graph_scope_pop(graph);
  return norm;
}

int parameters_worst_gradient(const Parameters *parameters, const float *squares) {
  int worst = parameters->count > 0 ? 0 : -1;
  for (int i = 0; i < parameters->count; i++) {
    if (!isfinite(squares[i])) return i;
    if (squares[i] > squares[worst]) worst = i;
  }
  return worst;
}
