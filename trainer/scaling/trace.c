#include "trainer/scaling/trace.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

enum { MAX_BYTES = 1 << 28 };
static const double LARGEST_NUMBER = 1e18;
static const char FORMAT[] = "celforge-step-trace";

void step_trace_append(StepTrace *trace, const TraceOp *op) {
  MEM_PUSH_SLOT(trace->ops, trace->count, trace->capacity);
  trace->ops[trace->count++] = *op;
}

void step_trace_free(StepTrace *trace) {
  free(trace->ops);
  *trace = (StepTrace){0};
}

void step_trace_scale(StepTrace *trace, double seconds) {
  double sum = 0;
  for (int i = 0; i < trace->count; i++) sum += trace->ops[i].seconds;
  if (sum <= 0) return;
  for (int i = 0; i < trace->count; i++) trace->ops[i].seconds *= seconds / sum;
}

/* --- In a file -------------------------------------------------------------------------------- */

/* A number that may be left out. Sums of as many as a file can hold stay finite. */
static Status get_number(const json_t *object, const char *where, const char *key, double *out,
                         Error *error) {
  if (!json_object_get(object, key)) return OK;
  Status status = json_get_double(object, where, key, out, error);
  if (status != OK) return status;
  if (!(*out >= 0 && *out <= LARGEST_NUMBER))
    return error_set(error, ERROR_DATA, "%s: %s is %g; must be 0 to %g", where, key, *out,
                     LARGEST_NUMBER);
  return OK;
}

static Status get_bool(const json_t *object, const char *where, const char *key, bool *out,
                       Error *error) {
  const json_t *value = json_object_get(object, key);
  if (!value) return OK;
  if (!json_is_boolean(value))
    return error_set(error, ERROR_DATA, "%s: %s must be true or false", where, key);
  *out = json_is_true(value);
  return OK;
}

static Status parse_op(const json_t *json, const char *where, TraceOp *op, Error *error) {
  Status status = OK;
  const char *name = NULL;
  *op = (TraceOp){0};
  TRY(json_get_string(json, where, "name", &name, error));
  snprintf(op->name, sizeof op->name, "%s", name);
  TRY(get_number(json, where, "seconds", &op->seconds, error));
  TRY(get_number(json, where, "flops", &op->flops, error));
  TRY(get_number(json, where, "bytes", &op->bytes, error));
  TRY(get_number(json, where, "reduces", &op->reduces, error));
  TRY(get_bool(json, where, "waits", &op->waits, error));
done:
  return status;
}

static Status parse_ops(const json_t *list, const char *path, StepTrace *trace, Error *error) {
  Status status = OK;
  for (size_t i = 0; status == OK && i < json_array_size(list); i++) {
    const json_t *item = json_array_get(list, i);
    char *where = mem_format("%s: ops[%zu]", path, i);
    TraceOp op;
    if (!json_is_object(item))
      status = error_set(error, ERROR_DATA, "%s: must be an object", where);
    if (status == OK) status = parse_op(item, where, &op, error);
    if (status == OK) step_trace_append(trace, &op);
    if (status == OK) trace->measured = trace->measured || op.seconds > 0;
    free(where);
  }
  return status;
}

static Status parse(const json_t *json, const char *path, StepTrace *trace, Error *error) {
  Status status = OK;
  const char *format = NULL, *name = NULL, *precision = NULL;
  json_t *list = NULL;
  TRY(json_get_string(json, path, "format", &format, error));
  if (strcmp(format, FORMAT) != 0)
    FAIL(error, ERROR_DATA, "%s: format is \"%s\"; must be \"%s\"", path, format, FORMAT);
  TRY(json_get_string(json, path, "name", &name, error));
  TRY(json_get_string(json, path, "precision", &precision, error));
  bool half = strcmp(precision, "bf16") == 0;
  if (!half && strcmp(precision, "f32") != 0)
    FAIL(error, ERROR_DATA, "%s: precision is \"%s\"; must be \"f32\" or \"bf16\"", path,
         precision);
  snprintf(trace->name, sizeof trace->name, "%s", name);
  trace->bf16 = half;
  TRY(json_get_int(json, path, "clips", 1, 1 << 20, &trace->clips, error));
  if (json_object_get(json, "threads"))
    TRY(json_get_int(json, path, "threads", 1, 65536, &trace->threads, error));
  TRY(get_number(json, path, "clip_bytes", &trace->clip_bytes, error));
  TRY(get_number(json, path, "state_bytes", &trace->state_bytes, error));
  TRY(get_number(json, path, "batches_ahead", &trace->batches_ahead, error));
  TRY(get_number(json, path, "checkpoint_every", &trace->checkpoint_every, error));
  TRY(get_bool(json, path, "overlap", &trace->overlap, error));
  TRY(json_get_array(json, path, "ops", &list, error));
  TRY(parse_ops(list, path, trace, error));
  if (trace->count == 0) FAIL(error, ERROR_DATA, "%s: ops is empty; must hold at least one", path);
done:
  return status;
}

Status step_trace_read(const char *path, StepTrace *trace, Error *error) {
  json_t *json = NULL;
  *trace = (StepTrace){.threads = 1, .batches_ahead = 1, .overlap = true};
  Status status = json_read_file(path, MAX_BYTES, &json, error);
  if (status == OK) status = parse(json, path, trace, error);
  if (status != OK) step_trace_free(trace);
  json_decref(json);
  return status;
}

Status step_trace_write(const StepTrace *trace, const char *path, Error *error) {
  json_t *ops = json_array();
  for (int i = 0; i < trace->count; i++) {
    const TraceOp *op = &trace->ops[i];
    json_array_append_new(ops, json_pack("{s:s, s:f, s:f, s:f, s:f, s:b}", "name", op->name,
                                         "seconds", op->seconds, "flops", op->flops, "bytes",
                                         op->bytes, "reduces", op->reduces, "waits", op->waits));
  }
  json_t *json = json_pack("{s:s, s:s, s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:b, s:o}", "format",
                           FORMAT, "name", trace->name, "precision", trace->bf16 ? "bf16" : "f32",
                           "clips", (json_int_t)trace->clips, "threads", (json_int_t)trace->threads,
                           "clip_bytes", trace->clip_bytes, "state_bytes", trace->state_bytes,
                           "batches_ahead", trace->batches_ahead, "checkpoint_every",
                           trace->checkpoint_every, "overlap", trace->overlap, "ops", ops);
  Status status = json_write_file(path, json, error);
  json_decref(json);
  return status;
}
