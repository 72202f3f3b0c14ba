/* The scores of an evaluation as a table: rows of scores in groups, columns of videos. It is
 * printed and written as JSON from the same rows. */
#ifndef CELFORGE_TRAINER_EVAL_REPORT_H
#define CELFORGE_TRAINER_EVAL_REPORT_H

#include "base/json.h"
#include "base/text.h"

typedef enum ReportColumn {
  COLUMN_INPUT,    /* the source, enlarged to the output's size */
  COLUMN_OUTPUT,   /* the clip translated as a stream */
  COLUMN_FRAME,    /* every frame translated alone */
  COLUMN_TARGET,   /* the aligned target */
  COLUMN_CARTOONS, /* cartoons that are not aligned with the source */
  REPORT_COLUMNS,
} ReportColumn;

typedef struct ReportRow {
  const char *key; /* in JSON, followed by "_" and the column's name: "psnr" gives "psnr_output" */
  const char *title; /* at most 26 characters */
  const char *best;  /* how to read it, at most 16 characters: "higher", "as the cartoons" */
  int decimals;      /* of the printed value */
  double scale;      /* of the printed value; 0: 1 */
  unsigned columns;  /* bit mask of the videos that have this score: 1u << COLUMN_INPUT */
  double values[REPORT_COLUMNS]; /* NaN: undefined for these clips; printed "-", null in JSON */
} ReportRow;

typedef struct Report Report;
Report *report_new(void);
void report_free(Report *report); /* NULL is allowed */
/* Begins a group of rows. All texts are copied. */
void report_group(Report *report, const char *title);
/* Adds a row to the group. */
void report_row(Report *report, const ReportRow *row);
/* Adds a sentence below the rows so far. */
void report_note(Report *report, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Adds a number to the JSON alone; NaN becomes null. */
void report_number(Report *report, const char *key, double value);

/* Appends the table, at most 100 columns wide. Videos without any score have no column. */
void report_print(const Report *report, Text *out);
/* Sets every score as a key of `object`. */
Status report_json(const Report *report, json_t *object, Error *error);

#endif
