/* TensorBoard event files: the numbers of metrics.jsonl as scalars, sample sheets as images; rank 0
 * writes them. `tensorboard --logdir RUN`, or the folder of many runs, shows them.
 *
 * A file is a row of records (TFRecord): the length as u64, the masked CRC-32C of those 8 bytes,
 * the data, the masked CRC-32C of the data; all little-endian. A checksum is masked by turning it
 * right by 15 bits and adding 0xa282ead8. The data is an Event message: wall time (seconds since
 * the epoch, f64), step (steps done), and one of
 *
 *   a string      the file's version, in its first record
 *   a SessionLog  that a session starts here: what was said of this step and later ones is void
 *   a Summary     values under a tag each: f32 numbers, or an image
 *
 * Sources: record_writer.cc, event.proto and summary.proto of TensorFlow; tensorboard/compat/proto.
 *
 * Files lie in RUN/tensorboard and are called events.out.tfevents.SECONDS.HOST.PID. A record is one
 * write; half a one, of a process killed meanwhile, can only be a file's last, where readers pass
 * over it. Errors name the file (ERROR_IO; ERROR_DATA for what is no PNG). */
#ifndef CELFORGE_TRAINER_RUN_TENSORBOARD_H
#define CELFORGE_TRAINER_RUN_TENSORBOARD_H

#include "trainer/run/metrics_log.h"

typedef struct Tensorboard Tensorboard;

/* Begins a new file for a run that goes on behind `step` steps: what older files say of later steps
 * is dropped by their reader. Its name comes behind theirs, whatever the clock says. */
Status tensorboard_open(const char *run_dir, int64_t step, Tensorboard **out, Error *error);
/* The numbers of metrics_numbers, each under its key. */
Status tensorboard_write(Tensorboard *board, const MetricsRecord *record, Error *error);
/* The PNG file `path`, in RGB, as the image "samples" of this step. */
Status tensorboard_write_sheet(Tensorboard *board, int64_t step, const char *path, Error *error);
/* What was written is on the disk when it returns. */
Status tensorboard_sync(Tensorboard *board, Error *error);
void tensorboard_close(Tensorboard *board); /* NULL is allowed */

#endif
