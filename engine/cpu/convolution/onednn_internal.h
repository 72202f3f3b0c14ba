/* Shared by the files behind engine/cpu/convolution/onednn.h, which alone include oneDNN's headers:
 *
 *   onednn.c            creating and freeing
 *   onednn_engine.c     errors, threads, the instruction sets of the processor
 *   onednn_describe.c   a convolution as oneDNN descriptors, and the choice of its kernel
 *   onednn_weights.c    weights between the caller's layout and the primitive's
 *   onednn_primitive.c  creating and running primitives
 *   onednn_matmul.c     matrix products */
#ifndef CELFORGE_ENGINE_CPU_CONVOLUTION_ONEDNN_INTERNAL_H
#define CELFORGE_ENGINE_CPU_CONVOLUTION_ONEDNN_INTERNAL_H

#include <dnnl.h>

#include "engine/cpu/convolution/fold_width.h"
#include "engine/cpu/convolution/onednn.h"

typedef struct ReorderedWeights ReorderedWeights; /* onednn_weights.c */

struct Onednn {
  int threads;
  dnnl_engine_t engine;
  dnnl_stream_t stream;
  ReorderedWeights *reordered; /* list of weights shared by the primitives */
};

/* oneDNN takes its thread count from the OpenMP setting of the calling thread: call this before it
 * creates or runs anything. */
void onednn_use_threads(const Onednn *onednn);

/* --- Errors ----------------------------------------------------------------------------------- */
const char *onednn_status_text(dnnl_status_t status);
/* ERROR_INTERNAL with the op, its shapes and the failed action `doing`. */
Status onednn_error(const ConvSetup *setup, const char *doing, dnnl_status_t code, Error *error);

/* TRY for a oneDNN call. */
#define ONEDNN_TRY(setup, call, doing)                                                             \
  do {                                                                                             \
    const dnnl_status_t onednn_code = (call);                                                      \
    if (onednn_code != dnnl_success) {                                                             \
      status = onednn_error(setup, doing, onednn_code, error);                                     \
      goto done;                                                                                   \
    }                                                                                              \
  } while (0)

/* --- Describing ------------------------------------------------------------------------------- */
typedef struct ConvDescription {
  dnnl_memory_desc_t x, y, bias, scratchpad;
  dnnl_memory_desc_t given_weights, wanted_weights; /* of the caller; of the primitive */
  dnnl_primitive_desc_t primitive;                  /* destroyed by the caller */
} ConvDescription;

Status conv_describe(const Onednn *onednn, const ConvSetup *setup, ConvDescription *out,
                     Error *error);

/* --- Weights ---------------------------------------------------------------------------------- */
/* The conversion of weights: mirrored if the setup says so (fold_width.h), then reordered if the
 * primitive needs another layout; in reverse for weights that are written. */
typedef struct WeightPath {
  Onednn *onednn;
  const ConvSetup *setup; /* borrowed */
  dnnl_memory_desc_t wanted_layout;
  bool mirrors, reorders;
  MirrorShape mirror;
  size_t mirror_bytes, wanted_bytes; /* parts of the workspace, in order */
  dnnl_primitive_t reorder;          /* NULL unless `reorders` */
  dnnl_memory_t given;  /* input (or output) of the reorder: the caller's or the mirrored weights */
  dnnl_memory_t wanted; /* in the workspace, or the address of the given ones */
  ReorderedWeights *shared; /* set by the first run with a buffer */
} WeightPath;

/* After an error the path may be partly initialised; weight_path_free accepts that, and a zeroed
 * one. */
Status weight_path_init(WeightPath *path, Onednn *onednn, const ConvSetup *setup,
                        const ConvDescription *description, Error *error);
void weight_path_free(WeightPath *path);
size_t weight_path_workspace(const WeightPath *path); /* bytes, a multiple of 64 */

/* Converts weights that are read; `*out` (borrowed) is the memory for the primitive. `buffer`
 * contains `w`, or is NULL. */
Status weight_path_read(WeightPath *path, void *w, const Buffer *buffer, char *workspace,
                        dnnl_memory_t *out, Error *error);
/* For weights that are written: place gives the memory that the primitive writes (borrowed), finish
 * then converts its content into `w`. */
Status weight_path_place(WeightPath *path, void *w, char *workspace, dnnl_memory_t *out,
                         Error *error);
Status weight_path_finish(WeightPath *path, void *w, char *workspace, Error *error);

void reordered_weights_free(ReorderedWeights *list); /* the whole list */

#endif
