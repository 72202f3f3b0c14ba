#include "trainer/run/gradient_sync.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "comm/nccl.h"
#include "trainer/gan/device.h"

/* A bucket on a device: the same in every step, found again by its address. */
typedef struct Bucket {
  void *data;
  int64_t count;
  DType dtype;
  Readback *readback;     /* over MPI: its way to the host ... */
  void *host;             /* ... and what is averaged there */
  void *wire;             /* over NCCL as bf16: what travels, ... */
  Kernel *narrow, *widen; /* ... and the way there and back */
} Bucket;

enum { MAX_BUCKETS = 4096 };

struct Exchange {
  const Config *config;
  Comm *comm;
  Backend *backend;
  Nccl *nccl; /* NULL: over MPI */
  bool is_needed;
  Collectives collectives;
  int bucket_count, pending_count;
  Bucket buckets[MAX_BUCKETS];
  int pending[MAX_BUCKETS]; /* buckets started and not waited for */
  double exposed;           /* NCCL's, so far */
};

static CommType comm_type(DType dtype) {
  return dtype == DTYPE_BF16 ? COMM_BF16 : COMM_F32;
}

/* --- From the CPU's memory -------------------------------------------------------------------- */

static Status cpu_start(void *context, void *data, int64_t count, DType dtype, void *stream,
                        Error *error) {
  (void)stream;
  const Exchange *exchange = context;
  return comm_average_start(exchange->comm, data, count, comm_type(dtype), error);
}

static Status cpu_wait(void *context, void *stream, Error *error) {
  (void)stream;
  const Exchange *exchange = context;
  return comm_average_wait(exchange->comm, error);
}

/* --- Buckets ---------------------------------------------------------------------------------- */

static Status add_bucket(Exchange *exchange, void *data, int64_t count, DType dtype, Bucket **out,
                         Error *error) {
  if (exchange->bucket_count == MAX_BUCKETS)
    return error_set(error, ERROR_USAGE,
                     "more than %d buckets of gradients; choose a larger comm.bucket_mib",
                     MAX_BUCKETS);
  *out = &exchange->buckets[exchange->bucket_count++];
  **out = (Bucket){.data = data, .count = count, .dtype = dtype};
  return OK;
}

static Bucket *find_bucket(Exchange *exchange, const void *data, int64_t count, DType dtype) {
  for (int i = 0; i < exchange->bucket_count; i++) {
    Bucket *bucket = &exchange->buckets[i];
    if (bucket->data == data && bucket->count == count && bucket->dtype == dtype) return bucket;
  }
  return NULL;
}

static void free_bucket(const Exchange *exchange, Bucket *bucket) {
  Backend *backend = exchange->backend;
  if (bucket->readback) backend->readback_free(backend, bucket->readback);
  if (bucket->wire) backend->release(backend, bucket->wire);
  if (bucket->narrow) bucket->narrow->free(bucket->narrow);
  if (bucket->widen) bucket->widen->free(bucket->widen);
  free(bucket->host);
}

/* --- From a device, by way of the host -------------------------------------------------------- */

static size_t bucket_bytes(const Bucket *bucket) {
  return (size_t)bucket->count * dtype_size(bucket->dtype);
}

static Status open_staging(Exchange *exchange, Bucket *bucket, Error *error) {
  Status status = OK;
  Backend *backend = exchange->backend;
  TRY(backend->readback_new(backend, bucket_bytes(bucket), &bucket->readback, error));
  TRY(mem_bulk(bucket_bytes(bucket), "gradients on the host", &bucket->host, error));
done:
  return status;
}

static Status staged_start(void *context, void *data, int64_t count, DType dtype, void *stream,
                           Error *error) {
  (void)stream;
  Status status = OK;
  Exchange *exchange = context;
  Bucket *bucket = find_bucket(exchange, data, count, dtype);
  if (!bucket) {
    TRY(add_bucket(exchange, data, count, dtype, &bucket, error));
    TRY(open_staging(exchange, bucket, error));
  }
  TRY(exchange->backend->readback_start(exchange->backend, bucket->readback, data, error));
  exchange->pending[exchange->pending_count++] = (int)(bucket - exchange->buckets);
done:
  return status;
}

/* While one bucket is averaged the next comes down from the device. */
static Status staged_wait(void *context, void *stream, Error *error) {
  (void)stream;
  Status status = OK;
  Exchange *exchange = context;
  Backend *backend = exchange->backend;
  for (int i = 0; i < exchange->pending_count; i++) {
    const Bucket *bucket = &exchange->buckets[exchange->pending[i]];
    const void *arrived = NULL;
    TRY(backend->readback_wait(backend, bucket->readback, &arrived, error));
    memcpy(bucket->host, arrived, bucket_bytes(bucket));
    TRY(comm_average_start(exchange->comm, bucket->host, bucket->count, comm_type(bucket->dtype),
                           error));
  }
  TRY(comm_average_wait(exchange->comm, error));
  for (int i = 0; i < exchange->pending_count; i++) {
    const Bucket *bucket = &exchange->buckets[exchange->pending[i]];
    TRY(backend->upload(backend, bucket->data, bucket->host, bucket_bytes(bucket), error));
  }
done:
  exchange->pending_count = 0;
  return status;
}

