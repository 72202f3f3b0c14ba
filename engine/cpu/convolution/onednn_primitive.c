#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "engine/cpu/convolution/onednn_internal.h"
#include "engine/cpu/cpu.h"

struct ConvPrimitive {
  Onednn *onednn;
  ConvSetup setup;
  char *name; /* owned; setup.name points to it */
  dnnl_primitive_t primitive;
  dnnl_memory_t x, y, bias, scratchpad;
  size_t x_bytes;
  size_t scratchpad_bytes; /* first part of the workspace; the weights follow */
  WeightPath weights;
};

static Status make_memories(ConvPrimitive *made, const ConvDescription *description, Error *error) {
  Status status = OK;
  const struct {
    dnnl_memory_t *memory;
    const dnnl_memory_desc_t *description;
  } items[] = {
      {&made->x, &description->x},
      {&made->y, &description->y},
      {&made->bias, &description->bias},
      {&made->scratchpad, &description->scratchpad},
  };
  for (size_t i = 0; i < sizeof items / sizeof *items; i++)
    ONEDNN_TRY(&made->setup,
               dnnl_memory_create(items[i].memory, items[i].description, made->onednn->engine,
                                  DNNL_MEMORY_NONE),
               "describing memory");
done:
  return status;
}

Status conv_primitive_new(Onednn *onednn, const ConvSetup *setup, ConvPrimitive **out,
                          Error *error) {
  Status status = OK;
  ConvDescription description = {0};
  *out = NULL;
  ConvPrimitive *made = mem_new(1, sizeof *made);
  made->onednn = onednn;
  made->setup = *setup;
  made->name = mem_string(setup->name ? setup->name : "convolution");
  made->setup.name = made->name;
  onednn_use_threads(onednn);
  TRY(conv_describe(onednn, &made->setup, &description, error));
  ONEDNN_TRY(&made->setup, dnnl_primitive_create(&made->primitive, description.primitive),
             "creating the primitive");
  made->scratchpad_bytes = memory_align(dnnl_memory_desc_get_size(&description.scratchpad));
  made->x_bytes = dnnl_memory_desc_get_size(&description.x);
  TRY(make_memories(made, &description, error));
  TRY(weight_path_init(&made->weights, onednn, &made->setup, &description, error));
  *out = made;
done:
  if (description.primitive) dnnl_primitive_desc_destroy(description.primitive);
  if (status != OK) conv_primitive_free(made);
  return status;
}

void conv_primitive_free(ConvPrimitive *primitive) {
  if (!primitive) return;
  weight_path_free(&primitive->weights);
  dnnl_memory_t memories[] = {primitive->x, primitive->y, primitive->bias, primitive->scratchpad};
  for (size_t i = 0; i < sizeof memories / sizeof *memories; i++)
    if (memories[i]) dnnl_memory_destroy(memories[i]);
  if (primitive->primitive) dnnl_primitive_destroy(primitive->primitive);
  free(primitive->name);
  free(primitive);
}

size_t conv_primitive_workspace(const ConvPrimitive *primitive) {
  return primitive->scratchpad_bytes + weight_path_workspace(&primitive->weights);
}

static Status set_addresses(const ConvPrimitive *p, void *x, void *y, void *bias, void *scratchpad,
                            Error *error) {
  Status status = OK;
  const ConvSetup *setup = &p->setup;
  const char *doing = "setting an address";
  ONEDNN_TRY(setup, dnnl_memory_set_data_handle(p->x, x), doing);
  ONEDNN_TRY(setup, dnnl_memory_set_data_handle(p->y, y), doing);
  ONEDNN_TRY(setup, dnnl_memory_set_data_handle(p->scratchpad, scratchpad), doing);
  if (setup->bias) ONEDNN_TRY(setup, dnnl_memory_set_data_handle(p->bias, bias), doing);
done:
  return status;
}

static Status execute(const ConvPrimitive *p, dnnl_memory_t weights, Error *error) {
  static const int names[][4] = {
      [PASS_FORWARD] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_BIAS},
      [PASS_BACKWARD_DATA] = {DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST, 0},
      [PASS_BACKWARD_WEIGHTS] = {DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST,
                                 DNNL_ARG_DIFF_BIAS},
  };
  Status status = OK;
  const ConvSetup *setup = &p->setup;
  const int *name = names[setup->pass];
  dnnl_stream_t stream = p->onednn->stream;
  dnnl_exec_arg_t arguments[] = {{name[0], p->x},
                                 {name[1], weights},
                                 {name[2], p->y},
                                 {DNNL_ARG_SCRATCHPAD, p->scratchpad},
                                 {name[3], p->bias}};
  ONEDNN_TRY(setup, dnnl_primitive_execute(p->primitive, stream, setup->bias ? 5 : 4, arguments),
             "running");
  ONEDNN_TRY(setup, dnnl_stream_wait(stream), "waiting");
done:
  return status;
}

Status conv_primitive_run(ConvPrimitive *p, void *x, void *w, const Buffer *buffer, void *bias,
                          void *y, void *workspace, Error *error) {
  Status status = OK;
  const ConvSetup *setup = &p->setup;
  const bool writes = setup->pass == PASS_BACKWARD_WEIGHTS;
  char *weights_workspace = (char *)workspace + p->scratchpad_bytes;
  dnnl_memory_t weights = NULL;
  onednn_use_threads(p->onednn);
  /* A bf16 kernel leaves the gradient of frames that the kernel does not reach unwritten. */
  if (setup->pass == PASS_BACKWARD_DATA && setup->geometry.after[0] < 0) memset(x, 0, p->x_bytes);
  if (writes)
    TRY(weight_path_place(&p->weights, w, weights_workspace, &weights, error));
  else
    TRY(weight_path_read(&p->weights, w, buffer, weights_workspace, &weights, error));
  TRY(set_addresses(p, x, y, bias, workspace, error));
  TRY(execute(p, weights, error));
  if (writes) TRY(weight_path_finish(&p->weights, w, weights_workspace, error));
done:
  return status;
}
