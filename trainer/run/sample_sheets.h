/* Sample sheets: source, output and target side by side. */
#ifndef CELFORGE_TRAINER_RUN_SAMPLE_SHEETS_H
#define CELFORGE_TRAINER_RUN_SAMPLE_SHEETS_H

#include "data/dataset/dataset.h"
#include "trainer/infer/inference.h"

/* `clips` clips spread evenly over the dataset, a row each: source, output, target of the first and
 * of the last frame. Writes a PNG, whole or not at all: *written says which. Between frames it
 * gives up where the process has been asked to stop. */
Status samples_write(const Dataset *dataset, Inference *inference, int clips, const char *path,
                     bool *written, Error *error);

#endif
