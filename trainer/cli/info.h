/* celforge info. */
#ifndef CELFORGE_TRAINER_CLI_INFO_H
#define CELFORGE_TRAINER_CLI_INFO_H

#include <stdbool.h>

#include "base/error.h"

/* Prints a description of PATH: a shard, a dataset, a checkpoint or a run. ERROR_DATA if it is none
 * of them, or if the newest checkpoint of a run is damaged, unless older ones are allowed. */
Status info_run(const char *path, bool allow_older, Error *error);

#endif
