/* Some bf16 kernels of oneDNN 2.6 give wrong results, different from run to run, for unusual
 * shapes. They were found with random shapes against plain loops, on a processor with AMX; the f32
 * kernels were right for the same shapes. The rules here are wider than the failures found. The
 * networks of this project are affected only where a stride leaves a column over. */
#include "engine/cpu/convolution/onednn_denylist.h"

#include <string.h>

bool conv_is_planar(const ConvGeometry *g) {
  return g->kernel[0] == 1 && g->stride[0] == 1 && g->before[0] == 0 && g->after[0] == 0;
}

/* True if some kernel position reads padding only. */
static bool has_idle_position(const ConvGeometry *g) {
  for (int i = 0; i < 3; i++)
    for (int64_t position = 0; position < g->kernel[i]; position++) {
      bool idle = true;
      for (int64_t out = 0; out < g->out[i] && idle; out++) {
        int64_t at = out * g->stride[i] + position - g->before[i];
        idle = at < 0 || at >= g->in[i];
      }
      if (idle) return true;
    }
  return false;
}

/* True if some input pixels are skipped between the positions of the kernel. */
static bool has_gaps(const ConvGeometry *g) {
  for (int i = 0; i < 3; i++)
    if (g->kernel[i] < g->stride[i]) return true;
  return false;
}

/* True if the kernel fits into the frame and no row or column is left over. */
static bool covers_frame(const ConvGeometry *g) {
  for (int i = 1; i < 3; i++)
    if (g->after[i] < 0 || g->in[i] < g->kernel[i]) return false;
  return true;
}

static bool begins_with(const char *text, const char *start) {
  return strncmp(text, start, strlen(start)) == 0;
}

bool conv_kernel_is_allowed(const ConvSetup *setup, const char *kernel) {
  const ConvGeometry *g = &setup->geometry;
  bool amx = strstr(kernel, "amx") != NULL;
  if (setup->operands != DTYPE_BF16) return true;
  if (begins_with(kernel, "x64:gemm") || begins_with(kernel, "ref")) return true;
  switch (setup->pass) {
  case PASS_FORWARD:
    if (amx && begins_with(kernel, "brgconv")) return covers_frame(g) && !has_gaps(g);
    if (amx) return conv_is_planar(g) && !has_gaps(g);
    break;
  case PASS_BACKWARD_DATA:
    break;
  case PASS_BACKWARD_WEIGHTS:
    if (has_idle_position(g) || g->stride[0] > 1) return false;
    break;
  }
  return !has_gaps(g) || begins_with(kernel, "jit_bf16:");
}
