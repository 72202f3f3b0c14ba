/* The folder that a dataset is written into: new, empty, or with shards of an interrupted run. */
#ifndef CELFORGE_DATA_DATASET_DATASET_FOLDER_H
#define CELFORGE_DATA_DATASET_DATASET_FOLDER_H

#include "data/dataset/shard.h"

typedef struct DatasetFolder {
  char *path;   /* owned */
  bool created; /* by dataset_folder_open */
  bool locked;  /* against a second writer; false if the file system has no locks */
  int lock;     /* descriptor of the folder */
} DatasetFolder;

/* Creates the folder if necessary, locks it and removes temporary files. *shards receives the
 * numbers of the shards in it, ascending; the caller frees. ERROR_USAGE, without changes, if the
 * folder has a manifest or files that belong to no dataset, or if another process writes it. Call
 * dataset_folder_close also after a failure. */
Status dataset_folder_open(const char *path, DatasetFolder *out, int64_t **shards, size_t *count,
                           Error *error);
/* Unlocks the folder; before that, removes it if dataset_folder_open created it, holds its lock,
 * and it is empty. */
void dataset_folder_close(DatasetFolder *folder);

/* Returns the path of shard `shard`; the caller frees. */
char *dataset_folder_shard_path(const DatasetFolder *folder, int64_t shard);
Status dataset_folder_remove_shard(const DatasetFolder *folder, int64_t shard, Error *error);
/* Inspects a shard of an interrupted run. ERROR_USAGE if the file is not a shard, or was written
 * for another dataset than `uuid`; ERROR_IO if it cannot be read. Call shard_free also after a
 * failure. */
Status dataset_folder_inspect_shard(const DatasetFolder *folder, int64_t shard, const char *uuid,
                                    Shard *out, Error *error);

#endif
