#include "engine/parameters/spectral_norm.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "base/bf16.h"
#include "base/bulk_memory.h"
#include "base/memory.h"

enum { INITIAL_ITERATIONS = 15 };
static const float MIN_NORM = 1e-12f;

/* A weight and its state. */
typedef struct Normalized {
  const Parameter *weight, *u, *v, *sigma;
} Normalized;

/* --- Declaration ------------------------------------------------------------------------------ */

static bool is_weight(const Parameter *parameter) {
  return parameter->init == INIT_NORMAL;
}

static void declare_vector(Parameters *spectral, Graph *graph, const Parameter *weight,
                           const char *suffix, Shape shape) {
  char *name = mem_format("%s_%s", weight->name, suffix);
  parameters_weight(spectral, graph, READ_MASTER, name, shape, 1);
  free(name);
}

static void declare_state(Parameters *parameters) {
  Graph *graph = graph_new(); /* declaration needs one */
  for (int i = 0; i < parameters->count; i++) {
    const Parameter *weight = &parameters->items[i];
    if (!is_weight(weight)) continue;
    Shape row = weight->shape;
    row.dim[AXIS_N] = 1;
    declare_vector(parameters->spectral, graph, weight, "u", shape_vector(weight->shape.dim[0]));
    declare_vector(parameters->spectral, graph, weight, "v", row);
    declare_vector(parameters->spectral, graph, weight, "sigma", shape_scalar());
  }
  graph_free(graph);
  parameters_freeze(parameters->spectral);
}

/* The first normalised weight at or after index `*place`, which is advanced past it; false at the
 * end. */
static bool next_normalized(const Parameters *parameters, int *place, Normalized *out) {
  int ordinal = 0;
  for (int i = 0; i < parameters->count; i++) {
    if (!is_weight(&parameters->items[i])) continue;
    if (i >= *place) {
      const Parameter *state = &parameters->spectral->items[3 * ordinal];
      *out = (Normalized){&parameters->items[i], &state[0], &state[1], &state[2]};
      *place = i + 1;
      return true;
    }
    ordinal++;
  }
  return false;
}

/* --- In a graph ------------------------------------------------------------------------------- */

/* Views of a weight [O,kT,kH,kW,I], of u [O,1,1,1,1], v [1,kT,kH,kW,I] and sigma. */
typedef struct Views {
  Value weight, u, v, sigma;
} Views;

static Views views_of(Parameters *parameters, Graph *graph, const Normalized *of) {
  Buffer *state = &parameters->spectral->master;
  Shape column = shape_make(of->u->count, 1, 1, 1, 1);
  return (Views){
      .weight = graph_view(graph, &parameters->master, of->weight->offset, of->weight->shape),
      .u = graph_view(graph, state, of->u->offset, column),
      .v = graph_view(graph, state, of->v->offset, of->v->shape),
      .sigma = graph_view(graph, state, of->sigma->offset, shape_scalar()),
  };
}

static void enter_scope(const Parameters *parameters, Graph *graph, const Normalized *of) {
  graph_scope_push(graph, "%s.%s.spectral", parameters->network, of->weight->name);
}

void spectral_append_gradient(Parameters *parameters, Graph *graph) {
  Normalized of;
  for (int at = 0; parameters->spectral && next_normalized(parameters, &at, &of);) {
    enter_scope(parameters, graph, &of);
    Views views = views_of(parameters, graph, &of);
    Value gradient = graph_view(graph, &parameters->gradient, of.weight->offset, of.weight->shape);
    Value along = graph_mul(graph, gradient, views.weight);
    along = graph_reduce_sum(graph, along, ALL_AXES, 1);
    Value part = graph_mul(graph, graph_mul(graph, views.u, views.v), along);
    Value rest = graph_sub(graph, gradient, graph_div(graph, part, views.sigma));
    graph_store(graph, graph_div(graph, rest, views.sigma), gradient);
    graph_scope_pop(graph);
  }
}

static Value norm_of(Graph *graph, Value x) {
  Value square = graph_reduce_sum(graph, graph_square(graph, x), ALL_AXES, 1);
  return graph_clamp(graph, graph_sqrt(graph, square), MIN_NORM, FLT_MAX);
}

void spectral_append_iteration(Parameters *parameters, Graph *graph) {
  const unsigned columns = 1u << AXIS_N, rows = ALL_AXES & ~columns;
  Normalized of;
  for (int at = 0; parameters->spectral && next_normalized(parameters, &at, &of);) {
    enter_scope(parameters, graph, &of);
    Views views = views_of(parameters, graph, &of);
    Value v = graph_reduce_sum(graph, graph_mul(graph, views.weight, views.u), columns, 1);
    graph_store(graph, graph_div(graph, v, norm_of(graph, v)), views.v);
    Value u = graph_reduce_sum(graph, graph_mul(graph, views.weight, views.v), rows, 1);
    graph_store(graph, norm_of(graph, u), views.sigma);
    graph_store(graph, graph_div(graph, u, views.sigma), views.u);
    Value divided = graph_div(graph, views.weight, views.sigma);
    graph_store(graph, graph_cast(graph, divided, parameters->precision),
                graph_view(graph, &parameters->compute, of.weight->offset, of.weight->shape));
    graph_scope_pop(graph);
  }
}

