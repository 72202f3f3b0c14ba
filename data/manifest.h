/* manifest.json: what makes a folder of shards a dataset. Written last. */
#ifndef CELFORGE_DATA_MANIFEST_H
#define CELFORGE_DATA_MANIFEST_H

#include "data/shard_data.h"

#define MANIFEST_NAME "manifest.json"

typedef struct Manifest {
  DatasetInfo info;
  char *maker;          /* owned */
  ShardLayout *layouts; /* [info.shards], file names follow from the index; owned */
} Manifest;

/* Reads and checks everything that can be checked without the shards. ERROR_DATA with file, key,
 * value found and what is allowed; a folder without one is "not a dataset". */
Status manifest_read(const char *folder, Manifest *out, Error *error);
/* The same from memory; `name` stands for the file in errors. */
Status manifest_parse(const char *name, const char *text, size_t size, Manifest *out, Error *error);
Status manifest_write(const char *folder, const Manifest *manifest, Error *error);
void manifest_free(Manifest *manifest);

/* Names a dataset after what it was made from, so that equal runs give equal bytes: a hash by
 * Philox in the form of RFC 4122 (version 8 of RFC 9562: bits of our own choice). */
void dataset_uuid(const char *text, char out[37]);

#endif
