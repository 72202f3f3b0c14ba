#include <stdlib.h>

#include "base/bulk_memory.h"
#include "base/memory.h"
#include "engine/cpu/convolution/onednn_internal.h"
#include "engine/cpu/cpu.h"

/* A view of a buffer in the layout of some primitives. */
struct ReorderedWeights {
  ReorderedWeights *next;
  int users;
  const Buffer *buffer;
  const void *source; /* address of the view */
  uint64_t version;   /* of the buffer, when `data` was computed */
  bool valid;         /* `data` was computed */
  int64_t mirrored_width;
  dnnl_memory_desc_t layout;
  void *data;
  dnnl_memory_t memory;
};

/* --- Creating --------------------------------------------------------------------------------- */

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

Status weight_path_init(WeightPath *path, Onednn *onednn, const ConvSetup *setup,
                        const ConvDescription *description, Error *error) {
  Status status = OK;
  const ConvGeometry *g = &setup->geometry;
  const dnnl_memory_desc_t *given = &description->given_weights;
  const dnnl_memory_desc_t *wanted = &description->wanted_weights;
  const bool writes = setup->pass == PASS_BACKWARD_WEIGHTS;
  const bool mirrors = setup->mirrored_width > 1;
  *path = (WeightPath){.onednn = onednn, .setup = setup, .wanted_layout = *wanted};
  path->mirrors = mirrors;
  path->mirror = (MirrorShape){
      .out_channels = g->out_channels / (mirrors ? setup->mirrored_width : 1),
      .planes = g->kernel[0] * g->kernel[1],
      .kernel_width = setup->mirrored_width,
      .in_channels = g->in_channels,
  };
  if (mirrors) path->mirror_bytes = memory_align(dnnl_memory_desc_get_size(given));
  ONEDNN_TRY(setup, dnnl_memory_create(&path->given, given, onednn->engine, DNNL_MEMORY_NONE),
             "describing memory");
  ONEDNN_TRY(setup, dnnl_memory_create(&path->wanted, wanted, onednn->engine, DNNL_MEMORY_NONE),
             "describing memory");
  path->reorders = !dnnl_memory_desc_equal(given, wanted);
  if (path->reorders) {
    path->wanted_bytes = memory_align(dnnl_memory_desc_get_size(wanted));
    ONEDNN_TRY(setup,
               make_reorder(onednn->engine, writes ? wanted : given, writes ? given : wanted,
                            &path->reorder),
               "creating the reorder of the weights");
  }
done:
  return status;
}

static void reordered_free(ReorderedWeights *item) {
  if (item->memory) dnnl_memory_destroy(item->memory);
  free(item->data);
  free(item);
}

void reordered_weights_free(ReorderedWeights *list) {
  while (list) {
    ReorderedWeights *next = list->next;
    reordered_free(list);
    list = next;
  }
}

/* Frees the shared weights if this was their last user. */
static void release_shared(WeightPath *path) {
  ReorderedWeights *item = path->shared;
  path->shared = NULL;
  if (!item || --item->users > 0) return;
  ReorderedWeights **link = &path->onednn->reordered;
  while (*link != item) link = &(*link)->next;
  *link = item->next;
  reordered_free(item);
}

void weight_path_free(WeightPath *path) {
  release_shared(path);
  if (path->given) dnnl_memory_destroy(path->given);
  if (path->wanted) dnnl_memory_destroy(path->wanted);
  if (path->reorder) dnnl_primitive_destroy(path->reorder);
  *path = (WeightPath){0};
}

size_t weight_path_workspace(const WeightPath *path) {
  return path->mirror_bytes + path->wanted_bytes;
}

/* --- Reading ---------------------------------------------------------------------------------- */