/* --- On the host ------------------------------------------------------------------------------ */

/* Divides the values by their norm and returns it. */
static float normalize(float *values, int64_t count) {
  double squares = 0;
  for (int64_t i = 0; i < count; i++) squares += (double)values[i] * (double)values[i];
  float norm = fmaxf((float)sqrt(squares), MIN_NORM);
  for (int64_t i = 0; i < count; i++) values[i] /= norm;
  return norm;
}

static void iterate(const float *weight, int64_t rows, int64_t columns, float *u, float *v,
                    float *sigma) {
  for (int64_t j = 0; j < columns; j++) v[j] = 0;
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j++) v[j] += u[i] * weight[i * columns + j];
  normalize(v, columns);
  for (int64_t i = 0; i < rows; i++) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < columns; j++) sum += (double)weight[i * columns + j] * (double)v[j];
    u[i] = (float)sum;
  }
  *sigma = normalize(u, rows);
}

static Status download(const Buffer *buffer, float **out, Error *error) {
  Status status = OK;
  size_t bytes = (size_t)buffer->count * sizeof(float);
  TRY(mem_bulk(bytes, "spectral norm", (void **)out, error));
  TRY(buffer_download(buffer, 0, *out, buffer->count, error));
done:
  return status;
}

Status spectral_initialize(Parameters *parameters, uint64_t seed, Error *error) {
  Status status = OK;
  Buffer *state = &parameters->spectral->master;
  float *weights = NULL, *own = NULL;
  Normalized of;
  TRY(parameters_initialize(parameters->spectral, seed, error));
  TRY(download(&parameters->master, &weights, error));
  TRY(download(state, &own, error));
  for (int at = 0; next_normalized(parameters, &at, &of);) {
    for (int i = 0; i < INITIAL_ITERATIONS; i++)
      iterate(weights + of.weight->offset, of.u->count, of.v->count, own + of.u->offset,
              own + of.v->offset, own + of.sigma->offset);
  }
  TRY(buffer_upload(state, 0, own, state->count, error));
done:
  free(weights);
  free(own);
  return status;
}

/* Divides and rounds exactly as the device does in spectral_append_iteration. */
static Status refresh_weight(Parameters *parameters, const Normalized *of, float *values,
                             uint16_t *rounded, Error *error) {
  Status status = OK;
  const Parameter *weight = of->weight;
  bool half = parameters->precision == DTYPE_BF16;
  float sigma;
  TRY(buffer_download(&parameters->spectral->master, of->sigma->offset, &sigma, 1, error));
  TRY(buffer_download(&parameters->master, weight->offset, values, weight->count, error));
  for (int64_t i = 0; i < weight->count; i++) values[i] /= sigma;
  for (int64_t i = 0; half && i < weight->count; i++) rounded[i] = bf16_from_f32(values[i]);
  TRY(buffer_upload(&parameters->compute, weight->offset, half ? (void *)rounded : values,
                    weight->count, error));
done:
  return status;
}

static Status refresh(Parameters *parameters, Error *error) {
  Status status = OK;
  void *values = NULL, *rounded = NULL;
  Normalized of;
  int64_t max_count = 0;
  for (int at = 0; next_normalized(parameters, &at, &of);)
    if (of.weight->count > max_count) max_count = of.weight->count;
  TRY(mem_bulk((size_t)max_count * sizeof(float), "a normalised weight", &values, error));
  TRY(mem_bulk((size_t)max_count * sizeof(uint16_t), "a normalised weight", &rounded, error));
  for (int at = 0; next_normalized(parameters, &at, &of);)
    TRY(refresh_weight(parameters, &of, values, rounded, error));
done:
  free(values);
  free(rounded);
  return status;
}

/* --- Attaching -------------------------------------------------------------------------------- */

void spectral_attach(Parameters *parameters) {
  static const Reparametrization SPECTRAL_NORM = {
      .declare = declare_state, .initialize = spectral_initialize, .refresh = refresh};
  char *name = mem_format("%s.spectral", parameters->network);
  parameters->reparametrization = &SPECTRAL_NORM;
  parameters->spectral = mem_new(1, sizeof *parameters->spectral);
  parameters_init(parameters->spectral, name, DTYPE_F32);
  free(name);
}
