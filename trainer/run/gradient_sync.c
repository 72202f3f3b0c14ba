#include "trainer/run/gradient_sync.h"

#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/memory.h"
#include "comm/nccl.h"
#include "trainer/gan/device.h"

/* A slice of the flat gradient on a device. It has the same address in every step. */
typedef struct Bucket {
  void *data;
  int64_t count;
  DType dtype;
  Readback *readback;     /* MPI: copies the bucket to the host */
  void *host;             /* MPI: the copy that is all-reduced */
  void *wire;             /* NCCL with comm.gradients bf16: the rounded copy that is all-reduced */
  Kernel *narrow, *widen; /* NCCL with comm.gradients bf16: casts to `wire` and back */
} Bucket;

enum { MAX_BUCKETS = 4096 };

struct GradientSync {
  const Config *config;
  Comm *comm;
  Backend *backend;
  Nccl *nccl; /* NULL: MPI is used */
  bool is_needed;
  Collectives collectives;
  int bucket_count, pending_count;
  Bucket buckets[MAX_BUCKETS];
  int pending[MAX_BUCKETS]; /* indices of the buckets started since the last wait */
  double exposed;           /* NCCL's, so far */
};

static CommType comm_type(DType dtype) {
  return dtype == DTYPE_BF16 ? COMM_BF16 : COMM_F32;
}

/* --- MPI, gradients in host memory ------------------------------------------------------------ */

static Status cpu_start(void *context, void *data, int64_t count, DType dtype, void *stream,
                        Error *error) {
  (void)stream;
  const GradientSync *sync = context;
  return comm_all_reduce_mean_start(sync->comm, data, count, comm_type(dtype), error);
}

static Status cpu_wait(void *context, void *stream, Error *error) {
  (void)stream;
  const GradientSync *sync = context;
  return comm_all_reduce_mean_wait(sync->comm, error);
}

/* --- Buckets ---------------------------------------------------------------------------------- */

static Status add_bucket(GradientSync *sync, void *data, int64_t count, DType dtype, Bucket **out,
                         Error *error) {
  if (sync->bucket_count == MAX_BUCKETS)
    return error_set(error, ERROR_USAGE,
                     "more than %d gradient buckets; choose a larger comm.bucket_mib", MAX_BUCKETS);
  *out = &sync->buckets[sync->bucket_count++];
  **out = (Bucket){.data = data, .count = count, .dtype = dtype};
  return OK;
}

static Bucket *find_bucket(GradientSync *sync, const void *data, int64_t count, DType dtype) {
  for (int i = 0; i < sync->bucket_count; i++) {
    Bucket *bucket = &sync->buckets[i];
    if (bucket->data == data && bucket->count == count && bucket->dtype == dtype) return bucket;
  }
  return NULL;
}

/* Fails if there is no wait between the steps: then a bucket is started twice. */
static Status push_pending(GradientSync *sync, const Bucket *bucket, Error *error) {
  if (sync->pending_count == MAX_BUCKETS)
    return error_set(error, ERROR_INTERNAL,
                     "gradient sync: more than %d all-reduces started without a wait", MAX_BUCKETS);
  sync->pending[sync->pending_count++] = (int)(bucket - sync->buckets);
  return OK;
}

static void free_bucket(const GradientSync *sync, Bucket *bucket) {
  Backend *backend = sync->backend;
  if (bucket->readback) backend->readback_free(backend, bucket->readback);
  if (bucket->wire) backend->release(backend, bucket->wire);
  if (bucket->narrow) bucket->narrow->free(bucket->narrow);
  if (bucket->widen) bucket->widen->free(bucket->widen);
  free(bucket->host);
}

/* --- MPI, gradients on a device --------------------------------------------------------------- */

static size_t bucket_bytes(const Bucket *bucket) {
  return (size_t)bucket->count * dtype_size(bucket->dtype);
}

