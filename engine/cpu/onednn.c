#include "engine/cpu/onednn.h"

#include <dnnl.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "base/memory.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/fold.h"
#include "engine/cpu/trust.h"

/* Weights of one buffer in the layout some primitives want. */
typedef struct Reordered {
  struct Reordered *next;
  int users;
  const Buffer *buffer;
  const void *source; /* the view's address */
  uint64_t version;   /* of the buffer, when this was made */
  bool made;
  int64_t mirrored_taps;
  dnnl_memory_desc_t layout;
  void *data;
  dnnl_memory_t memory;
} Reordered;

struct Onednn {
  int threads;
  dnnl_engine_t engine;
  dnnl_stream_t stream;
  Reordered *reordered;
};

struct ConvPrimitive {
  Onednn *onednn;
  ConvSetup setup;
  char *name;
  dnnl_primitive_t primitive;
  dnnl_memory_desc_t plain_weights, weights; /* as given; as the primitive wants them */
  size_t x_bytes;
  bool reorders, mirrors;
  dnnl_primitive_t reorder; /* NULL unless `reorders` */
  dnnl_memory_t x, y, bias, scratchpad;
  dnnl_memory_t plain_memory;  /* weights as given (mirrored where that is asked for) */
  dnnl_memory_t wanted_memory; /* weights as wanted, in the workspace */
  size_t scratchpad_bytes, mirror_bytes, wanted_bytes; /* the workspace's parts, in order */
  MirrorShape mirror;
  Reordered *shared; /* found at the first run with a buffer */
};

/* --- Errors ----------------------------------------------------------------------------------- */
/* Fails the function when a call of oneDNN fails, naming the op and the shapes. */
#define CALL(call, doing)                                                                          \
  do {                                                                                             \
    dnnl_status_t result_ = (call);                                                                \
    if (result_ != dnnl_success) {                                                                 \
      status = conv_error(setup, doing, result_, error);                                           \
      goto done;                                                                                   \
    }                                                                                              \
  } while (0)

static const char *status_text(dnnl_status_t status) {
  switch (status) {
  case dnnl_out_of_memory:
    return "out of memory";
  case dnnl_invalid_arguments:
    return "invalid arguments";
  case dnnl_unimplemented:
    return "unimplemented";
  case dnnl_iterator_ends:
    return "iterator ends";
  case dnnl_runtime_error:
    return "runtime error";
  case dnnl_not_required:
    return "not required";
  default:
    return "success";
  }
}

static Status conv_error(const ConvSetup *setup, const char *doing, dnnl_status_t code,
                         Error *error) {
  const ConvGeometry *g = &setup->geometry;
  char x[SHAPE_TEXT_SIZE], w[SHAPE_TEXT_SIZE], y[SHAPE_TEXT_SIZE];
  shape_text(shape_make(g->batch, g->in[0], g->in[1], g->in[2], g->in_channels), x);
  shape_text(shape_make(g->out_channels, g->taps[0], g->taps[1], g->taps[2], g->in_channels), w);
  shape_text(shape_make(g->batch, g->out[0], g->out[1], g->out[2], g->out_channels), y);
  return error_set(error, ERROR_INTERNAL, "%s: %s: oneDNN: %s (x %s, w %s, y %s, %s): %s",
                   setup->name, setup->kind_name, doing, x, w, y, dtype_name(setup->operands),
                   status_text(code));
}

/* --- The engine ------------------------------------------------------------------------------- */
Status onednn_new(int threads, Onednn **out, Error *error) {
  Status status = OK;
  Onednn *onednn = mem_new(1, sizeof *onednn);
  onednn->threads = threads;
  dnnl_status_t result = dnnl_engine_create(&onednn->engine, dnnl_cpu, 0);
  if (result == dnnl_success)
    result = dnnl_stream_create(&onednn->stream, onednn->engine, dnnl_stream_default_flags);
  if (result != dnnl_success)
    FAIL(error, ERROR_INTERNAL, "oneDNN: making the CPU engine: %s", status_text(result));
  *out = onednn;
done:
  if (status != OK) onednn_free(onednn);
  return status;
}

static void reordered_free(Reordered *item) {
  if (item->memory) dnnl_memory_destroy(item->memory);
  free(item->data);
  free(item);
}

