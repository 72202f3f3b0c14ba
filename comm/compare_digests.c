/* Checks that all ranks hold equal data, by checksums. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/memory.h"
#include "base/text.h"
#include "comm/internal.h"

enum { MAX_RANKS_LISTED = 16 };

/* Finds the value that more than half of the ranks have; returns false if there is none.
 * values: [size], `stride` elements apart. */
static bool majority(const uint64_t *values, int size, int stride, uint64_t *out) {
  uint64_t candidate = 0;
  int lead = 0, votes = 0; /* majority vote: Boyer and Moore 1991 */
  for (int r = 0; r < size; r++) {
    uint64_t value = values[(size_t)r * (size_t)stride];
    if (lead == 0) candidate = value;
    lead += value == candidate ? 1 : -1;
  }
  for (int r = 0; r < size; r++) votes += values[(size_t)r * (size_t)stride] == candidate;
  *out = candidate;
  return votes > size / 2;
}

/* Lists the ranks whose value is not `common`, as in "rank 2 has 0f..."; all ranks if it is NULL.
 */
static void append_deviating_ranks(const uint64_t *values, int size, int stride,
                                   const uint64_t *common, Text *text) {
  int named = 0, deviating = 0;
  for (int r = 0; r < size; r++) {
    uint64_t value = values[(size_t)r * (size_t)stride];
    if (common && value == *common) continue;
    if (deviating++ >= MAX_RANKS_LISTED) continue;
    text_append(text, "%srank %d has %" PRIx64, named++ > 0 ? ", " : "", r, value);
  }
  if (deviating > named) text_append(text, " and %d more ranks differ", deviating - named);
  if (common) text_append(text, ", the other %d have %" PRIx64, size - deviating, *common);
}

/* Compares the digests of all ranks, all: [size][count]. */
static Status compare(const CommDigest *items, int count, const uint64_t *all, int size,
                      Error *error) {
  Text text = {0};
  int differing = 0;
  for (int i = 0; i < count; i++) {
    bool same = true;
    for (int r = 1; r < size; r++)
      same = same && all[(size_t)r * (size_t)count + (size_t)i] == all[i];
    if (same) continue;
    uint64_t common;
    bool has_majority = majority(all + i, size, count, &common);
    text_append(&text, "%s%s: ", differing++ > 0 ? "; " : "", items[i].name);
    append_deviating_ranks(all + i, size, count, has_majority ? &common : NULL, &text);
  }
  Status status = OK;
  if (differing > 0)
    status = error_set(error, ERROR_INTERNAL, "%d of %d checksums differ between the ranks: %s",
                       differing, count, text.data);
  text_free(&text);
  return status;
}

Status comm_compare_digests(Comm *comm, const CommDigest *items, int count, Error *error) {
  Status status = OK;
  size_t size = (size_t)comm->size, width = (size_t)count * sizeof(uint64_t);
  uint64_t *mine = NULL, *all = NULL;
  if (comm->size == 1) return OK;
  uint64_t names = (uint64_t)count << 32, *lists = mem_new(size, sizeof *lists);
  uint32_t crc = 0;
  for (int i = 0; i < count; i++) crc = crc32c(crc, items[i].name, strlen(items[i].name) + 1);
  names |= crc;
  TRY(comm_all_gather(comm, &names, sizeof names, lists, error));
  TRY(compare(&(CommDigest){"the list of names", 0}, 1, lists, comm->size, error));
  mine = mem_new((size_t)count, sizeof *mine);
  all = mem_new(size * (size_t)count, sizeof *all);
  for (int i = 0; i < count; i++) mine[i] = items[i].value;
  TRY(comm_all_gather(comm, mine, width, all, error));
  TRY(compare(items, count, all, comm->size, error));
done:
  free(lists);
  free(mine);
  free(all);
  return status;
}