static Status open_staging(GradientSync *sync, Bucket *bucket, Error *error) {
  Status status = OK;
  Backend *backend = sync->backend;
  TRY(backend->readback_new(backend, bucket_bytes(bucket), &bucket->readback, error));
  TRY(mem_bulk(bucket_bytes(bucket), "gradients on the host", &bucket->host, error));
done:
  return status;
}

static Status staged_start(void *context, void *data, int64_t count, DType dtype, void *stream,
                           Error *error) {
  (void)stream;
  Status status = OK;
  GradientSync *sync = context;
  Bucket *bucket = find_bucket(sync, data, count, dtype);
  if (!bucket) {
    TRY(add_bucket(sync, data, count, dtype, &bucket, error));
    TRY(open_staging(sync, bucket, error));
  }
  TRY(sync->backend->readback_start(sync->backend, bucket->readback, data, error));
  status = push_pending(sync, bucket, error);
done:
  return status;
}

/* While one bucket is all-reduced, the next one is copied to the host. */
static Status staged_wait(void *context, void *stream, Error *error) {
  (void)stream;
  Status status = OK;
  GradientSync *sync = context;
  Backend *backend = sync->backend;
  for (int i = 0; i < sync->pending_count; i++) {
    const Bucket *bucket = &sync->buckets[sync->pending[i]];
    const void *arrived = NULL;
    TRY(backend->readback_wait(backend, bucket->readback, &arrived, error));
    memcpy(bucket->host, arrived, bucket_bytes(bucket));
    TRY(comm_all_reduce_mean_start(sync->comm, bucket->host, bucket->count,
                                   comm_type(bucket->dtype), error));
  }
  TRY(comm_all_reduce_mean_wait(sync->comm, error));
  for (int i = 0; i < sync->pending_count; i++) {
    const Bucket *bucket = &sync->buckets[sync->pending[i]];
    TRY(backend->upload(backend, bucket->data, bucket->host, bucket_bytes(bucket), error));
  }
done:
  sync->pending_count = 0;
  return status;
}

/* --- NCCL ------------------------------------------------------------------------------------- */

static Status cast_kernel(GradientSync *sync, const Bucket *bucket, DType from, DType to,
                          Kernel **out, Error *error) {
  const Op op = {.kind = OP_STORE, .name = (char *)"a bucket's cast", .input_count = 2};
  const Shape shape = shape_vector(bucket->count);
  const Tensor inputs[] = {{.shape = shape, .dtype = from}, {.shape = shape, .dtype = to}};
  return sync->backend->kernel_new(sync->backend, &op, inputs, NULL, out, error);
}

/* Gradients sent as bf16 are rounded into a separate buffer and widened after the all-reduce. */
static Status open_wire(GradientSync *sync, Bucket *bucket, Error *error) {
  Status status = OK;
  Backend *backend = sync->backend;
  if (sync->config->comm.gradients != PRECISION_BF16 || bucket->dtype != DTYPE_F32) goto done;
  size_t bytes = (size_t)bucket->count * dtype_size(DTYPE_BF16);
  TRY(backend->allocate(backend, bytes, "gradients as bf16", &bucket->wire, error));
  TRY(cast_kernel(sync, bucket, DTYPE_F32, DTYPE_BF16, &bucket->narrow, error));
  TRY(cast_kernel(sync, bucket, DTYPE_BF16, DTYPE_F32, &bucket->widen, error));
done:
  return status;
}

static Status cast(Kernel *kernel, const Bucket *bucket, bool narrow, Error *error) {
  const Shape shape = shape_vector(bucket->count);
  const Tensor wide = {.data = bucket->data, .shape = shape, .dtype = DTYPE_F32};
  const Tensor wire = {.data = bucket->wire, .shape = shape, .dtype = DTYPE_BF16};
  const Tensor inputs[] = {narrow ? wide : wire, narrow ? wire : wide};
  return kernel->run(kernel, inputs, NULL, NULL, error);
}

