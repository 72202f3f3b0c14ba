/* All-reduce of one chunk of gradients.
 *
 * In f32, MPI sums the chunk, in one stage over all ranks or, reproducibly, in stages of two ranks:
 * a sum of two terms is the same on either rank, so the result is that of a fixed tree whatever
 * algorithm MPI chooses. MPI cannot add bfloat16; there an all-to-all sends each rank its shard of
 * every rank's chunk, the rank adds these (together a reduce-scatter), and an all-gather
 * distributes the mean. This moves as many elements as the best all-reduce, 2 (n - 1) / n per rank
 * (Patarasuk and Yuan 2009), of half the size. */
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/bulk_memory.h"
#include "comm/internal.h"

size_t reducer_element_bytes(const Reducer *reducer, CommType type) {
  bool sends_bf16 = !reducer->reproducible && (reducer->bf16_gradients || type == COMM_BF16);
  return sends_bf16 ? sizeof(uint16_t) : sizeof(float);
}

static bool sends_bf16(const Reducer *reducer, const Chunk *chunk) {
  return reducer_element_bytes(reducer, chunk->type) == sizeof(uint16_t);
}

static void widen(const uint16_t *from, float *to, int count) {
  for (int i = 0; i < count; i++) to[i] = bf16_to_f32(from[i]);
}

static void narrow(const float *from, uint16_t *to, int count) {
  for (int i = 0; i < count; i++) to[i] = bf16_from_f32(from[i]);
}

/* Counts an operation that an MPI_I... call has started; `code` is its return value. */
static Status count_started(Reducer *reducer, int code, const Operation *operation, Error *error) {
  atomic_fetch_add(reducer->operations_started, 1);
  return mpi_check(code, operation, error);
}

/* --- In f32 ----------------------------------------------------------------------------------- */

static Status start_sum(Reducer *reducer, Chunk *chunk, const Operation *operation, Error *error) {
  const void *mine = chunk->data;
  if (chunk->type == COMM_BF16) {
    widen(chunk->data, chunk->second, chunk->count);
    mine = chunk->second;
  }
  int code = MPI_Iallreduce(mine, chunk->first, chunk->count, MPI_FLOAT, MPI_SUM,
                            reducer->stages[0], &chunk->request);
  return count_started(reducer, code, operation, error);
}

static Status finish_sum(Reducer *reducer, Chunk *chunk, const Operation *operation, double timeout,
                         Error *error) {
  Status status = OK;
  float *sum = chunk->first, size = (float)reducer->size;
  TRY(mpi_wait(&chunk->request, operation, timeout, error));
  for (int i = 1; i < reducer->stage_count; i++) {
    int code = MPI_Iallreduce(MPI_IN_PLACE, sum, chunk->count, MPI_FLOAT, MPI_SUM,
                              reducer->stages[i], &chunk->request);
    TRY(count_started(reducer, code, operation, error));
    TRY(mpi_wait(&chunk->request, operation, timeout, error));
  }
  float *mean = chunk->type == COMM_BF16 ? sum : chunk->data;
  for (int i = 0; i < chunk->count; i++) mean[i] = sum[i] / size;
  if (chunk->type == COMM_BF16) narrow(mean, chunk->data, chunk->count);
done:
  return status;
}

/* --- In bfloat16 ------------------------------------------------------------------------------ */

/* The number of elements of a chunk that one rank reduces. The last shards may extend past the end,
 * where the elements are zero. */
static int shard_size(const Reducer *reducer, const Chunk *chunk) {
  return (chunk->count + reducer->size - 1) / reducer->size;
}

static Status start_reduce_scatter(Reducer *reducer, Chunk *chunk, const Operation *operation,
                                   Error *error) {
  uint16_t *mine = chunk->first; /* [size][shard] */
  int shard = shard_size(reducer, chunk), padded = shard * reducer->size;
  if (chunk->type == COMM_BF16)
    memcpy(mine, chunk->data, (size_t)chunk->count * sizeof *mine);
  else
    narrow(chunk->data, mine, chunk->count);
  memset(mine + chunk->count, 0, (size_t)(padded - chunk->count) * sizeof *mine);
  int code = MPI_Ialltoall(mine, shard, MPI_UINT16_T, chunk->second, shard, MPI_UINT16_T,
                           reducer->stages[0], &chunk->request);
  return count_started(reducer, code, operation, error);
}