void onednn_free(Onednn *onednn) {
  if (!onednn) return;
  while (onednn->reordered) {
    Reordered *item = onednn->reordered;
    onednn->reordered = item->next;
    reordered_free(item);
  }
  if (onednn->stream) dnnl_stream_destroy(onednn->stream);
  if (onednn->engine) dnnl_engine_destroy(onednn->engine);
  free(onednn);
}

/* The instruction sets are numbers whose bits nest: a set holds another when it holds its bits. */
static bool has_instructions(dnnl_cpu_isa_t wanted) {
  return ((unsigned)dnnl_get_effective_cpu_isa() & (unsigned)wanted) == (unsigned)wanted;
}

Bf16Support onednn_bf16(void) {
  if (has_instructions(dnnl_cpu_isa_avx512_core_bf16)) return BF16_NATIVE;
  return has_instructions(dnnl_cpu_isa_avx512_core) ? BF16_EMULATED : BF16_NONE;
}

const char *onednn_instructions(void) {
  if (has_instructions(dnnl_cpu_isa_avx512_core_amx)) return "AVX-512 with AMX";
  if (has_instructions(dnnl_cpu_isa_avx512_core)) return "AVX-512";
  return has_instructions(dnnl_cpu_isa_avx2) ? "AVX2" : "SSE4.1";
}

/* oneDNN takes its thread count from the calling thread's OpenMP setting. */
static void use_threads(const Onednn *onednn) {
#ifdef _OPENMP
  if (omp_get_max_threads() != onednn->threads) omp_set_num_threads(onednn->threads);
#else
  (void)onednn;
#endif
}

/* --- Making a primitive ----------------------------------------------------------------------- */
enum { AXES = 5 };

/* Dims and strides of N C [T] H W (or O I [T] H W) over memory in which channels come last. With
 * `planar`, time is one of the batch (or is one tap), and left out. */
typedef struct Layout {
  int count;
  dnnl_dims_t dims, strides;
} Layout;

static Layout layout_of(int64_t first, int64_t channels, const int64_t extent[3], bool planar) {
  Layout layout = {.count = planar ? AXES - 1 : AXES};
  if (planar) first *= extent[0];
  int64_t stride = channels;
  layout.dims[1] = channels;
  layout.strides[1] = 1;
  for (int axis = layout.count - 1, from = 2; axis >= 2; axis--, from--) {
    layout.dims[axis] = extent[from];
    layout.strides[axis] = stride;
    stride *= extent[from];
  }
  layout.dims[0] = first;
  layout.strides[0] = stride;
  return layout;
}

static dnnl_data_type_t data_type(DType dtype) {
  return dtype == DTYPE_BF16 ? dnnl_bf16 : dnnl_f32;
}

static dnnl_status_t describe(dnnl_memory_desc_t *out, const Layout *layout, DType dtype) {
  return dnnl_memory_desc_init_by_strides(out, layout->count, layout->dims, data_type(dtype),
                                          layout->strides);
}

static dnnl_status_t describe_any(dnnl_memory_desc_t *out, const Layout *layout, DType dtype) {
  return dnnl_memory_desc_init_by_tag(out, layout->count, layout->dims, data_type(dtype),
                                      dnnl_format_tag_any);
}

typedef struct Descriptions {
  dnnl_memory_desc_t x, y, bias, w;
  dnnl_dims_t stride, before, after;
} Descriptions;

static dnnl_status_t describe_all(const ConvSetup *setup, Descriptions *out,
                                  dnnl_memory_desc_t *plain_weights) {
  const ConvGeometry *g = &setup->geometry;
  bool planar = conv_is_planar(g);
  DType x = setup->pass == PASS_BACKWARD_DATA ? setup->result : setup->operands;
  DType y = setup->pass == PASS_FORWARD ? setup->result : setup->operands;
  DType w = setup->pass == PASS_BACKWARD_WEIGHTS ? setup->result : setup->operands;
  Layout x_layout = layout_of(g->batch, g->in_channels, g->in, planar);
  Layout y_layout = layout_of(g->batch, g->out_channels, g->out, planar);
  Layout w_layout = layout_of(g->out_channels, g->in_channels, g->taps, planar);
  Layout bias = {.count = 1, .dims = {g->out_channels}, .strides = {1}};
  for (int i = planar ? 1 : 0, to = 0; i < 3; i++, to++) {
    out->stride[to] = g->stride[i];
    out->before[to] = g->before[i];
    out->after[to] = g->after[i];
  }
  dnnl_status_t result = describe(&out->x, &x_layout, x);
  if (result == dnnl_success) result = describe(&out->y, &y_layout, y);
  if (result == dnnl_success) result = describe(&out->bias, &bias, DTYPE_F32);
  if (result == dnnl_success) result = describe(plain_weights, &w_layout, w);
  if (result == dnnl_success) result = describe_any(&out->w, &w_layout, w);
  return result;
}

