/* Small blocking collectives. A reduction gathers the terms of all ranks, and every rank reduces
 * them itself in rank order: the same bits everywhere, whatever algorithm MPI chooses, and NaN wins
 * on all ranks or on none. */
#include <math.h>
#include <string.h>

#include "base/bf16.h"
#include "comm/internal.h"

/* Waits for a request; `code` is the return value of the MPI_I... call that started it. */
static Status finish(Comm *comm, int code, MPI_Request *request, const char *name, size_t done,
                     size_t bytes, Error *error) {
  Operation operation = {name, comm->rank, comm->size, done, bytes};
  Status status = mpi_check(code, &operation, error);
  presence_wait_begin(&comm->presence, name);
  if (status == OK) status = mpi_wait(request, &operation, comm_wait_timeout(comm), error);
  presence_wait_end(&comm->presence);
  if (status != OK) comm->failed = true;
  return status;
}

static Status check_usable(const Comm *comm, const char *name, Error *error) {
  if (!comm->failed) return OK;
  return error_set(error, ERROR_INTERNAL, "%s: an earlier collective of this group has failed",
                   name);
}

static size_t smaller(size_t a, size_t b) {
  return a < b ? a : b;
}

Status comm_barrier(Comm *comm, Error *error) {
  if (comm->size == 1) return OK;
  Status status = check_usable(comm, "barrier", error);
  if (status != OK) return status;
  MPI_Request request;
  int code = MPI_Ibarrier(comm->group, &request);
  return finish(comm, code, &request, "barrier", 0, 0, error);
}

Status comm_broadcast(Comm *comm, void *data, size_t bytes, int root, Error *error) {
  static const char name[] = "broadcast";
  Status status = OK;
  if (root < 0 || root >= comm->size)
    FAIL(error, ERROR_INTERNAL, "%s: root %d; must be from 0 to %d", name, root, comm->size - 1);
  if (comm->size == 1) return OK;
  TRY(check_usable(comm, name, error));
  for (size_t done = 0; done < bytes;) {
    size_t length = smaller(bytes - done, comm->chunk_bytes);
    MPI_Request request;
    if (comm->rank == root) memcpy(comm->scratch, (char *)data + done, length);
    int code = MPI_Ibcast(comm->scratch, (int)length, MPI_BYTE, root, comm->group, &request);
    TRY(finish(comm, code, &request, name, done, bytes, error));
    if (comm->rank != root) memcpy((char *)data + done, comm->scratch, length);
    done += length;
  }
done:
  return status;
}

/* Gathers `length` (at most chunk_bytes) bytes of every rank, in rank order, at scratch +
 * chunk_bytes. */
static Status gather_chunk(Comm *comm, const char *name, const void *data, size_t length,
                           size_t done, size_t bytes, Error *error) {
  MPI_Request request;
  memcpy(comm->scratch, data, length);
  int code = MPI_Iallgather(comm->scratch, (int)length, MPI_BYTE, comm->scratch + comm->chunk_bytes,
                            (int)length, MPI_BYTE, comm->group, &request);
  return finish(comm, code, &request, name, done, bytes, error);
}

Status comm_all_gather(Comm *comm, const void *data, size_t bytes, void *out, Error *error) {
  static const char name[] = "all-gather";
  Status status = OK;
  if (comm->size == 1) {
    if (bytes > 0) memmove(out, data, bytes);
    return OK;
  }
  TRY(check_usable(comm, name, error));
  for (size_t done = 0; done < bytes;) {
    size_t length = smaller(bytes - done, comm->chunk_bytes);
    TRY(gather_chunk(comm, name, (const char *)data + done, length, done, bytes, error));
    for (size_t r = 0; r < (size_t)comm->size; r++)
      memcpy((char *)out + r * bytes + done, comm->scratch + comm->chunk_bytes + r * length,
             length);
    done += length;
  }
done:
  return status;
}

static size_t type_bytes(CommType type) {
  return type == COMM_BF16 ? 2 : type == COMM_F32 ? 4 : 8;
}

