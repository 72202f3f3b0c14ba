/* The mean of one piece over the ranks.
 *
 * In f32 the ranks are summed by MPI, in one stage of all of them or, reproducibly, in stages of
 * two: a sum of two is the same whoever adds, so the result is that of a fixed tree whatever
 * algorithm MPI takes. As bfloat16, which MPI cannot add, the ranks exchange: each receives what
 * all have for its share of the piece, adds it up, and all gather the shares' means. That moves as
 * many elements as the best all-reduce does, 2 (n - 1) / n a rank (Patarasuk and Yuan 2009), of
 * half the size. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "comm/internal.h"

size_t reducer_element_bytes(const Reducer *reducer, CommType type) {
  bool narrow = !reducer->reproducible && (reducer->bf16_gradients || type == COMM_BF16);
  return narrow ? sizeof(uint16_t) : sizeof(float);
}

static bool travels_narrow(const Reducer *reducer, const Piece *piece) {
  return reducer_element_bytes(reducer, piece->type) == sizeof(uint16_t);
}

/* What MPI_I... returned: one more of the group's operations is under way. */
static Status begun(Reducer *reducer, int code, const Operation *operation, Error *error) {
  atomic_fetch_add(reducer->begun, 1);
  return mpi_check(code, operation, error);
}

/* --- As f32 ----------------------------------------------------------------------------------- */

static Status start_sum(Reducer *reducer, Piece *piece, const Operation *operation, Error *error) {
  const void *mine = piece->data;
  if (piece->type == COMM_BF16) {
    comm_widen_bf16(piece->data, piece->second, piece->count);
    mine = piece->second;
  }
  int code = MPI_Iallreduce(mine, piece->first, piece->count, MPI_FLOAT, MPI_SUM,
                            reducer->stages[0], &piece->request);
  return begun(reducer, code, operation, error);
}

static Status finish_sum(Reducer *reducer, Piece *piece, const Operation *operation, double timeout,
                         Error *error) {
  Status status = OK;
  float *sum = piece->first, size = (float)reducer->size;
  TRY(mpi_wait(&piece->request, operation, timeout, error));
  for (int i = 1; i < reducer->stage_count; i++) {
    int code = MPI_Iallreduce(MPI_IN_PLACE, sum, piece->count, MPI_FLOAT, MPI_SUM,
                              reducer->stages[i], &piece->request);
    TRY(begun(reducer, code, operation, error));
    TRY(mpi_wait(&piece->request, operation, timeout, error));
  }
  float *mean = piece->type == COMM_BF16 ? sum : piece->data;
  for (int i = 0; i < piece->count; i++) mean[i] = sum[i] / size;
  if (piece->type == COMM_BF16) comm_narrow_bf16(mean, piece->data, piece->count);
done:
  return status;
}

/* --- As bfloat16 ------------------------------------------------------------------------------ */

/* Elements of a piece that one rank adds up; the last ranks' may lie past the end and are zeros. */
static int share_of(const Reducer *reducer, const Piece *piece) {
  return (piece->count + reducer->size - 1) / reducer->size;
}

static Status start_exchange(Reducer *reducer, Piece *piece, const Operation *operation,
                             Error *error) {
  uint16_t *mine = piece->first; /* [size][share] */
  int share = share_of(reducer, piece), padded = share * reducer->size;
  if (piece->type == COMM_BF16)
    memcpy(mine, piece->data, (size_t)piece->count * sizeof *mine);
  else
    comm_narrow_bf16(piece->data, mine, piece->count);
  memset(mine + piece->count, 0, (size_t)(padded - piece->count) * sizeof *mine);
  int code = MPI_Ialltoall(mine, share, MPI_UINT16_T, piece->second, share, MPI_UINT16_T,
                           reducer->stages[0], &piece->request);
  return begun(reducer, code, operation, error);
}

