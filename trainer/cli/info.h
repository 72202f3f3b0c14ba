/* celforge info. */
#ifndef CELFORGE_TRAINER_CLI_INFO_H
#define CELFORGE_TRAINER_CLI_INFO_H

#include "base/error.h"

/* Prints a description of PATH: a shard, a dataset, a checkpoint or a run. ERROR_DATA where it is
 * none of them. */
Status info_run(const char *path, Error *error);

#endif
