#include "engine/cpu/convolution/onednn.h"

#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "base/memory.h"
#include "engine/cpu/convolution/onednn_internal.h"

/* --- Errors ----------------------------------------------------------------------------------- */

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

Status onednn_error(const ConvSetup *setup, const char *doing, dnnl_status_t code, Error *error) {
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
  *out = NULL;
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

void onednn_free(Onednn *onednn) {
  if (!onednn) return;
  reordered_weights_free(onednn->reordered);
  if (onednn->stream) dnnl_stream_destroy(onednn->stream);
  if (onednn->engine) dnnl_engine_destroy(onednn->engine);
  free(onednn);
}

void onednn_use_threads(const Onednn *onednn) {
#ifdef _OPENMP
  if (omp_get_max_threads() != onednn->threads) omp_set_num_threads(onednn->threads);
#else
  (void)onednn;
#endif
}

/* --- The processor ---------------------------------------------------------------------------- */

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