/* Scratchpad from the caller, and the activation behind the sum. */
static dnnl_status_t make_attributes(const ConvSetup *setup, dnnl_primitive_attr_t *out) {
  dnnl_post_ops_t post = NULL;
  dnnl_status_t result = dnnl_primitive_attr_create(out);
  if (result == dnnl_success)
    result = dnnl_primitive_attr_set_scratchpad_mode(*out, dnnl_scratchpad_mode_user);
  if (result != dnnl_success || setup->activation == ACTIVATION_NONE) return result;
  bool tanh = setup->activation == ACTIVATION_TANH;
  result = dnnl_post_ops_create(&post);
  if (result != dnnl_success) return result;
  result = dnnl_post_ops_append_eltwise(post, 1.0f, tanh ? dnnl_eltwise_tanh : dnnl_eltwise_relu,
                                        tanh ? 0.0f : setup->slope, 0.0f);
  if (result == dnnl_success) result = dnnl_primitive_attr_set_post_ops(*out, post);
  dnnl_post_ops_destroy(post);
  return result;
}

static dnnl_status_t forward_description(const ConvSetup *setup, const Descriptions *all, bool bias,
                                         const dnnl_memory_desc_t *x, const dnnl_memory_desc_t *w,
                                         const dnnl_memory_desc_t *y,
                                         dnnl_convolution_desc_t *out) {
  dnnl_prop_kind_t kind =
      setup->pass == PASS_FORWARD ? dnnl_forward_inference : dnnl_forward_training;
  return dnnl_convolution_forward_desc_init(out, kind, dnnl_convolution_direct, x, w,
                                            bias ? &all->bias : NULL, y, all->stride, all->before,
                                            all->after);
}

/* Backward primitives want a forward one as a hint; where x or y is f32 beside bf16 ones, the hint
 * is all bf16, since mixed ones exist for outputs only. */
static dnnl_status_t make_hint(const ConvSetup *setup, const Descriptions *all,
                               dnnl_engine_t engine, dnnl_primitive_desc_t *out) {
  dnnl_memory_desc_t x = all->x, w = all->w, y = all->y;
  x.data_type = w.data_type = y.data_type = data_type(setup->operands);
  dnnl_convolution_desc_t description;
  dnnl_status_t result = forward_description(setup, all, false, &x, &w, &y, &description);
  if (result != dnnl_success) return result;
  return dnnl_primitive_desc_create(out, &description, NULL, engine, NULL);
}

/* The first (fastest) kernel that is trusted. */
static dnnl_status_t choose_kernel(const ConvSetup *setup, const dnnl_convolution_desc_t *wanted,
                                   dnnl_engine_t engine, dnnl_primitive_attr_t attributes,
                                   dnnl_primitive_desc_t hint, dnnl_primitive_desc_t *out) {
  dnnl_primitive_desc_iterator_t iterator = NULL;
  dnnl_status_t result =
      dnnl_primitive_desc_iterator_create(&iterator, wanted, attributes, engine, hint);
  while (result == dnnl_success) {
    const char *kernel = NULL;
    dnnl_primitive_desc_t found = dnnl_primitive_desc_iterator_fetch(iterator);
    if (!found) result = dnnl_out_of_memory;
    if (found)
      result = dnnl_primitive_desc_query(found, dnnl_query_impl_info_str, 0, (void *)&kernel);
    if (result == dnnl_success && conv_is_trusted(setup, kernel)) {
      *out = found;
      break;
    }
    if (found) dnnl_primitive_desc_destroy(found);
    if (result == dnnl_success) result = dnnl_primitive_desc_iterator_next(iterator);
  }
  if (iterator) dnnl_primitive_desc_iterator_destroy(iterator);
  return result;
}

