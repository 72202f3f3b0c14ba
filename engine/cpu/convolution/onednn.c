#include "engine/cpu/convolution/onednn.h"

#include <stdlib.h>

#include "base/memory.h"
#include "engine/cpu/convolution/onednn_internal.h"

Status onednn_new(int threads, Onednn **out, Error *error) {
  Status status = OK;
  *out = NULL;
  Onednn *onednn = mem_new(1, sizeof *onednn);
  onednn->threads = threads;
  dnnl_status_t result = dnnl_engine_create(&onednn->engine, dnnl_cpu, 0);
  if (result == dnnl_success)
    result = dnnl_stream_create(&onednn->stream, onednn->engine, dnnl_stream_default_flags);
  if (result != dnnl_success)
    FAIL(error, ERROR_INTERNAL, "oneDNN: cannot create the CPU engine: %s",
         onednn_status_text(result));
  *out = onednn;
done:
  if (status != OK) onednn_free(onednn);
  return status;
}

void onednn_free(Onednn *onednn) {
  if (!onednn) return;
  reordered_weights_free(onednn->reordered);
  if (onednn->stream) dnnl_stream_destroy(onednn->stream);
  if (onednn->engine) dnnl_engine_destroy(onednn->engine);
  free(onednn);
}
