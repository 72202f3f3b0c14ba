/* TensorBoard event files: the numbers of metrics.jsonl as scalars, sample sheets as images. Rank 0
 * writes them; `tensorboard --logdir RUN` shows them.
 *
 * A file is a sequence of TFRecords: length (u64), masked CRC-32C of the length, data, masked
 * CRC-32C of the data; all little-endian. A checksum is masked by rotating it right by 15 bits and
 * adding 0xa282ead8. The data is an Event message: wall time (seconds since the epoch, f64), step
 * (steps done), and one of
 *
 *   a string      the version of the file format, in the first record
 *   a SessionLog  the start of a session: readers discard earlier events of this and later steps
 *   a Summary     tagged values: f32 scalars, or an image
 *
 * Sources: record_writer.cc, event.proto and summary.proto of TensorFlow; tensorboard/compat/proto.
 *
 * Files are RUN/tensorboard/events.out.tfevents.SECONDS.HOST.PID. Each record is one write. If a
 * process is killed, only the last record of its file can be incomplete, and readers ignore that
 * one. Errors are ERROR_IO and name the file. */
#ifndef CELFORGE_TRAINER_RUN_TENSORBOARD_H
#define CELFORGE_TRAINER_RUN_TENSORBOARD_H

#include "trainer/run/metrics_log.h"

typedef struct Tensorboard Tensorboard;

/* Starts a new file for a run at `step` steps done: readers discard events of later steps in older
 * files. Its name sorts after theirs, even if the clock has been set back. */
Status tensorboard_open(const char *run_dir, int64_t step, Tensorboard **out, Error *error);
/* Writes the numbers of metrics_visit as scalars, tagged with their keys. */
Status tensorboard_write(Tensorboard *board, const MetricsRecord *record, Error *error);
/* Writes the PNG file `path` (RGB) as the image "samples" of this step. ERROR_DATA if it is not a
 * PNG. */
Status tensorboard_write_sheet(Tensorboard *board, int64_t step, const char *path, Error *error);
/* Flushes all records to disk. */
Status tensorboard_sync(Tensorboard *board, Error *error);
void tensorboard_close(Tensorboard *board); /* NULL is allowed */

#endif
