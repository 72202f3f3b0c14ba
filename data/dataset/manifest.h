/* manifest.json: what makes a folder of shards a dataset. Written last. */
#ifndef CELFORGE_DATA_DATASET_MANIFEST_H
#define CELFORGE_DATA_DATASET_MANIFEST_H

#include "data/dataset/shard_reader.h"

#define MANIFEST_NAME "manifest.json"

/* A shard as the manifest lists it; its file's name follows from its index there. */
typedef struct ManifestShard {
  ShardLayout layout;
  /* What the file's own attributes must say: the dataset it was written for, and its number there.
   * In a joined dataset they are those of the part it came from. */
  char uuid[37];
  int64_t number;
} ManifestShard;

typedef struct Manifest {
  DatasetInfo info;      /* .clips and .shards: of `shards` */
  char *maker;           /* owned */
  ManifestShard *shards; /* [info.shards]; owned */
  int capacity;
} Manifest;

/* Lists one more shard. The manifest then owns what `layout` points to. */
void manifest_add(Manifest *manifest, ShardLayout layout, const char *uuid, int64_t number);

/* Reads and checks everything that can be checked without the shards. ERROR_DATA with file, key,
 * value found and what is allowed; a folder without one is "not a dataset". */
Status manifest_read(const char *folder, Manifest *out, Error *error);
/* The same from memory; `name` stands for the file in errors. */
Status manifest_parse(const char *name, const char *text, size_t size, Manifest *out, Error *error);
/* Replaces the one that is there, whole. */
Status manifest_write(const char *folder, const Manifest *manifest, Error *error);
void manifest_free(Manifest *manifest);

/* Names a dataset after what it was made from, so that equal runs give equal bytes: a hash by
 * Philox in the form of RFC 4122 (version 8 of RFC 9562: bits of our own choice). */
void dataset_uuid(const char *text, char out[37]);

#endif
