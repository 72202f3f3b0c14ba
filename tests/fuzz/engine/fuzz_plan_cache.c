/* Reads any bytes as a file of the plan cache, without a GPU: cuDNN is replaced by a function that
 * takes any plan. It returns a plan whose variant the convolution has, or an error. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "engine/cuda/autotune/plan_cache.h"
#include "tests/fuzz/support/fuzz.h"

static const char KEY[] = "cuDNN 91900, convolution";

/* --- In place of engine/cuda/cudnn/cudnn_plan.c ----------------------------------------------- */

Status cudnn_plan_load(const CudnnTarget *target, const char *json,
                       const CudnnConstraints *constraints, CudnnPlan **out, Error *error) {
  (void)target;
  (void)constraints;
  *out = NULL;
  if (strstr(json, "damaged")) return error_set(error, ERROR_INTERNAL, "CUDNN_STATUS_BAD_PARAM");
  *out = mem_new(1, sizeof **out);
  return OK;
}

Status cudnn_plan_json(const CudnnPlan *plan, char **out, Error *error) {
  (void)plan;
  (void)error;
  *out = mem_string("{}");
  return OK;
}

void cudnn_plan_free(CudnnPlan *plan) {
  if (plan) free(plan->details);
  free(plan);
}

/* ---------------------------------------------------------------------------------------------- */

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed) {
  static const char *const WORDS[] = {"\"cuDNN 91900, convolution\"",
                                      "\"frames+fused\"",
                                      "\"frames\"",
                                      "\"plain\"",
                                      "\"frames+aligned+x_im2col_tw+bf16_wgrad\"",
                                      "\"damaged\"",
                                      "\"tensor_cores\":true",
                                      NULL};
  Dice dice = dice_new(seed);
  return mutate_json(data, size, room, WORDS, &dice);
}

static bool has_variant(const Convolution *convolution, const ConvVariant *variant) {
  ConvVariant variants[CONV_MAX_VARIANTS];
  char name[64], other[64];
  int count = conv_variants(convolution, variants);
  for (int i = 0; i < count; i++)
    if (strcmp(conv_variant_name(&variants[i], other), conv_variant_name(variant, name)) == 0)
      return true;
  return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const Convolution convolution = {.pass = CONVOLUTION_FORWARD,
                                   .x = {{2, 1, 64, 64, 3}},
                                   .w = {{16, 1, 3, 3, 3}},
                                   .y = {{2, 1, 64, 64, 16}},
                                   .stride = {1, 1, 1},
                                   .before = {0, 1, 1},
                                   .after = {0, 1, 1},
                                   .bias = true};
  const CudnnTarget target = {0};
  const CudnnConstraints constraints = {0};
  ConvVariant variant = {0};
  CudnnPlan *plan = NULL;
  Error error = {0};
  memory_files_set(data, size);
  Status status = plan_cache_read(MEMORY_FILES "plans", KEY, &convolution, &target, &constraints,
                                  &variant, &plan, &error);
  if (status == OK) {
    require(plan && plan->details && plan->engine >= 0 && has_variant(&convolution, &variant));
  } else {
    require(!plan);
    require_error(status, &error);
  }
  cudnn_plan_free(plan);
  return 0;
}
