#include "trainer/run/replica_check.h"

#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/memory.h"

enum { ARRAYS = 13 }; /* at most: six of two networks, one that is fixed */

/* A flat array of a network. */
typedef struct FlatArray {
  const Parameters *parameters;
  const Buffer *buffer;
  const char *part; /* "master" */
  bool has_tensors;
} FlatArray;

typedef struct Digests {
  CommDigest *items; /* names are their own */
  int count, capacity;
} Digests;

static void digests_free(Digests *digests) {
  for (int i = 0; i < digests->count; i++) free((void *)(uintptr_t)digests->items[i].name);
  free(digests->items);
}

static void digests_add(Digests *digests, char *name, const float *values, int64_t count) {
  MEM_PUSH_SLOT(digests->items, digests->count, digests->capacity);
  digests->items[digests->count++] =
      (CommDigest){name, crc32c(0, values, (size_t)count * sizeof *values)};
}

static int list_arrays(Model *model, FlatArray *arrays) {
  Parameters *networks[] = {model_generator(model), model_discriminator(model)};
  int count = 0;
  for (int i = 0; i < 2; i++) {
    const Parameters *network = networks[i];
    if (network->total == 0) continue;
    arrays[count++] = (FlatArray){network, &network->master, "master", true};
    arrays[count++] = (FlatArray){network, &network->moment1, "moment1", true};
    arrays[count++] = (FlatArray){network, &network->moment2, "moment2", true};
    if (network->ema.data) arrays[count++] = (FlatArray){network, &network->ema, "ema", true};
    arrays[count++] = (FlatArray){network, &network->counters, "counters", false};
    const Parameters *spectral = network->spectral;
    if (spectral) arrays[count++] = (FlatArray){spectral, &spectral->master, "master", true};
  }
  const Parameters *fixed = model_perceptual(model);
  if (fixed->total > 0) arrays[count++] = (FlatArray){fixed, &fixed->master, "master", true};
  return count;
}

static Status download(const FlatArray *array, float **out, Error *error) {
  void *values;
  Status status = mem_bulk((size_t)array->buffer->count * sizeof(float), "a copy of the weights",
                           &values, error);
  if (status != OK) return status;
  *out = values;
  return buffer_download(array->buffer, 0, *out, array->buffer->count, error);
}

static Status add_array(const FlatArray *array, Digests *digests, Error *error) {
  float *values = NULL;
  Status status = download(array, &values, error);
  if (status == OK)
    digests_add(digests, mem_format("%s.%s", array->parameters->network, array->part), values,
                array->buffer->count);
  free(values);
  return status;
}

static Status add_tensors(const FlatArray *array, Digests *digests, Error *error) {
  const Parameters *parameters = array->parameters;
  float *values = NULL;
  Status status = download(array, &values, error);
  for (int i = 0; status == OK && i < parameters->count; i++) {
    const Parameter *item = &parameters->items[i];
    digests_add(digests, mem_format("%s.%s.%s", parameters->network, array->part, item->name),
                values + item->offset, item->count);
  }
  free(values);
  return status;
}

/* Which of the arrays are not the same on every rank: the same answer on all. */
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

/* Puts the tensors that differ behind the message that names the arrays. */
static Status name_tensors(Comm *comm, const FlatArray *list, const Digests *arrays, Error *error) {
  Status status = OK;
  Digests tensors = {0};
  bool differs[ARRAYS] = {false};
  Error found = {0}, trouble = {0};
  TRY(find_differing(comm, arrays, differs, &trouble));
  for (int i = 0; i < arrays->count && status == OK; i++)
    if (differs[i] && list[i].has_tensors) status = add_tensors(&list[i], &tensors, &trouble);
  TRY(comm_agree(comm, status, &trouble));
  if (tensors.count > 0 && comm_same(comm, tensors.items, tensors.count, &found) != OK) {
    char *both = mem_format("%s. Tensor by tensor: %s", error->message, found.message);
    error_set(error, ERROR_INTERNAL, "%s", both);
    free(both);
  }
done:
  digests_free(&tensors);
  return ERROR_INTERNAL;
}

Status replicas_check(Model *model, Comm *comm, Error *error) {
  Status status = OK;
  FlatArray list[ARRAYS];
  Digests arrays = {0};
  if (comm_size(comm) == 1) return OK;
  int count = list_arrays(model, list);
  for (int i = 0; i < count && status == OK; i++) status = add_array(&list[i], &arrays, error);
  TRY(comm_agree(comm, status, error));
  status = comm_same(comm, arrays.items, arrays.count, error);
  if (status == ERROR_INTERNAL) status = name_tensors(comm, list, &arrays, error);
done:
  digests_free(&arrays);
  return status;
}