static dnnl_status_t make_description(const ConvSetup *setup, const Descriptions *all,
                                      dnnl_engine_t engine, dnnl_primitive_attr_t attributes,
                                      dnnl_primitive_desc_t *out) {
  dnnl_convolution_desc_t description;
  dnnl_primitive_desc_t hint = NULL;
  dnnl_status_t result = dnnl_success;
  if (setup->pass != PASS_FORWARD) result = make_hint(setup, all, engine, &hint);
  if (result != dnnl_success) return result;
  if (setup->pass == PASS_FORWARD)
    result = forward_description(setup, all, setup->bias, &all->x, &all->w, &all->y, &description);
  else if (setup->pass == PASS_BACKWARD_DATA)
    result = dnnl_convolution_backward_data_desc_init(&description, dnnl_convolution_direct,
                                                      &all->x, &all->w, &all->y, all->stride,
                                                      all->before, all->after);
  else
    result = dnnl_convolution_backward_weights_desc_init(
        &description, dnnl_convolution_direct, &all->x, &all->w, setup->bias ? &all->bias : NULL,
        &all->y, all->stride, all->before, all->after);
  if (result == dnnl_success)
    result = choose_kernel(setup, &description, engine, attributes, hint, out);
  if (hint) dnnl_primitive_desc_destroy(hint);
  return result;
}

static dnnl_status_t make_reorder(dnnl_engine_t engine, const dnnl_memory_desc_t *from,
                                  const dnnl_memory_desc_t *to, dnnl_primitive_t *out) {
  dnnl_primitive_desc_t description = NULL;
  dnnl_status_t result =
      dnnl_reorder_primitive_desc_create(&description, from, engine, to, engine, NULL);
  if (result != dnnl_success) return result;
  result = dnnl_primitive_create(out, description);
  dnnl_primitive_desc_destroy(description);
  return result;
}

static Status make_memories(ConvPrimitive *made, const Descriptions *all,
                            const dnnl_memory_desc_t *scratchpad, Error *error) {
  Status status = OK;
  const ConvSetup *setup = &made->setup;
  const struct {
    dnnl_memory_t *memory;
    const dnnl_memory_desc_t *description;
  } items[] = {
      {&made->x, &all->x},
      {&made->y, &all->y},
      {&made->bias, &all->bias},
      {&made->scratchpad, scratchpad},
      {&made->plain_memory, &made->plain_weights},
      {&made->wanted_memory, &made->weights},
  };
  for (size_t i = 0; i < sizeof items / sizeof *items; i++)
    CALL(dnnl_memory_create(items[i].memory, items[i].description, made->onednn->engine,
                            DNNL_MEMORY_NONE),
         "describing memory");
done:
  return status;
}

/* What lies between the weights as given and as the primitive wants them. */
static Status make_weight_path(ConvPrimitive *made, Error *error) {
  Status status = OK;
  const ConvSetup *setup = &made->setup;
  const ConvGeometry *g = &setup->geometry;
  bool writes = setup->pass == PASS_BACKWARD_WEIGHTS;
  made->reorders = !dnnl_memory_desc_equal(&made->plain_weights, &made->weights);
  made->mirrors = setup->mirrored_taps > 1;
  made->mirror = (MirrorShape){
      .out_channels = g->out_channels / (made->mirrors ? setup->mirrored_taps : 1),
      .planes = g->taps[0] * g->taps[1],
      .taps = setup->mirrored_taps,
      .in_channels = g->in_channels,
  };
  if (made->mirrors)
    made->mirror_bytes = cpu_align(dnnl_memory_desc_get_size(&made->plain_weights));
  if (made->reorders) {
    made->wanted_bytes = cpu_align(dnnl_memory_desc_get_size(&made->weights));
    CALL(make_reorder(made->onednn->engine, writes ? &made->weights : &made->plain_weights,
                      writes ? &made->plain_weights : &made->weights, &made->reorder),
         "making the reorder of the weights");
  }
done:
  return status;
}