/* mean[share] of theirs[size][share], added in the order of the ranks. */
static void average_share(const uint16_t *theirs, int size, int share, uint16_t *mean) {
  enum { CHUNK = 1024 };
  float total[CHUNK], term[CHUNK];
  for (int first = 0; first < share; first += CHUNK) {
    int count = share - first < CHUNK ? share - first : CHUNK;
    comm_widen_bf16(theirs + first, total, count);
    for (int r = 1; r < size; r++) {
      comm_widen_bf16(theirs + (size_t)r * (size_t)share + first, term, count);
      for (int i = 0; i < count; i++) total[i] += term[i];
    }
    for (int i = 0; i < count; i++) total[i] /= (float)size;
    comm_narrow_bf16(total, mean + first, count);
  }
}

static Status finish_exchange(Reducer *reducer, Piece *piece, const Operation *operation,
                              double timeout, Error *error) {
  Status status = OK;
  int share = share_of(reducer, piece);
  uint16_t *mean = piece->first, *all = piece->second;
  TRY(mpi_wait(&piece->request, operation, timeout, error));
  average_share(all, reducer->size, share, mean);
  int code = MPI_Iallgather(mean, share, MPI_UINT16_T, all, share, MPI_UINT16_T, reducer->stages[0],
                            &piece->request);
  TRY(begun(reducer, code, operation, error));
  TRY(mpi_wait(&piece->request, operation, timeout, error));
  if (piece->type == COMM_BF16)
    memcpy(piece->data, all, (size_t)piece->count * sizeof *all);
  else
    comm_widen_bf16(all, piece->data, piece->count);
done:
  return status;
}

Status piece_start(Reducer *reducer, Piece *piece, const Operation *operation, Error *error) {
  return travels_narrow(reducer, piece) ? start_exchange(reducer, piece, operation, error)
                                        : start_sum(reducer, piece, operation, error);
}

Status piece_finish(Reducer *reducer, Piece *piece, const Operation *operation, double timeout,
                    Error *error) {
  return travels_narrow(reducer, piece) ? finish_exchange(reducer, piece, operation, timeout, error)
                                        : finish_sum(reducer, piece, operation, timeout, error);
}

/* --- Opening and closing ---------------------------------------------------------------------- */

static Status open_stage(Reducer *reducer, int partners, Error *error) {
  MPI_Comm *stage = &reducer->stages[reducer->stage_count];
  Operation operation = {"starting the communication thread", reducer->rank, reducer->size, 0, 0};
  Status status =
      mpi_check(MPI_Comm_split(MPI_COMM_WORLD, partners, reducer->rank, stage), &operation, error);
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
                       .begun = &comm->begun};
  if (comm->size > PIECE_ELEMENTS) /* a share's padding must fit behind a piece of bfloat16 */
    FAIL(error, ERROR_USAGE, "%d ranks; at most %d are allowed", comm->size, PIECE_ELEMENTS);
  TRY(mem_bulk(sizeof(float) * PIECE_ELEMENTS * PIECES_IN_FLIGHT * 2, "the communication buffers",
               &buffers, error));
  reducer->buffers = buffers;
  for (int i = 0; i < PIECES_IN_FLIGHT; i++) {
    reducer->pieces[i].first = reducer->buffers + (size_t)PIECE_ELEMENTS * (size_t)(2 * i);
    reducer->pieces[i].second = reducer->buffers + (size_t)PIECE_ELEMENTS * (size_t)(2 * i + 1);
  }
  if (!reducer->reproducible) TRY(open_stage(reducer, 0, error));
  for (int bit = 1; reducer->reproducible && bit < comm->size; bit <<= 1)
    TRY(open_stage(reducer, comm->rank & ~bit, error)); /* the same number on both partners */
done:
  return status;
}

void reducer_close(Reducer *reducer) {
  for (int i = 0; i < reducer->stage_count; i++) MPI_Comm_free(&reducer->stages[i]);
  free(reducer->buffers);
}