static double load_real(const void *from, CommType type) {
  double f64 = 0;
  float f32 = 0;
  uint16_t bf16 = 0;
  if (type == COMM_F64) {
    memcpy(&f64, from, sizeof f64);
    return f64;
  }
  if (type == COMM_F32) {
    memcpy(&f32, from, sizeof f32);
  } else {
    memcpy(&bf16, from, sizeof bf16);
    f32 = bf16_to_f32(bf16);
  }
  return (double)f32;
}

static void store_real(double value, void *to, CommType type) {
  float f32 = (float)value;
  if (type == COMM_F64) memcpy(to, &value, sizeof value);
  if (type == COMM_F32) memcpy(to, &f32, sizeof f32);
  if (type == COMM_BF16) {
    uint16_t bf16 = bf16_from_f32(f32);
    memcpy(to, &bf16, sizeof bf16);
  }
}

static double reduce_reals(double a, double b, CommOperation operation) {
  if (operation == COMM_SUM) return a + b;
  if (isnan(a) || isnan(b)) return (double)NAN;
  return (operation == COMM_MAX) == (a > b) ? a : b;
}

static int64_t reduce_integers(int64_t a, int64_t b, CommOperation operation) {
  if (operation == COMM_SUM) return (int64_t)((uint64_t)a + (uint64_t)b);
  return (operation == COMM_MAX) == (a > b) ? a : b;
}

/* Reduces one element over the ranks: `from` is rank 0's term, the next rank's lies `stride` bytes
 * further. */
static void reduce(const char *from, size_t stride, int size, CommType type,
                   CommOperation operation, char *to) {
  if (type == COMM_I64) {
    int64_t total = 0, term;
    for (int r = 0; r < size; r++, from += stride) {
      memcpy(&term, from, sizeof term);
      total = r == 0 ? term : reduce_integers(total, term, operation);
    }
    memcpy(to, &total, sizeof total);
    return;
  }
  double total = load_real(from, type);
  for (int r = 1; r < size; r++)
    total = reduce_reals(total, load_real(from + (size_t)r * stride, type), operation);
  store_real(total, to, type);
}

Status comm_all_reduce(Comm *comm, void *data, int64_t count, CommType type,
                       CommOperation operation, Error *error) {
  static const char name[] = "all-reduce";
  Status status = OK;
  if (count < 0)
    FAIL(error, ERROR_INTERNAL, "%s: %lld elements; must not be negative", name, (long long)count);
  if (comm->size == 1) return OK;
  TRY(check_usable(comm, name, error));
  size_t width = type_bytes(type), bytes = (size_t)count * width;
  for (size_t done = 0; done < bytes;) {
    size_t length = smaller(bytes - done, comm->chunk_bytes);
    char *mine = (char *)data + done;
    TRY(gather_chunk(comm, name, mine, length, done, bytes, error));
    for (size_t i = 0; i < length; i += width)
      reduce(comm->scratch + comm->chunk_bytes + i, length, comm->size, type, operation, mine + i);
    done += length;
  }
done:
  return status;
}

Status comm_agree(Comm *comm, Status own, Error *error) {
  Status status = OK;
  Error failure = {0}; /* of the collectives below; must not replace this rank's own error */
  if (comm->size == 1) return own;
  int64_t worst = own, first = own == OK ? comm->size : comm->rank;
  TRY(comm_all_reduce(comm, &worst, 1, COMM_I64, COMM_MAX, &failure));
  if (worst == OK) return OK;
  TRY(comm_all_reduce(comm, &first, 1, COMM_I64, COMM_MIN, &failure));
  char message[ERROR_MESSAGE_SIZE] = "";
  if (comm->rank == first && error) memcpy(message, error->message, sizeof message);
  TRY(comm_broadcast(comm, message, sizeof message, (int)first, &failure));
  message[sizeof message - 1] = '\0';
  if (own == OK)
    return error_set(error, (Status)worst, "rank %d: %s", (int)first,
                     message[0] ? message : "failed without a message");
  if (error) error->status = (Status)worst;
  return (Status)worst;
done:
  return own != OK ? own : error_set(error, status, "%s", failure.message);
}
