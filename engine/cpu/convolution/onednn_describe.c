#include "engine/cpu/convolution/onednn_denylist.h"
#include "engine/cpu/convolution/onednn_internal.h"

/* --- Tensors ---------------------------------------------------------------------------------- */

enum { AXES = 5 };

/* Dims and strides of N C [T] H W (or O I [T] H W) over channels-last memory. With `planar`, T is
 * merged into N (or is 1), and left out. */
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

/* The descriptors of a primitive; its weights may have any layout. */
typedef struct Descriptions {
  dnnl_memory_desc_t x, y, bias, w;
  dnnl_dims_t stride, before, after;
} Descriptions;

static dnnl_status_t describe_all(const ConvSetup *setup, Descriptions *out,
                                  dnnl_memory_desc_t *given_weights) {
  const ConvGeometry *g = &setup->geometry;
  bool planar = conv_is_planar(g);
  DType x = setup->pass == PASS_BACKWARD_DATA ? setup->result : setup->operands;
  DType y = setup->pass == PASS_FORWARD ? setup->result : setup->operands;
  DType w = setup->pass == PASS_BACKWARD_WEIGHTS ? setup->result : setup->operands;
  Layout x_layout = layout_of(g->batch, g->in_channels, g->in, planar);
  Layout y_layout = layout_of(g->batch, g->out_channels, g->out, planar);
  Layout w_layout = layout_of(g->out_channels, g->in_channels, g->kernel, planar);
  Layout bias = {.count = 1, .dims = {g->out_channels}, .strides = {1}};
  for (int i = planar ? 1 : 0, to = 0; i < 3; i++, to++) {
    out->stride[to] = g->stride[i];
    out->before[to] = g->before[i];
    out->after[to] = g->after[i];
  }
  dnnl_status_t result = describe(&out->x, &x_layout, x);
  if (result == dnnl_success) result = describe(&out->y, &y_layout, y);
  if (result == dnnl_success) result = describe(&out->bias, &bias, DTYPE_F32);
  if (result == dnnl_success) result = describe(given_weights, &w_layout, w);
  if (result == dnnl_success) result = describe_any(&out->w, &w_layout, w);
  return result;
}

/* The scratchpad is the caller's; the activation is a post-op. */
static dnnl_status_t make_attributes(const ConvSetup *setup, dnnl_primitive_attr_t *out) {
  dnnl_post_ops_t post = NULL;
  dnnl_status_t result = dnnl_primitive_attr_create(out);
  if (result == dnnl_success)
    result = dnnl_primitive_attr_set_scratchpad_mode(*out, dnnl_scratchpad_mode_user);
  if (result != dnnl_success || setup->activation == ACTIVATION_NONE) return result;
  bool is_tanh = setup->activation == ACTIVATION_TANH;
  result = dnnl_post_ops_create(&post);
  if (result != dnnl_success) return result;
  result = dnnl_post_ops_append_eltwise(post, 1.0f, is_tanh ? dnnl_eltwise_tanh : dnnl_eltwise_relu,
                                        is_tanh ? 0.0f : setup->slope, 0.0f);
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

/* Backward primitives need a forward one as a hint. If x or y is f32 beside bf16 operands, the hint
 * is all bf16, since oneDNN has mixed dtypes for outputs only. */
static dnnl_status_t make_hint(const ConvSetup *setup, const Descriptions *all,
                               dnnl_engine_t engine, dnnl_primitive_desc_t *out) {
  dnnl_memory_desc_t x = all->x, w = all->w, y = all->y;
  x.data_type = w.data_type = y.data_type = data_type(setup->operands);
  dnnl_convolution_desc_t description;
  dnnl_status_t result = forward_description(setup, all, false, &x, &w, &y, &description);
  if (result != dnnl_success) return result;
  return dnnl_primitive_desc_create(out, &description, NULL, engine, NULL);
}

/* Chooses the first, fastest kernel that is not on the denylist. */
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
    if (result == dnnl_success && conv_kernel_is_allowed(setup, kernel)) {
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

Status conv_describe(const Onednn *onednn, const ConvSetup *setup, ConvDescription *out,
                     Error *error) {
  Status status = OK;
  dnnl_primitive_attr_t attributes = NULL;
  Descriptions all;
  *out = (ConvDescription){0};
  ONEDNN_TRY(setup, describe_all(setup, &all, &out->given_weights), "describing the tensors");
  ONEDNN_TRY(setup, make_attributes(setup, &attributes), "creating the attributes");
  ONEDNN_TRY(setup, make_description(setup, &all, onednn->engine, attributes, &out->primitive),
             "finding a primitive");
  out->x = all.x;
  out->y = all.y;
  out->bias = all.bias;
  out->scratchpad = *dnnl_primitive_desc_query_md(out->primitive, dnnl_query_scratchpad_md, 0);
  out->wanted_weights = *dnnl_primitive_desc_query_md(
      out->primitive,
      setup->pass == PASS_BACKWARD_WEIGHTS ? dnnl_query_diff_weights_md : dnnl_query_weights_md, 0);
done:
  if (attributes) dnnl_primitive_attr_destroy(attributes);
  return status;
}
