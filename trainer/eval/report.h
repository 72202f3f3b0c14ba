/* The scores of an evaluation as a table: rows of scores in groups, columns of videos. It is
 * printed and written as JSON from the same rows. */
#ifndef CELFORGE_TRAINER_EVAL_REPORT_H
#define CELFORGE_TRAINER_EVAL_REPORT_H

#include <jansson.h>

#include "base/error.h"
#include "base/text.h"

typedef enum ReportColumn {
  COLUMN_INPUT,  /* the source, enlarged to the output's size */
  COLUMN_OUTPUT, /* the clip translated as a stream */
  COLUMN_FRAME,  /* every frame translated alone */
  COLUMN_TARGET,
  COLUMN_CARTOONS, /* a dataset of cartoons that are not aligned with the source */
  REPORT_COLUMNS,
} ReportColumn;

typedef struct ReportRow {
  const char *key; /* in JSON, followed by "_" and the column's name: "psnr" gives "psnr_output" */
  const char *title; /* at most 25 columns */
  const char *best;  /* how to read it, at most 13 columns: "higher", "cartoons'" */
  int decimals;
  double scale;                  /* of the printed value; 0: 1 */
  unsigned columns;              /* bit mask, 1u << COLUMN_INPUT: the videos that have this score */
  double values[REPORT_COLUMNS]; /* NaN: not defined for these clips; printed "-", null in JSON */
} ReportRow;

typedef struct Report Report;
Report *report_new(void);
void report_free(Report *report); /* NULL is allowed */
/* Begins a group of rows, and adds rows to it. Texts must outlive the report; `row` is copied. */
void report_group(Report *report, const char *title);
void report_row(Report *report, const ReportRow *row);
/* Adds a single number to the JSON alone. */
void report_number(Report *report, const char *key, double value);
/* Adds a sentence that is printed below the current group. The text is copied. */
void report_note(Report *report, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Appends the table, at most 100 columns wide. Columns without any score are dropped. */
void report_print(const Report *report, Text *out);
/* Sets every score as a key of `object`. */
Status report_json(const Report *report, json_t *object, Error *error);

#endif
