#include "engine/cuda/autotune/plan_cache.h"

#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"

enum { MOST_BYTES = 64 << 20 };

char *cudnn_store_path(const char *folder, const char *key) {
  return mem_format("%s/conv-%08x.json", folder, (unsigned)crc32c(0, key, strlen(key)));
}

bool cudnn_store_has(const char *folder, const char *key) {
  char *path = cudnn_store_path(folder, key);
  const bool is_there = path_exists(path);
  free(path);
  return is_there;
}

Status cudnn_store_write(const char *folder, const char *key, const ConvolutionForm *form,
                         const CudnnPlan *plan, Error *error) {
  Status status = OK;
  char name[64], *text = NULL, *path = cudnn_store_path(folder, key);
  json_t *root = NULL;
  TRY(folder_create(folder, error));
  TRY(cudnn_plan_json(plan, &text, error));
  root = json_pack("{s:s, s:s, s:I, s:s, s:b, s:s}", "key", key, "form",
                   convolution_form_name(form, name), "engine", (json_int_t)plan->engine, "details",
                   plan->details, "tensor_cores", (int)plan->tensor_cores, "plan", text);
  if (!root) FAIL(error, ERROR_INTERNAL, "%s: the plan is no text that JSON can hold", path);
  TRY(json_write_file(path, root, error));
done:
  if (root) json_decref(root);
  free(text);
  free(path);
  return status;
}

static Status find_form(const char *path, const Convolution *convolution, const char *name,
                        ConvolutionForm *form, Error *error) {
  ConvolutionForm forms[CONVOLUTION_MAX_FORMS];
  char other[64];
  const int count = convolution_forms(convolution, forms);
  for (int i = 0; i < count; i++) {
    if (strcmp(convolution_form_name(&forms[i], other), name) != 0) continue;
    *form = forms[i];
    return OK;
  }
  return error_set(error, ERROR_DATA, "%s: form: \"%s\" is none of this convolution's", path, name);
}

Status cudnn_store_read(const char *folder, const char *key, const Convolution *convolution,
                        const CudnnTarget *target, const CudnnRules *rules, ConvolutionForm *form,
                        CudnnPlan **out, Error *error) {
  Status status = OK;
  json_t *root = NULL;
  CudnnPlan *plan = NULL;
  const char *found = NULL, *name = NULL, *details = NULL, *text = NULL;
  int64_t engine = 0;
  char *path = cudnn_store_path(folder, key);
  *out = NULL;
  if (!path_exists(path)) goto done;
  TRY(json_read_file(path, MOST_BYTES, &root, error));
  TRY(json_get_string(root, path, "key", &found, error));
  if (strcmp(found, key) != 0)
    FAIL(error, ERROR_DATA, "%s: key: \"%s\" found, \"%s\" expected", path, found, key);
  TRY(json_get_string(root, path, "form", &name, error));
  TRY(find_form(path, convolution, name, form, error));
  TRY(json_get_int(root, path, "engine", 0, INT64_MAX, &engine, error));
  TRY(json_get_string(root, path, "details", &details, error));
  TRY(json_get_string(root, path, "plan", &text, error));
  TRY(cudnn_plan_load(target, text, rules, &plan, error));
  plan->engine = engine;
  plan->details = mem_string(details);
  plan->tensor_cores = json_is_true(json_object_get(root, "tensor_cores"));
  *out = plan;
done:
  if (root) json_decref(root);
  free(path);
  return status;
}