static Status nccl_start(void *context, void *data, int64_t count, DType dtype, void *stream,
                         Error *error) {
  Status status = OK;
  GradientSync *sync = context;
  Bucket *bucket = find_bucket(sync, data, count, dtype);
  if (!bucket) {
    TRY(add_bucket(sync, data, count, dtype, &bucket, error));
    TRY(open_wire(sync, bucket, error));
  }
  if (!bucket->wire)
    return nccl_all_reduce_mean_start(sync->nccl, data, count, comm_type(dtype), stream, error);
  TRY(cast(bucket->narrow, bucket, true, error));
  TRY(nccl_all_reduce_mean_start(sync->nccl, bucket->wire, count, COMM_BF16, stream, error));
  status = push_pending(sync, bucket, error);
done:
  return status;
}

static Status nccl_wait(void *context, void *stream, Error *error) {
  Status status = OK;
  GradientSync *sync = context;
  TRY(nccl_all_reduce_mean_wait(sync->nccl, stream, error));
  for (int i = 0; i < sync->pending_count; i++) {
    const Bucket *bucket = &sync->buckets[sync->pending[i]];
    TRY(cast(bucket->widen, bucket, false, error));
  }
done:
  sync->pending_count = 0;
  return status;
}

/* --- Opening and closing ---------------------------------------------------------------------- */

Status gradient_sync_open(const Config *config, Comm *comm, Backend *backend, GradientSync **out,
                          Error *error) {
  Status status = OK;
  GradientSync *sync = mem_new(1, sizeof *sync);
  *out = NULL;
  sync->config = config;
  sync->comm = comm;
  sync->backend = backend;
  sync->collectives = (Collectives){.context = sync};
  Collectives *table = &sync->collectives;
  if (device_uses_nccl(config, backend, comm_size(comm))) {
    NcclOptions options = {.reproducible = config->comm.reduce == COMM_REDUCE_REPRODUCIBLE,
                           .deterministic = config->cuda.deterministic,
                           .overlap = config->comm.overlap,
                           .timeout = config->comm.timeout};
    TRY(nccl_open(comm, &options, &sync->nccl, error));
    table->capturable = true;
    table->all_reduce_start = nccl_start;
    table->all_reduce_wait = nccl_wait;
  } else {
    bool on_cpu = strcmp(backend->name, "cpu") == 0;
    table->all_reduce_start = on_cpu ? cpu_start : staged_start;
    table->all_reduce_wait = on_cpu ? cpu_wait : staged_wait;
  }
  sync->is_needed = sync->nccl || comm_size(comm) > 1;
  *out = sync;
  sync = NULL;
done:
  gradient_sync_close(sync);
  return status;
}

void gradient_sync_close(GradientSync *sync) {
  if (!sync) return;
  for (int i = 0; i < sync->bucket_count; i++) free_bucket(sync, &sync->buckets[i]);
  nccl_close(sync->nccl);
  free(sync);
}

void gradient_sync_abort(GradientSync *sync) {
  if (sync) nccl_abort(sync->nccl);
}

const Collectives *gradient_sync_collectives(const GradientSync *sync) {
  return sync->is_needed ? &sync->collectives : NULL;
}

Status gradient_sync_register(GradientSync *sync, const Parameters *parameters, Error *error) {
  const Buffer *gradient = &parameters->gradient;
  if (!sync->nccl || !gradient->data) return OK;
  return nccl_register(sync->nccl, gradient->data, (size_t)gradient->count * sizeof(float), error);
}

Status gradient_sync_check(GradientSync *sync, Error *error) {
  return sync->nccl ? nccl_check(sync->nccl, error) : OK;
}

Status gradient_sync_exposed_seconds(GradientSync *sync, double *seconds, Error *error) {
  *seconds = comm_stats(sync->comm).exposed_seconds;
  if (!sync->nccl) return OK;
  double latest = 0;
  Status status = nccl_exposed_seconds(sync->nccl, &latest, error);
  sync->exposed += latest;
  *seconds = sync->exposed;
  return status;
}
