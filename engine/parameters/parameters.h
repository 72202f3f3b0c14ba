/* A network's state as a few flat arrays: parameters, gradients, both Adam moments, EMA, and what
 * convolutions read where that is not the parameters themselves. Each parameter is a named range,
 * the same in all of them, in the order in which the network declares them; ranges begin at
 * multiples of 16 elements, the gaps are zero and stay zero. */
#ifndef CELFORGE_ENGINE_PARAMETERS_PARAMETERS_H
#define CELFORGE_ENGINE_PARAMETERS_PARAMETERS_H

#include "engine/graph/graph.h"

typedef enum InitKind { INIT_ZERO, INIT_ONE, INIT_NORMAL } InitKind;

typedef struct Parameter {
  char *name; /* "block3.conv1.weight" */
  Shape shape;
  int64_t offset, count; /* elements, into each flat array */
  InitKind init;
  float deviation; /* of INIT_NORMAL */
} Parameter;

typedef struct Parameters {
  char *network;   /* "generator" */
  DType precision; /* what convolutions compute in: f32 or bf16 */
  bool frozen;     /* no more may be declared */
  int count, capacity;
  Parameter *items;
  int64_t total;                                  /* elements of each flat array */
  int64_t *borders;                               /* [count + 1]: offsets and total, once frozen */
  Buffer master, gradient, moment1, moment2, ema; /* f32 */
  Buffer compute;  /* what convolutions read: see parameters_have_compute; of precision's dtype */
  Buffer counters; /* f32, 3: see graph_adam */
  Buffer squares;  /* f32, count: see parameters_gradient_norm */
  struct Parameters *spectral; /* beside weights that are normalised
                                  (engine/parameters/spectral_norm.h), or NULL */
} Parameters;

void parameters_init(Parameters *parameters, const char *network, DType precision);
void parameters_free(Parameters *parameters);

/* Whether convolutions have an array of their own to read: the weights in bf16, or divided by their
 * spectral norm. Else it is master. */
bool parameters_have_compute(const Parameters *parameters);

/* Which array a graph reads: READ_COMPUTE the master, through compute where there is one, as
 * training does; the others are f32 whatever the precision. */
typedef enum ParameterSource { READ_COMPUTE, READ_MASTER, READ_EMA } ParameterSource;

/* Declares `name` on first use, finds it afterwards (a shape that differs fails the graph), and
 * returns a view of it. Names are given without the network's. A convolution's weight has the
 * precision's dtype in READ_COMPUTE; everything else is f32. */
Value parameters_weight(Parameters *parameters, Graph *graph, ParameterSource source,
                        const char *name, Shape shape, float deviation);
Value parameters_vector(Parameters *parameters, Graph *graph, const char *name, int64_t channels,
                        ParameterSource source, InitKind init);

/* Ends declaration; flat lengths are final. */
void parameters_freeze(Parameters *parameters);
/* Allocates. `for_training` false: master and compute alone (and EMA when asked). After an error
 * some arrays may be there: parameters_free takes them. */
Status parameters_allocate(Parameters *parameters, Backend *backend, bool for_training,
                           bool with_ema, Error *error);
/* Draws initial values from Philox by (seed, network, parameter's name), fills ema, compute and
 * spectral. */
Status parameters_initialize(Parameters *parameters, uint64_t seed, Error *error);
/* Makes compute what master says again (after master, or spectral's, was uploaded). */
Status parameters_refresh(Parameters *parameters, Error *error);
const Parameter *parameters_find(const Parameters *parameters, const char *name);

/* Gradients of earlier micro-batches, flat arrays of `total` f32, that are added one after the
 * other: ((g + arrays[0]) + arrays[1]) and so on. */
typedef struct PartialSums {
  int count;
  Buffer *const *arrays;
} PartialSums;

/* For each parameter: the view the training graph read for it, as wrt of graph_gradients. Appends
 * graph_store of each gradient, with `partial` (may be NULL) added, to the flat gradient, then the
 * all-reduces: buckets of about `bucket_bytes`, cut at parameter borders from the last parameter to
 * the first. */
void parameters_differentiate(Parameters *parameters, Graph *graph, Value loss,
                              const PartialSums *partial, bool all_reduce, int64_t bucket_bytes);
/* Appends the global norm of the flat gradient, a scalar; each parameter's squared norm, of which
 * it is made, is stored in `squares`. */
Value parameters_gradient_norm(Parameters *parameters, Graph *graph);
/* Where a gradient is at its worst, by its squared norms [count]: the first parameter whose norm is
 * not finite, else the one with the largest; -1 without parameters. */
int parameters_worst_gradient(const Parameters *parameters, const float *squares);

#endif
