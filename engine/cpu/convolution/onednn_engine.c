#ifdef _OPENMP
#include <omp.h>
#endif

#include "engine/cpu/convolution/onednn_internal.h"

/* --- Errors ----------------------------------------------------------------------------------- */

const char *onednn_status_text(dnnl_status_t status) {
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
  shape_text(shape_make(g->out_channels, g->kernel[0], g->kernel[1], g->kernel[2], g->in_channels),
             w);
  shape_text(shape_make(g->batch, g->out[0], g->out[1], g->out[2], g->out_channels), y);
  return error_set(error, ERROR_INTERNAL, "%s: %s: oneDNN: %s (x %s, w %s, y %s, %s): %s",
                   setup->name, setup->kind_name, doing, x, w, y, dtype_name(setup->operands),
                   onednn_status_text(code));
}

/* --- Threads ---------------------------------------------------------------------------------- */

void onednn_use_threads(const Onednn *onednn) {
#ifdef _OPENMP
  if (omp_get_max_threads() != onednn->threads) omp_set_num_threads(onednn->threads);
#else
  (void)onednn;
#endif
}

/* --- The processor ---------------------------------------------------------------------------- */

/* Instruction sets are bit masks: a set contains another one if it contains all of its bits. */
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