Status conv_primitive_new(Onednn *onednn, const ConvSetup *given, ConvPrimitive **out,
                          Error *error) {
  Status status = OK;
  *out = NULL;
  dnnl_primitive_attr_t attributes = NULL;
  dnnl_primitive_desc_t description = NULL;
  Descriptions all;
  ConvPrimitive *made = mem_new(1, sizeof *made);
  made->onednn = onednn;
  made->setup = *given;
  made->name = mem_string(given->name ? given->name : "convolution");
  made->setup.name = made->name;
  const ConvSetup *setup = &made->setup;
  bool writes = setup->pass == PASS_BACKWARD_WEIGHTS;

  use_threads(onednn);
  CALL(describe_all(setup, &all, &made->plain_weights), "describing the tensors");
  CALL(make_attributes(setup, &attributes), "making the attributes");
  CALL(make_description(setup, &all, onednn->engine, attributes, &description),
       "finding a primitive");
  CALL(dnnl_primitive_create(&made->primitive, description), "making the primitive");
  made->weights = *dnnl_primitive_desc_query_md(
      description, writes ? dnnl_query_diff_weights_md : dnnl_query_weights_md, 0);
  const dnnl_memory_desc_t *scratchpad =
      dnnl_primitive_desc_query_md(description, dnnl_query_scratchpad_md, 0);
  made->scratchpad_bytes = cpu_align(dnnl_memory_desc_get_size(scratchpad));
  made->x_bytes = dnnl_memory_desc_get_size(&all.x);
  TRY(make_memories(made, &all, scratchpad, error));
  TRY(make_weight_path(made, error));
  *out = made;
done:
  if (description) dnnl_primitive_desc_destroy(description);
  if (attributes) dnnl_primitive_attr_destroy(attributes);
  if (status != OK) conv_primitive_free(made);
  return status;
}

static void release_shared(ConvPrimitive *primitive) {
  Reordered *item = primitive->shared;
  primitive->shared = NULL;
  if (!item || --item->users > 0) return;
  Reordered **link = &primitive->onednn->reordered;
  while (*link != item) link = &(*link)->next;
  *link = item->next;
  reordered_free(item);
}

void conv_primitive_free(ConvPrimitive *primitive) {
  if (!primitive) return;
  release_shared(primitive);
  dnnl_memory_t memories[] = {primitive->x,
                              primitive->y,
                              primitive->bias,
                              primitive->scratchpad,
                              primitive->plain_memory,
                              primitive->wanted_memory};
  for (size_t i = 0; i < sizeof memories / sizeof *memories; i++)
    if (memories[i]) dnnl_memory_destroy(memories[i]);
  if (primitive->reorder) dnnl_primitive_destroy(primitive->reorder);
  if (primitive->primitive) dnnl_primitive_destroy(primitive->primitive);
  free(primitive->name);
  free(primitive);
}

size_t conv_primitive_workspace(const ConvPrimitive *primitive) {
  return primitive->scratchpad_bytes + primitive->mirror_bytes + primitive->wanted_bytes;
}

