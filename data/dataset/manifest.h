/* manifest.json, which turns a folder of shards into a dataset. Written last. */
#ifndef CELFORGE_DATA_DATASET_MANIFEST_H
#define CELFORGE_DATA_DATASET_MANIFEST_H

#include "data/dataset/shard_reader.h"

#define MANIFEST_NAME "manifest.json"

/* A shard as the manifest lists it; its index there determines its file name. */
typedef struct ManifestShard {
  ShardLayout layout;
  /* The attributes expected in the file: the dataset it was written for, and its number there. In a
   * joined dataset these are the values of the part it came from. */
  char uuid[37];
  int64_t number;
} ManifestShard;

typedef struct Manifest {
  DatasetInfo info;      /* .clips and .shards count `shards` */
  char *maker;           /* owned */
  ManifestShard *shards; /* [info.shards]; owned */
  int capacity;          /* of `shards` */
} Manifest;

/* Appends a shard and takes ownership of the arrays in `layout`. */
void manifest_add(Manifest *manifest, ShardLayout layout, const char *uuid, int64_t number);

/* Reads the manifest and checks all that can be checked without the shards. ERROR_DATA if it is
 * missing or wrong; the message names file, key, the value found and the values allowed. */
Status manifest_read(const char *folder, Manifest *out, Error *error);
/* Parses a manifest in memory; error messages begin with `name`. */
Status manifest_parse(const char *name, const char *text, size_t size, Manifest *out, Error *error);
/* Writes the manifest, atomically replacing an existing one. */
Status manifest_write(const char *folder, const Manifest *manifest, Error *error);
void manifest_free(Manifest *manifest);

/* Derives a dataset's UUID from a text that describes its contents, so that equal runs write equal
 * bytes. A Philox hash in the form of RFC 4122 (version 8 of RFC 9562: custom bits). */
void dataset_uuid_derive(const char *text, char out[37]);

#endif