/* --- Over NCCL -------------------------------------------------------------------------------- */

static Status cast_kernel(Exchange *exchange, const Bucket *bucket, DType from, DType to,
                          Kernel **out, Error *error) {
  const Op op = {.kind = OP_STORE, .name = (char *)"a bucket's cast", .input_count = 2};
  const Shape shape = shape_vector(bucket->count);
  const Tensor inputs[] = {{.shape = shape, .dtype = from}, {.shape = shape, .dtype = to}};
  return exchange->backend->kernel_new(exchange->backend, &op, inputs, NULL, out, error);
}

/* Gradients that travel as bf16 are rounded into memory of their own and widened behind the
 * average. */
static Status open_wire(Exchange *exchange, Bucket *bucket, Error *error) {
  Status status = OK;
  Backend *backend = exchange->backend;
  if (exchange->config->comm.gradients != PRECISION_BF16 || bucket->dtype != DTYPE_F32) goto done;
  size_t bytes = (size_t)bucket->count * dtype_size(DTYPE_BF16);
  TRY(backend->allocate(backend, bytes, "gradients as bf16", &bucket->wire, error));
  TRY(cast_kernel(exchange, bucket, DTYPE_F32, DTYPE_BF16, &bucket->narrow, error));
  TRY(cast_kernel(exchange, bucket, DTYPE_BF16, DTYPE_F32, &bucket->widen, error));
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
  Exchange *exchange = context;
  Bucket *bucket = find_bucket(exchange, data, count, dtype);
  if (!bucket) {
    TRY(add_bucket(exchange, data, count, dtype, &bucket, error));
    TRY(open_wire(exchange, bucket, error));
  }
  if (!bucket->wire)
    return nccl_average_start(exchange->nccl, data, count, comm_type(dtype), stream, error);
  TRY(cast(bucket->narrow, bucket, true, error));
  TRY(nccl_average_start(exchange->nccl, bucket->wire, count, COMM_BF16, stream, error));
  exchange->pending[exchange->pending_count++] = (int)(bucket - exchange->buckets);
done:
  return status;
}

static Status nccl_wait(void *context, void *stream, Error *error) {
  Status status = OK;
  Exchange *exchange = context;
  TRY(nccl_average_wait(exchange->nccl, stream, error));
  for (int i = 0; i < exchange->pending_count; i++) {
    const Bucket *bucket = &exchange->buckets[exchange->pending[i]];
    TRY(cast(bucket->widen, bucket, false, error));
  }
done:
  exchange->pending_count = 0;
  return status;
}

/* --- Life ------------------------------------------------------------------------------------- */

Status exchange_open(const Config *config, Comm *comm, Backend *backend, Exchange **out,
                     Error *error) {
  Status status = OK;
  Exchange *exchange = mem_new(1, sizeof *exchange);
  *out = NULL;
  exchange->config = config;
  exchange->comm = comm;
  exchange->backend = backend;
  exchange->collectives = (Collectives){.context = exchange};
  Collectives *table = &exchange->collectives;
  if (device_uses_nccl(config, backend, comm_size(comm))) {
    NcclOptions options = {.reproducible = config->comm.reduce == COMM_REDUCE_REPRODUCIBLE,
                           .deterministic = config->cuda.deterministic,
                           .overlap = config->comm.overlap,
                           .timeout = config->comm.timeout};
    TRY(nccl_open(comm, &options, &exchange->nccl, error));
    table->capturable = true;
    table->all_reduce_start = nccl_start;
    table->all_reduce_wait = nccl_wait;
  } else {
    bool on_cpu = strcmp(backend->name, "cpu") == 0;
    table->all_reduce_start = on_cpu ? cpu_start : staged_start;
    table->all_reduce_wait = on_cpu ? cpu_wait : staged_wait;
  }
  exchange->is_needed = exchange->nccl || comm_size(comm) > 1;
  *out = exchange;
  exchange = NULL;
done:
  exchange_close(exchange);
  return status;
}

void exchange_close(Exchange *exchange) {
  if (!exchange) return;
  for (int i = 0; i < exchange->bucket_count; i++) free_bucket(exchange, &exchange->buckets[i]);
  nccl_close(exchange->nccl);
  free(exchange);
}

void exchange_abort(Exchange *exchange) {
  if (exchange) nccl_abort(exchange->nccl);
}

const Collectives *exchange_collectives(const Exchange *exchange) {
  return exchange->is_needed ? &exchange->collectives : NULL;
}

Status exchange_register(Exchange *exchange, const Parameters *parameters, Error *error) {
  const Buffer *gradient = &parameters->gradient;
  if (!exchange->nccl || !gradient->data) return OK;
  return nccl_register(exchange->nccl, gradient->data, (size_t)gradient->count * sizeof(float),
                       error);
}

Status exchange_check(Exchange *exchange, Error *error) {
  return exchange->nccl ? nccl_check(exchange->nccl, error) : OK;
}

Status exchange_exposed_seconds(Exchange *exchange, double *seconds, Error *error) {
  *seconds = comm_stats(exchange->comm).seconds_waiting;
  if (!exchange->nccl) return OK;
  double latest = 0;
  Status status = nccl_exposed_seconds(exchange->nccl, &latest, error);
  exchange->exposed += latest;
  *seconds = exchange->exposed;
  return status;
}