/* --- Running ---------------------------------------------------------------------------------- */
static Status run_reorder(ConvPrimitive *p, dnnl_memory_t from, dnnl_memory_t to, Error *error) {
  Status status = OK;
  const ConvSetup *setup = &p->setup;
  dnnl_exec_arg_t arguments[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
  CALL(dnnl_primitive_execute(p->reorder, p->onednn->stream, 2, arguments),
       "reordering the weights");
  CALL(dnnl_stream_wait(p->onednn->stream), "waiting for the reorder");
done:
  return status;
}

/* Brings `w` into the layout wanted: into `to`, or, when nothing has to be reordered, under it. */
static Status convert_weights(ConvPrimitive *p, void *w, void *mirror_space, dnnl_memory_t to,
                              Error *error) {
  Status status = OK;
  const ConvSetup *setup = &p->setup;
  if (p->mirrors) {
    fold_mirror_weights(p->mirror, w, mirror_space, dtype_size(setup->operands));
    w = mirror_space;
  }
  if (p->reorders) {
    CALL(dnnl_memory_set_data_handle(p->plain_memory, w), "setting the weights' address");
    TRY(run_reorder(p, p->plain_memory, to, error));
  } else {
    CALL(dnnl_memory_set_data_handle(to, w), "setting the weights' address");
  }
done:
  return status;
}

/* The entry for this view in this layout, made when it is not there. */
static Status find_shared(ConvPrimitive *p, const void *w, const Buffer *buffer, Error *error) {
  Status status = OK;
  const ConvSetup *setup = &p->setup;
  Reordered *item = p->shared, *made = NULL;
  if (item && item->buffer == buffer && item->source == w) return OK;
  release_shared(p);
  for (item = p->onednn->reordered; item; item = item->next)
    if (item->buffer == buffer && item->source == w &&
        item->mirrored_taps == setup->mirrored_taps &&
        dnnl_memory_desc_equal(&item->layout, &p->weights))
      break;
  if (!item) {
    item = made = mem_new(1, sizeof *made);
    made->buffer = buffer;
    made->source = w;
    made->mirrored_taps = setup->mirrored_taps;
    made->layout = p->weights;
    TRY(mem_bulk(p->wanted_bytes, setup->name, &made->data, error));
    CALL(dnnl_memory_create(&made->memory, &made->layout, p->onednn->engine, made->data),
         "describing reordered weights");
    made->next = p->onednn->reordered;
    p->onednn->reordered = made;
    made = NULL;
  }
  item->users++;
  p->shared = item;
done:
  if (made) reordered_free(made);
  return status;
}

static Status read_weights(ConvPrimitive *p, void *w, Buffer *buffer, char *workspace,
                           dnnl_memory_t *out, Error *error) {
  Status status = OK;
  const ConvSetup *setup = &p->setup;
  char *mirror_space = workspace + p->scratchpad_bytes;
  *out = p->wanted_memory;
  if (buffer && p->reorders) {
    TRY(find_shared(p, w, buffer, error));
    *out = p->shared->memory;
    if (p->shared->made && p->shared->version == buffer->version) return OK;
    p->shared->made = false;
    TRY(convert_weights(p, w, mirror_space, *out, error));
    p->shared->made = true;
    p->shared->version = buffer->version;
  } else {
    if (p->reorders)
      CALL(dnnl_memory_set_data_handle(*out, mirror_space + p->mirror_bytes),
           "setting the weights' address");
    TRY(convert_weights(p, w, mirror_space, *out, error));
  }
done:
  return status;
}

/* Where the primitive writes the gradient of the weights. */
static Status place_written_weights(ConvPrimitive *p, void *w, char *workspace, Error *error) {
  Status status = OK;
  const ConvSetup *setup = &p->setup;
  char *mirror_space = workspace + p->scratchpad_bytes;
  void *plain = p->mirrors ? mirror_space : w;
  void *wanted = p->reorders ? mirror_space + p->mirror_bytes : plain;
  CALL(dnnl_memory_set_data_handle(p->plain_memory, plain), "setting the weights' address");
  CALL(dnnl_memory_set_data_handle(p->wanted_memory, wanted), "setting the weights' address");
done:
  return status;
}

static Status finish_written_weights(ConvPrimitive *p, void *w, char *workspace, Error *error) {
  Status status = OK;
  if (p->reorders) TRY(run_reorder(p, p->wanted_memory, p->plain_memory, error));
  if (p->mirrors)
    fold_unmirror_weights(p->mirror, workspace + p->scratchpad_bytes, w,
                          dtype_size(p->setup.result));
done:
  return status;
}

Status conv_primitive_run(ConvPrimitive *p, void *x, void *w, Buffer *buffer, void *bias, void *y,
                          void *workspace, Error *error) {
  static const int names[][4] = {
      [PASS_FORWARD] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_BIAS},
      [PASS_BACKWARD_DATA] = {DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST, 0},
      [PASS_BACKWARD_WEIGHTS] = {DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST,
                                 DNNL_ARG_DIFF_BIAS},
  };
  Status status = OK;
  const ConvSetup *setup = &p->setup;
  const int *name = names[setup->pass];
  bool writes = setup->pass == PASS_BACKWARD_WEIGHTS;
  dnnl_memory_t weights = p->wanted_memory;
  use_threads(p->onednn);
  /* Frames that no tap reaches: a bf16 kernel leaves their gradient unwritten. */
  if (setup->pass == PASS_BACKWARD_DATA && setup->geometry.after[0] < 0) memset(x, 0, p->x_bytes);
  if (writes)
    TRY(place_written_weights(p, w, workspace, error));
  else
    TRY(read_weights(p, w, buffer, workspace, &weights, error));
  CALL(dnnl_memory_set_data_handle(p->x, x), "setting an address");
  CALL(dnnl_memory_set_data_handle(p->y, y), "setting an address");
  CALL(dnnl_memory_set_data_handle(p->scratchpad, workspace), "setting an address");
  if (setup->bias) CALL(dnnl_memory_set_data_handle(p->bias, bias), "setting an address");
  dnnl_exec_arg_t arguments[] = {{name[0], p->x},
                                 {name[1], weights},
                                 {name[2], p->y},
                                 {DNNL_ARG_SCRATCHPAD, p->scratchpad},
                                 {name[3], p->bias}};
  CALL(dnnl_primitive_execute(p->primitive, p->onednn->stream, setup->bias ? 5 : 4, arguments),
       "running");
  CALL(dnnl_stream_wait(p->onednn->stream), "waiting");
  if (writes) TRY(finish_written_weights(p, w, workspace, error));
done:
  return status;
}
