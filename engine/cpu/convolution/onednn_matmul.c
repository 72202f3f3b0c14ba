#include <stdlib.h>

#include "base/memory.h"
#include "engine/cpu/convolution/onednn_internal.h"

enum { MATRIX_AXES = 3 }; /* batch, rows, columns */

struct MatmulPrimitive {
  Onednn *onednn;
  MatmulArguments arguments;
  char *name;
  dnnl_primitive_t primitive;
  dnnl_memory_t a, b, y, scratchpad;
  size_t scratchpad_bytes;
};

static Status matmul_error(const MatmulPrimitive *p, const char *doing, dnnl_status_t code,
                           Error *error) {
  const MatmulArguments *m = &p->arguments;
  return error_set(error, ERROR_INTERNAL,
                   "%s: matmul: oneDNN: %s (%lld times %lld x %lld x %lld, %s): %s", p->name, doing,
                   (long long)m->batch, (long long)m->rows, (long long)m->terms,
                   (long long)m->columns, dtype_name(m->dtype), onednn_status_text(code));
}

#define MATMUL_TRY(primitive, call, doing)                                                         \
  do {                                                                                             \
    const dnnl_status_t matmul_code = (call);                                                      \
    if (matmul_code != dnnl_success) {                                                             \
      status = matmul_error(primitive, doing, matmul_code, error);                                 \
      goto done;                                                                                   \
    }                                                                                              \
  } while (0)

/* A batch of contiguous matrices of rows x columns; `transposed`: stored as columns x rows. */
static dnnl_status_t describe(dnnl_memory_desc_t *out, int64_t batch, int64_t rows, int64_t columns,
                              bool transposed, DType dtype) {
  const dnnl_dims_t dims = {batch, rows, columns};
  const dnnl_dims_t strides = {rows * columns, transposed ? 1 : columns, transposed ? rows : 1};
  return dnnl_memory_desc_init_by_strides(out, MATRIX_AXES, dims,
                                          dtype == DTYPE_BF16 ? dnnl_bf16 : dnnl_f32, strides);
}

typedef struct MatmulDescription {
  dnnl_memory_desc_t a, b, y;
  dnnl_primitive_attr_t attributes; /* both destroyed by the caller */
  dnnl_primitive_desc_t primitive;
} MatmulDescription;

static Status describe_all(const MatmulPrimitive *p, MatmulDescription *out, Error *error) {
  Status status = OK;
  const MatmulArguments *m = &p->arguments;
  const char *doing = "describing the matrices";
  dnnl_matmul_desc_t operation;
  MATMUL_TRY(p, describe(&out->a, m->batch, m->rows, m->terms, m->transpose_a, m->dtype), doing);
  MATMUL_TRY(p, describe(&out->b, m->batch, m->terms, m->columns, m->transpose_b, m->dtype), doing);
  MATMUL_TRY(p, describe(&out->y, m->batch, m->rows, m->columns, false, DTYPE_F32), doing);
  MATMUL_TRY(p, dnnl_primitive_attr_create(&out->attributes), "creating the attributes");
  MATMUL_TRY(p, dnnl_primitive_attr_set_scratchpad_mode(out->attributes, dnnl_scratchpad_mode_user),
             "creating the attributes");
  MATMUL_TRY(p, dnnl_matmul_desc_init(&operation, &out->a, &out->b, NULL, &out->y), doing);
  MATMUL_TRY(p,
             dnnl_primitive_desc_create(&out->primitive, &operation, out->attributes,
                                        p->onednn->engine, NULL),
             "finding a primitive");
done:
  return status;
}

static Status make_memories(MatmulPrimitive *p, const MatmulDescription *description,
                            Error *error) {
  Status status = OK;
  const dnnl_memory_desc_t *scratchpad =
      dnnl_primitive_desc_query_md(description->primitive, dnnl_query_scratchpad_md, 0);
  const struct {
    dnnl_memory_t *memory;
    const dnnl_memory_desc_t *description;
  } items[] = {{&p->a, &description->a},
               {&p->b, &description->b},
               {&p->y, &description->y},
               {&p->scratchpad, scratchpad}};
  for (size_t i = 0; i < sizeof items / sizeof *items; i++)
    MATMUL_TRY(p,
               dnnl_memory_create(items[i].memory, items[i].description, p->onednn->engine,
                                  DNNL_MEMORY_NONE),
               "describing memory");
  p->scratchpad_bytes = memory_align(dnnl_memory_desc_get_size(scratchpad));
done:
  return status;
}

Status matmul_primitive_new(Onednn *onednn, const MatmulArguments *arguments, const char *name,
                            MatmulPrimitive **out, Error *error) {
  Status status = OK;
  MatmulDescription description = {0};
  *out = NULL;
  MatmulPrimitive *made = mem_new(1, sizeof *made);
  made->onednn = onednn;
  made->arguments = *arguments;
  made->name = mem_string(name);
  onednn_use_threads(onednn);
  TRY(describe_all(made, &description, error));
  MATMUL_TRY(made, dnnl_primitive_create(&made->primitive, description.primitive),
             "creating the primitive");
  TRY(make_memories(made, &description, error));
  *out = made;
  made = NULL;
done:
  if (description.primitive) dnnl_primitive_desc_destroy(description.primitive);
  if (description.attributes) dnnl_primitive_attr_destroy(description.attributes);
  matmul_primitive_free(made);
  return status;
}

void matmul_primitive_free(MatmulPrimitive *primitive) {
  if (!primitive) return;
  dnnl_memory_t memories[] = {primitive->a, primitive->b, primitive->y, primitive->scratchpad};
  for (size_t i = 0; i < sizeof memories / sizeof *memories; i++)
    if (memories[i]) dnnl_memory_destroy(memories[i]);
  if (primitive->primitive) dnnl_primitive_destroy(primitive->primitive);
  free(primitive->name);
  free(primitive);
}

size_t matmul_primitive_workspace(const MatmulPrimitive *primitive) {
  return primitive->scratchpad_bytes;
}

Status matmul_primitive_run(MatmulPrimitive *p, void *a, void *b, void *y, void *workspace,
                            Error *error) {
  Status status = OK;
  const char *doing = "setting an address";
  dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, p->a},
                                 {DNNL_ARG_WEIGHTS, p->b},
                                 {DNNL_ARG_DST, p->y},
                                 {DNNL_ARG_SCRATCHPAD, p->scratchpad}};
  onednn_use_threads(p->onednn);
  MATMUL_TRY(p, dnnl_memory_set_data_handle(p->a, a), doing);
  MATMUL_TRY(p, dnnl_memory_set_data_handle(p->b, b), doing);
  MATMUL_TRY(p, dnnl_memory_set_data_handle(p->y, y), doing);
  MATMUL_TRY(p, dnnl_memory_set_data_handle(p->scratchpad, workspace), doing);
  MATMUL_TRY(p, dnnl_primitive_execute(p->primitive, p->onednn->stream, 4, arguments), "running");
  MATMUL_TRY(p, dnnl_stream_wait(p->onednn->stream), "waiting");
done:
  return status;
}
