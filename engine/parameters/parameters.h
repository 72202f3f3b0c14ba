/* A network's state as a few flat arrays: parameters, gradients, both Adam moments, EMA, and the
 * array that convolutions read if that is not the parameters themselves. Each parameter is a named
 * range, the same in all arrays, in the order in which the network declares them. Ranges begin at
 * multiples of 16 elements; the gaps between them are and stay zero. */
#ifndef CELFORGE_ENGINE_PARAMETERS_PARAMETERS_H
#define CELFORGE_ENGINE_PARAMETERS_PARAMETERS_H

#include "engine/graph/graph.h"

typedef enum InitKind {
  INIT_ZERO,
  INIT_ONE,
  INIT_RAMP, /* evenly spaced from -1 to 1; a single element is -1 */
  INIT_NORMAL,
} InitKind;

typedef struct Parameter {
  char *name; /* "block3.conv1.weight" */
  Shape shape;
  int64_t offset, count; /* elements, into each flat array */
  InitKind init;
  float deviation; /* standard deviation of INIT_NORMAL */
} Parameter;

typedef struct Parameters Parameters;

/* A reparametrisation of the weights (PyTorch's term: parametrization): `compute` holds a function
 * of the weights instead of a copy. Set by spectral_attach. */
typedef struct Reparametrization {
  void (*declare)(Parameters *parameters); /* its own state, when the parameters are frozen */
  Status (*initialize)(Parameters *parameters, uint64_t seed, Error *error);
  Status (*refresh)(Parameters *parameters, Error *error); /* recomputes `compute` */
} Reparametrization;

struct Parameters {
  char *network;   /* "generator" */
  DType precision; /* of the convolutions: f32 or bf16 */
  bool frozen;     /* declaration has ended */
  int count, capacity;
  Parameter *items;
  int64_t total;            /* elements of each flat array */
  int64_t *segment_offsets; /* [count + 1]: offsets of the parameters, then total; once frozen */
  Buffer master, gradient, moment1, moment2, ema; /* f32 */
  Buffer compute;  /* weights that convolutions read, in `precision`: parameters_have_compute */
  Buffer counters; /* i64, AdamCounters: see graph_adam */
  Buffer squared_norms;                       /* f32, [count]: see parameters_gradient_norm */
  const Reparametrization *reparametrization; /* or NULL */
  Parameters *spectral; /* state of spectral norm (engine/parameters/spectral_norm.h), or NULL */
};

void parameters_init(Parameters *parameters, const char *network, DType precision);
void parameters_free(Parameters *parameters);

/* True if convolutions read `compute`: the weights in bf16, or divided by their spectral norm. Else
 * they read `master`. */
bool parameters_have_compute(const Parameters *parameters);

/* The array that a graph reads: READ_COMPUTE `compute` where there is one, else `master`, as in
 * training; READ_MASTER and READ_EMA are f32 in any precision. */
typedef enum ParameterSource { READ_COMPUTE, READ_MASTER, READ_EMA } ParameterSource;

/* Declares `name` on first use, finds it afterwards (another shape fails the graph), and returns a
 * view of it. Names do not include the network's. The weight of a convolution has the dtype of
 * `precision` in READ_COMPUTE; everything else is f32. */
Value parameters_weight(Parameters *parameters, Graph *graph, ParameterSource source,
                        const char *name, Shape shape, float deviation);
Value parameters_vector(Parameters *parameters, Graph *graph, const char *name, int64_t channels,
                        ParameterSource source, InitKind init);

/* Ends declaration; the lengths of the flat arrays are final. */
void parameters_freeze(Parameters *parameters);
/* Allocates the arrays; with `for_training` false only master and compute (and EMA if asked for).
 * After an error some arrays may be allocated: parameters_free releases them. */
Status parameters_allocate(Parameters *parameters, Backend *backend, bool for_training,
                           bool with_ema, Error *error);
/* Initialises the parameters with Philox random numbers keyed by (seed, network, name of the
 * parameter); then ema, compute and spectral. */
Status parameters_initialize(Parameters *parameters, uint64_t seed, Error *error);
/* Recomputes `compute` after an upload to master or to the state of spectral norm. */
Status parameters_refresh(Parameters *parameters, Error *error);
const Parameter *parameters_find(const Parameters *parameters, const char *name);

/* Gradients of earlier micro-batches, flat arrays of `total` f32 each, added in this order:
 * ((g + arrays[0]) + arrays[1]) and so on. */
typedef struct PartialSums {
  int count;
  Buffer *const *arrays;
} PartialSums;

/* Appends the gradients of `loss` with respect to all parameters, as the training graph reads them
 * (READ_COMPUTE): for each a store of the gradient, plus `partial` (may be NULL), into the flat
 * gradient. With `all_reduce` an all-reduce of each bucket follows its last store; buckets have
 * about `bucket_bytes` and are cut at parameter boundaries, from the last parameter to the first.
 */
void parameters_differentiate(Parameters *parameters, Graph *graph, Value loss,
                              const PartialSums *partial, bool all_reduce, int64_t bucket_bytes);
/* Appends the global norm of the flat gradient, a scalar. The squared norm of each parameter's
 * gradient, from which it is computed, is stored in `squared_norms`. */
Value parameters_gradient_norm(Parameters *parameters, Graph *graph);
/* The index of the first parameter whose gradient has a non-finite squared norm, else of the one
 * with the largest; -1 without parameters. `squared_norms` has [count] elements. */
int parameters_worst_gradient(const Parameters *parameters, const float *squared_norms);

#endif