/* mean[shard] = mean over r of theirs[r][shard], added in rank order. */
static void reduce_shard(const uint16_t *theirs, int size, int shard, uint16_t *mean) {
  enum { BLOCK = 1024 };
  float total[BLOCK], term[BLOCK];
  for (int first = 0; first < shard; first += BLOCK) {
    int count = shard - first < BLOCK ? shard - first : BLOCK;
    widen(theirs + first, total, count);
    for (int r = 1; r < size; r++) {
      widen(theirs + (size_t)r * (size_t)shard + first, term, count);
      for (int i = 0; i < count; i++) total[i] += term[i];
    }
    for (int i = 0; i < count; i++) total[i] /= (float)size;
    narrow(total, mean + first, count);
  }
}

static Status finish_reduce_scatter(Reducer *reducer, Chunk *chunk, const Operation *operation,
                                    double timeout, Error *error) {
  Status status = OK;
  int shard = shard_size(reducer, chunk);
  uint16_t *mean = chunk->first, *all = chunk->second;
  TRY(mpi_wait(&chunk->request, operation, timeout, error));
  reduce_shard(all, reducer->size, shard, mean);
  int code = MPI_Iallgather(mean, shard, MPI_UINT16_T, all, shard, MPI_UINT16_T, reducer->stages[0],
                            &chunk->request);
  TRY(count_started(reducer, code, operation, error));
  TRY(mpi_wait(&chunk->request, operation, timeout, error));
  if (chunk->type == COMM_BF16)
    memcpy(chunk->data, all, (size_t)chunk->count * sizeof *all);
  else
    widen(all, chunk->data, chunk->count);
done:
  return status;
}

Status chunk_start(Reducer *reducer, Chunk *chunk, const Operation *operation, Error *error) {
  return sends_bf16(reducer, chunk) ? start_reduce_scatter(reducer, chunk, operation, error)
                                    : start_sum(reducer, chunk, operation, error);
}

Status chunk_finish(Reducer *reducer, Chunk *chunk, const Operation *operation, double timeout,
                    Error *error) {
  return sends_bf16(reducer, chunk)
             ? finish_reduce_scatter(reducer, chunk, operation, timeout, error)
             : finish_sum(reducer, chunk, operation, timeout, error);
}

/* --- Opening and closing ---------------------------------------------------------------------- */

static Status open_stage(Reducer *reducer, int color, Error *error) {
  MPI_Comm *stage = &reducer->stages[reducer->stage_count];
  Operation operation = {"creating the communicators", reducer->rank, reducer->size, 0, 0};
  Status status =
      mpi_check(MPI_Comm_split(MPI_COMM_WORLD, color, reducer->rank, stage), &operation, error);
  if (status != OK) return status;
  MPI_Comm_set_errhandler(*stage, MPI_ERRORS_RETURN);
  reducer->stage_count++;
  return OK;
}

Status reducer_open(Comm *comm, Reducer *reducer, Error *error) {
  Status status = OK;
  void *buffers = NULL;
  *reducer = (Reducer){.rank = comm->rank,
                       .size = comm->size,
                       .reproducible = comm->options.reproducible,
                       .bf16_gradients = comm->options.bf16_gradients,
                       .operations_started = &comm->operations_started};
  if (comm->size >
      CHUNK_ELEMENTS) /* the padding of the shards must fit behind a chunk of bfloat16 */
    FAIL(error, ERROR_USAGE, "%d ranks; the maximum is %d", comm->size, CHUNK_ELEMENTS);
  TRY(mem_bulk(sizeof(float) * CHUNK_ELEMENTS * CHUNKS_IN_FLIGHT * 2, "the communication buffers",
               &buffers, error));
  reducer->buffers = buffers;
  for (int i = 0; i < CHUNKS_IN_FLIGHT; i++) {
    reducer->chunks[i].first = reducer->buffers + (size_t)CHUNK_ELEMENTS * (size_t)(2 * i);
    reducer->chunks[i].second = reducer->buffers + (size_t)CHUNK_ELEMENTS * (size_t)(2 * i + 1);
  }
  if (!reducer->reproducible) TRY(open_stage(reducer, 0, error));
  for (int bit = 1; reducer->reproducible && bit < comm->size; bit <<= 1)
    TRY(open_stage(reducer, comm->rank & ~bit, error)); /* the same color on both partners */
done:
  return status;
}

void reducer_close(Reducer *reducer) {
  for (int i = 0; i < reducer->stage_count; i++) MPI_Comm_free(&reducer->stages[i]);
  free(reducer->buffers);
}
