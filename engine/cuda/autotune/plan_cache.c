#include "engine/cuda/autotune/plan_cache.h"

#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"

enum { MAX_FILE_BYTES = 64 << 20 };

static char *file_path(const char *folder, const char *key) {
  return mem_format("%s/plan-%08x.json", folder, (unsigned)crc32c(0, key, strlen(key)));
}

Status plan_cache_write(const char *folder, const char *key, const ConvVariant *variant,
                        const CudnnPlan *plan, Error *error) {
  Status status = OK;
  char name[64], *text = NULL, *path = file_path(folder, key);
  json_t *root = NULL;
  TRY(folder_create(folder, error));
  TRY(cudnn_plan_json(plan, &text, error));
  root = json_pack("{s:s, s:s, s:I, s:s, s:b, s:s}", "key", key, "variant",
                   conv_variant_name(variant, name), "engine", (json_int_t)plan->engine, "details",
                   plan->details, "tensor_cores", (int)plan->tensor_cores, "plan", text);
  if (!root) FAIL(error, ERROR_INTERNAL, "%s: the plan's text is not valid UTF-8", path);
  TRY(json_write_file(path, root, error));
done:
  if (root) json_decref(root);
  free(text);
  free(path);
  return status;
}

static Status find_variant(const char *path, const Convolution *convolution, const char *name,
                           ConvVariant *variant, Error *error) {
  ConvVariant variants[CONV_MAX_VARIANTS];
  char other[64];
  const int count = conv_variants(convolution, variants);
  for (int i = 0; i < count; i++) {
    if (strcmp(conv_variant_name(&variants[i], other), name) != 0) continue;
    *variant = variants[i];
    return OK;
  }
  return error_set(error, ERROR_DATA, "%s: variant: \"%s\" is not one of this convolution", path,
                   name);
}

Status plan_cache_read(const char *folder, const char *key, const Convolution *convolution,
                       const CudnnTarget *target, const CudnnConstraints *constraints,
                       ConvVariant *variant, CudnnPlan **out, Error *error) {
  Status status = OK;
  json_t *root = NULL;
  CudnnPlan *plan = NULL;
  const char *found = NULL, *name = NULL, *details = NULL, *text = NULL;
  int64_t engine = 0;
  bool exists;
  char *path = file_path(folder, key);
  *out = NULL;
  TRY(path_exists(path, &exists, error));
  if (!exists) goto done;
  TRY(json_read_file(path, MAX_FILE_BYTES, &root, error));
  TRY(json_get_string(root, path, "key", &found, error));
  if (strcmp(found, key) != 0)
    FAIL(error, ERROR_DATA, "%s: key: \"%s\" found, \"%s\" expected", path, found, key);
  TRY(json_get_string(root, path, "variant", &name, error));
  TRY(find_variant(path, convolution, name, variant, error));
  TRY(json_get_int(root, path, "engine", 0, INT64_MAX, &engine, error));
  TRY(json_get_string(root, path, "details", &details, error));
  TRY(json_get_string(root, path, "plan", &text, error));
  TRY(cudnn_plan_load(target, text, constraints, &plan, error));
  plan->engine = engine;
  plan->details = mem_string(details);
  plan->tensor_cores = json_is_true(json_object_get(root, "tensor_cores"));
  *out = plan;
done:
  if (root) json_decref(root);
  free(path);
  return status;
}