static Status run_reorder(const WeightPath *path, dnnl_memory_t from, dnnl_memory_t to,
                          Error *error) {
  Status status = OK;
  dnnl_stream_t stream = path->onednn->stream;
  dnnl_exec_arg_t arguments[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
  ONEDNN_TRY(path->setup, dnnl_primitive_execute(path->reorder, stream, 2, arguments),
             "reordering the weights");
  ONEDNN_TRY(path->setup, dnnl_stream_wait(stream), "waiting for the reorder");
done:
  return status;
}

static Status set_address(const WeightPath *path, dnnl_memory_t memory, void *address,
                          Error *error) {
  Status status = OK;
  ONEDNN_TRY(path->setup, dnnl_memory_set_data_handle(memory, address),
             "setting the weights' address");
done:
  return status;
}

/* Converts `w` into the memory `to`; if no reorder is needed, `to` gets its address instead. */
static Status convert(const WeightPath *path, void *w, char *mirror_space, dnnl_memory_t to,
                      Error *error) {
  Status status = OK;
  if (path->mirrors) {
    mirror_weights(path->mirror, w, mirror_space, dtype_size(path->setup->operands));
    w = mirror_space;
  }
  if (path->reorders) {
    TRY(set_address(path, path->given, w, error));
    TRY(run_reorder(path, path->given, to, error));
  } else {
    TRY(set_address(path, to, w, error));
  }
done:
  return status;
}

/* The entry for this view in this layout, or NULL. */
static ReorderedWeights *find_shared(const WeightPath *path, const void *w, const Buffer *buffer) {
  ReorderedWeights *item = path->onednn->reordered;
  while (item && !(item->buffer == buffer && item->source == w &&
                   item->mirrored_width == path->setup->mirrored_width &&
                   dnnl_memory_desc_equal(&item->layout, &path->wanted_layout)))
    item = item->next;
  return item;
}

static Status add_shared(const WeightPath *path, const void *w, const Buffer *buffer,
                         ReorderedWeights **out, Error *error) {
  Status status = OK;
  const ConvSetup *setup = path->setup;
  ReorderedWeights *made = mem_new(1, sizeof *made);
  made->buffer = buffer;
  made->source = w;
  made->mirrored_width = setup->mirrored_width;
  made->layout = path->wanted_layout;
  TRY(mem_bulk(path->wanted_bytes, setup->name, &made->data, error));
  ONEDNN_TRY(setup,
             dnnl_memory_create(&made->memory, &made->layout, path->onednn->engine, made->data),
             "describing reordered weights");
  made->next = path->onednn->reordered;
  path->onednn->reordered = made;
  *out = made;
  made = NULL;
done:
  if (made) reordered_free(made);
  return status;
}

/* Sets path->shared to the entry for `w`, which is created if it does not exist. */
static Status use_shared(WeightPath *path, const void *w, const Buffer *buffer, Error *error) {
  Status status = OK;
  ReorderedWeights *item = path->shared;
  if (item && item->buffer == buffer && item->source == w) return OK;
  release_shared(path);
  item = find_shared(path, w, buffer);
  if (!item) TRY(add_shared(path, w, buffer, &item, error));
  item->users++;
  path->shared = item;
done:
  return status;
}

Status weight_path_read(WeightPath *path, void *w, const Buffer *buffer, char *workspace,
                        dnnl_memory_t *out, Error *error) {
  Status status = OK;
  *out = path->wanted;
  if (buffer && path->reorders) {
    TRY(use_shared(path, w, buffer, error));
    ReorderedWeights *shared = path->shared;
    *out = shared->memory;
    if (shared->valid && shared->version == buffer->version) return OK;
    shared->valid = false;
    TRY(convert(path, w, workspace, *out, error));
    shared->valid = true;
    shared->version = buffer->version;
  } else {
    if (path->reorders) TRY(set_address(path, *out, workspace + path->mirror_bytes, error));
    TRY(convert(path, w, workspace, *out, error));
  }
done:
  return status;
}

/* --- Writing ---------------------------------------------------------------------------------- */

Status weight_path_place(WeightPath *path, void *w, char *workspace, dnnl_memory_t *out,
                         Error *error) {
  Status status = OK;
  void *given = path->mirrors ? workspace : w;
  void *wanted = path->reorders ? workspace + path->mirror_bytes : given;
  TRY(set_address(path, path->given, given, error));
  TRY(set_address(path, path->wanted, wanted, error));
  *out = path->wanted;
done:
  return status;
}

Status weight_path_finish(WeightPath *path, void *w, char *workspace, Error *error) {
  Status status = OK;
  if (path->reorders) TRY(run_reorder(path, path->wanted, path->given, error));
  if (path->mirrors) unmirror_weights(path->mirror, workspace, w, dtype_size(path->setup->result));
done:
  return status;
}
