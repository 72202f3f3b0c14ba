/* The folder a dataset is written into, new or with what an interrupted run left in it. */
#ifndef CELFORGE_DATA_DATASET_DATASET_FOLDER_H
#define CELFORGE_DATA_DATASET_DATASET_FOLDER_H

#include "data/dataset/shard.h"

typedef struct DatasetFolder {
  char *path; /* owned */
  bool made;  /* it was not there before */
  int lock;   /* a descriptor of the folder, locked against a second writer */
} DatasetFolder;

/* Makes the folder where there is none, and removes temporary files. *shards: the numbers of the
 * shards that lie in it, ascending; the caller frees. ERROR_USAGE, and nothing touched, where it
 * holds a manifest or what is no part of a dataset, or another process is writing it. To be closed
 * also after a failure. */
Status dataset_folder_open(const char *path, DatasetFolder *out, int64_t **shards, size_t *count,
                           Error *error);
/* Removes the folder again where we made it and nothing is in it. */
void dataset_folder_close(DatasetFolder *folder);

/* The path of shard `shard`; caller frees. */
char *dataset_folder_shard(const DatasetFolder *folder, int64_t shard);
Status dataset_folder_remove(const DatasetFolder *folder, int64_t shard, Error *error);
/* Inspects a shard that was left. ERROR_USAGE where it is none, or was not written for dataset
 * `uuid`. shard_free also after failure. */
Status dataset_folder_inspect(const DatasetFolder *folder, int64_t shard, const char *uuid,
                              Shard *out, Error *error);

#endif
