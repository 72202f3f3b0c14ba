/* Shapes, dtypes and buffers, shared by graphs, plans and kernels.
 *
 * All tensors have rank 5 and are contiguous, last axis fastest:
 *   activations  N T H W C   (an image batch has T = 1)
 *   conv weights O T H W I   (output channels; kernel size in time, height, width; input
 *                          channels)
 *   vectors      1 1 1 1 C   (bias, gain)
 *   scalars      1 1 1 1 1
 */
#ifndef CELFORGE_ENGINE_GRAPH_TENSOR_H
#define CELFORGE_ENGINE_GRAPH_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef enum DType {
  DTYPE_F32,
  DTYPE_BF16,
  DTYPE_U8,  /* frames; only graph_cast reads it */
  DTYPE_I64, /* the counters of graph_adam */
} DType;

enum { AXIS_N, AXIS_T, AXIS_H, AXIS_W, AXIS_C, RANK };

typedef struct Shape {
  int64_t dim[RANK];
} Shape;

Shape shape_make(int64_t n, int64_t t, int64_t h, int64_t w, int64_t c);
Shape shape_vector(int64_t c);
Shape shape_scalar(void);
/* True if every axis is at least 1 and there are fewer than 2^59 elements, so that the size in
 * bytes does not overflow. Holds for every shape of a graph; check it before counting a shape that
 * comes from outside. */
bool shape_is_countable(Shape shape);
int64_t shape_count(Shape shape);
bool shape_equal(Shape a, Shape b);
/* "[2,8,64,64,3]" into `text`; returns `text`. */
enum { SHAPE_TEXT_SIZE = 112 };
char *shape_text(Shape shape, char text[SHAPE_TEXT_SIZE]);

size_t dtype_size(DType dtype);
const char *dtype_name(DType dtype); /* "f32", "bf16", "u8", "i64" */
/* True for f32 and bf16, the dtypes that ops compute with. */
bool dtype_is_float(DType dtype);

typedef struct Backend Backend;

/* Memory of one backend that outlives a program: parameters, moments, batches, metrics. Graphs can
 * be built and planned on a described buffer; its memory is allocated later. */
typedef struct Buffer {
  const char *name; /* borrowed; must outlive the buffer */
  DType dtype;
  int64_t count;
  Backend *backend; /* NULL until allocated */
  void *data;       /* the backend's memory, zeroed at allocation; NULL until allocated */
  uint64_t version; /* incremented by every write; invalidates data derived from the buffer */
} Buffer;

Buffer buffer_describe(const char *name, DType dtype, int64_t count);
Status buffer_allocate(Buffer *buffer, Backend *backend, Error *error);
void buffer_free(Buffer *buffer);
/* Copies `count` elements, from element `offset` on, from or to host memory; returns when done.
 * ERROR_INTERNAL if the buffer is not allocated or the range is outside of it. */
Status buffer_upload(Buffer *buffer, int64_t offset, const void *source, int64_t count,
                     Error *error);
Status buffer_download(const Buffer *buffer, int64_t offset, void *destination, int64_t count,
                       Error *error);

#endif
