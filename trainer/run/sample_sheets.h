/* Sample sheets: source, output and target side by side. */
#ifndef CELFORGE_TRAINER_RUN_SAMPLE_SHEETS_H
#define CELFORGE_TRAINER_RUN_SAMPLE_SHEETS_H

#include "data/dataset/dataset.h"
#include "trainer/infer/inference.h"

/* Writes a PNG with one row for each of `clips` clips, spread evenly over the dataset: source,
 * output and target of the first and of the last frame. With `targets` (unpaired data; NULL for
 * pairs) the third picture is one of theirs, resized to the output's size. Pictures narrower than
 * SAMPLE_MIN_WIDTH are enlarged by a whole factor. The file is written atomically. *written is
 * false, without an error, if a signal arrives meanwhile. ERROR_IO if the file cannot be written.
 */
enum { SAMPLE_MIN_WIDTH = 256 };
Status sample_sheet_write(const Dataset *dataset, const Dataset *targets, Inference *inference,
                          int clips, const char *path, bool *written, Error *error);

#endif
