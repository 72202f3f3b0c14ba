/* What the files behind engine/cpu/convolution/onednn.h share; they alone include oneDNN's headers:
 *
 *   onednn.c            the engine, the processor, errors
 *   onednn_describe.c   a convolution in oneDNN's words, and which of its kernels runs it
 *   onednn_weights.c    weights on their way between the layout given and the one wanted
 *   onednn_primitive.c  making and running */
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
  ReorderedWeights *reordered; /* a list: all that primitives share */
};

/* oneDNN takes its thread count from the calling thread's OpenMP setting: to be called before it
 * makes or runs anything. */
void onednn_use_threads(const Onednn *onednn);

/* --- Errors ----------------------------------------------------------------------------------- */
/* ERROR_INTERNAL naming the op, its shapes and what was being done. */
Status onednn_error(const ConvSetup *setup, const char *doing, dnnl_status_t code, Error *error);

/* TRY for a call of oneDNN. */
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
  dnnl_memory_desc_t given_weights, wanted_weights; /* by the caller; by the primitive */
  dnnl_primitive_desc_t primitive;                  /* the caller destroys it */
} ConvDescription;

Status conv_describe(const Onednn *onednn, const ConvSetup *setup, ConvDescription *out,
                     Error *error);

/* --- Weights ---------------------------------------------------------------------------------- */
/* Given weights are mirrored where the setup asks for it (fold.h), then reordered where the
 * primitive wants another layout; written ones take the same way back. */
typedef struct WeightPath {
  Onednn *onednn;
  const ConvSetup *setup; /* borrowed */
  dnnl_memory_desc_t wanted_layout;
  bool mirrors, reorders;
  MirrorShape mirror;
  size_t mirror_bytes, wanted_bytes; /* the workspace's parts, in order */
  dnnl_primitive_t reorder;          /* NULL unless `reorders` */
  dnnl_memory_t given;               /* before (or behind) the reorder: given, or mirrored */
  dnnl_memory_t wanted;              /* where it lies in the workspace or is the given one's */
  ReorderedWeights *shared;          /* found at the first run with a buffer */
} WeightPath;

/* On an error what was made stays in `path`; weight_path_free takes a zeroed or half-made one. */
Status weight_path_init(WeightPath *path, Onednn *onednn, const ConvSetup *setup,
                        const ConvDescription *description, Error *error);
void weight_path_free(WeightPath *path);
size_t weight_path_workspace(const WeightPath *path); /* bytes, a multiple of 64 */

/* Brings weights that are read into the layout wanted; `*out` (borrowed) is what the primitive
 * reads. `buffer` is what `w` lies in, or NULL. */
Status weight_path_read(WeightPath *path, void *w, const Buffer *buffer, char *workspace,
                        dnnl_memory_t *out, Error *error);
/* Points `*out` (borrowed) at where the primitive is to write weights that end in `w`, and brings
 * them there once it has. */
Status weight_path_place(WeightPath *path, void *w, char *workspace, dnnl_memory_t *out,
                         Error *error);
Status weight_path_finish(WeightPath *path, void *w, char *workspace, Error *error);

void reordered_weights_free(ReorderedWeights *list); /* all of it */

#endif
