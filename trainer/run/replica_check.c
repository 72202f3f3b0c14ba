#include "trainer/run/replica_check.h"

#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/crc32c.h"
#include "base/memory.h"

enum { MAX_ARRAYS = 6 * NETWORK_COUNT + 1 }; /* at most, with the perceptual network */

/* A flat array of a network. */
typedef struct FlatArray {
  const Parameters *parameters;
  const Buffer *buffer;
  const char *part; /* "master" */
  bool has_tensors;
} FlatArray;

typedef struct Digests {
  CommDigest *items; /* with names that the list owns */
  int count, capacity;
} Digests;

static void digests_free(Digests *digests) {
  for (int i = 0; i < digests->count; i++) free((void *)(uintptr_t)digests->items[i].name);
  free(digests->items);
}

static void digests_add(Digests *digests, char *name, const void *values, size_t bytes) {
  MEM_PUSH_SLOT(digests->items, digests->count, digests->capacity);
  digests->items[digests->count++] = (CommDigest){name, crc32c(0, values, bytes)};
}

static int list_arrays(Gan *gan, FlatArray *arrays) {
  int count = 0;
  for (int i = 0; i < NETWORK_COUNT; i++) {
    const Parameters *network = gan_network(gan, (Network)i);
    if (network->total == 0) continue;
    arrays[count++] = (FlatArray){network, &network->master, "master", true};
    arrays[count++] = (FlatArray){network, &network->moment1, "moment1", true};
    arrays[count++] = (FlatArray){network, &network->moment2, "moment2", true};
    if (network->ema.data) arrays[count++] = (FlatArray){network, &network->ema, "ema", true};
    arrays[count++] = (FlatArray){network, &network->counters, "counters", false};
    const Parameters *spectral = network->spectral;
    if (spectral) arrays[count++] = (FlatArray){spectral, &spectral->master, "master", true};
  }
  const Parameters *fixed = gan_perceptual_network(gan);
  if (fixed->total > 0) arrays[count++] = (FlatArray){fixed, &fixed->master, "master", true};
  return count;
}

static size_t array_bytes(const FlatArray *array) {
  return (size_t)array->buffer->count * dtype_size(array->buffer->dtype);
}

static Status download(const FlatArray *array, void **out, Error *error) {
  Status status = mem_bulk(array_bytes(array), "a copy of the weights", out, error);
  if (status != OK) return status;
  return buffer_download(array->buffer, 0, *out, array->buffer->count, error);
}

static Status add_array(const FlatArray *array, Digests *digests, Error *error) {
  void *values = NULL;
  Status status = download(array, &values, error);
  if (status == OK)
    digests_add(digests, mem_format("%s.%s", array->parameters->network, array->part), values,
                array_bytes(array));
  free(values);
  return status;
}

static Status add_tensors(const FlatArray *array, Digests *digests, Error *error) {
  const Parameters *parameters = array->parameters;
  void *values = NULL;
  Status status = download(array, &values, error);
  for (int i = 0; status == OK && i < parameters->count; i++) {
    const Parameter *item = &parameters->items[i];
    digests_add(digests, mem_format("%s.%s.%s", parameters->network, array->part, item->name),
                (const float *)values + item->offset, (size_t)item->count * sizeof(float));
  }
  free(values);
  return status;
}

/* Sets differs[i] if array i is not the same on every rank; all ranks get the same result. */
static Status find_differing(Comm *comm, const Digests *arrays, bool *differs, Error *error) {
  Status status = OK;
  for (int i = 0; i < arrays->count; i++) {
    int64_t least = (int64_t)arrays->items[i].value, most = least;
    TRY(comm_all_reduce(comm, &least, 1, COMM_I64, COMM_MIN, error));
    TRY(comm_all_reduce(comm, &most, 1, COMM_I64, COMM_MAX, error));
    differs[i] = least != most;
  }
done:
  return status;
}

/* Appends the tensors that differ to the message, which names the arrays. */
static Status append_tensors(Comm *comm, const FlatArray *list, const Digests *arrays,
                             Error *error) {
  Status status = OK;
  Digests tensors = {0};
  bool differs[MAX_ARRAYS] = {false};
  Error found = {0}, failure = {0};
  TRY(find_differing(comm, arrays, differs, &failure));
  for (int i = 0; i < arrays->count && status == OK; i++)
    if (differs[i] && list[i].has_tensors) status = add_tensors(&list[i], &tensors, &failure);
  TRY(comm_agree(comm, status, &failure));
  if (tensors.count > 0 && comm_compare_digests(comm, tensors.items, tensors.count, &found) != OK) {
    char *both = mem_format("%s. Tensor by tensor: %s", error->message, found.message);
    error_set(error, ERROR_INTERNAL, "%s", both);
    free(both);
  }
done:
  digests_free(&tensors);
  return ERROR_INTERNAL;
}

Status replicas_check(Gan *gan, Comm *comm, Error *error) {
  Status status = OK;
  FlatArray list[MAX_ARRAYS];
  Digests arrays = {0};
  if (comm_size(comm) == 1) return OK;
  int count = list_arrays(gan, list);
  for (int i = 0; i < count && status == OK; i++) status = add_array(&list[i], &arrays, error);
  TRY(comm_agree(comm, status, error));
  status = comm_compare_digests(comm, arrays.items, arrays.count, error);
  if (status == ERROR_INTERNAL) status = append_tensors(comm, list, &arrays, error);
done:
  digests_free(&arrays);
  return status;
}
