#include "trainer/eval/report.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"

enum { TITLE_WIDTH = 28, COLUMN_WIDTH = 11, TEXT_SIZE = 512, PAGE_WIDTH = 100 };

static const struct {
  const char *key, *heading;
} COLUMNS[REPORT_COLUMNS] = {[COLUMN_INPUT] = {"input", "source"},
                             [COLUMN_OUTPUT] = {"output", "output"},
                             [COLUMN_FRAME] = {"frame", "per frame"},
                             [COLUMN_TARGET] = {"target", "target"},
                             [COLUMN_CARTOONS] = {"cartoons", "cartoons"}};

typedef enum LineKind { LINE_GROUP, LINE_ROW, LINE_NOTE, LINE_NUMBER } LineKind;

/* One line of the table; `key`, `title` and `best` are owned. */
typedef struct Line {
  LineKind kind;
  char *key, *title, *best;
  ReportRow row;
} Line;

struct Report {
  int count, capacity;
  Line *lines;
};

Report *report_new(void) {
  return mem_new(1, sizeof(Report));
}

void report_free(Report *report) {
  if (!report) return;
  for (int i = 0; i < report->count; i++) {
    free(report->lines[i].key);
    free(report->lines[i].title);
    free(report->lines[i].best);
  }
  free(report->lines);
  free(report);
}

static Line *add_line(Report *report, LineKind kind, const char *key, const char *title,
                      const char *best) {
  MEM_PUSH_SLOT(report->lines, report->count, report->capacity);
  Line *line = &report->lines[report->count++];
  *line = (Line){
      .kind = kind, .key = mem_string(key), .title = mem_string(title), .best = mem_string(best)};
  return line;
}

void report_group(Report *report, const char *title) {
  add_line(report, LINE_GROUP, "", title, "");
}

void report_row(Report *report, const ReportRow *row) {
  add_line(report, LINE_ROW, row->key, row->title, row->best)->row = *row;
}

void report_note(Report *report, const char *format, ...) {
  char text[TEXT_SIZE];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  add_line(report, LINE_NOTE, "", text, "");
}

void report_number(Report *report, const char *key, double value) {
  add_line(report, LINE_NUMBER, key, "", "")->row.values[0] = value;
}

/* --- Printing --------------------------------------------------------------------------------- */

static unsigned used_columns(const Report *report) {
  unsigned used = 0;
  for (int i = 0; i < report->count; i++)
    if (report->lines[i].kind == LINE_ROW) used |= report->lines[i].row.columns;
  return used;
}

static void print_heading(unsigned used, Text *out) {
  text_append(out, "%-*s", TITLE_WIDTH, "");
  for (int c = 0; c < REPORT_COLUMNS; c++)
    if (used >> c & 1) text_append(out, "%*s", COLUMN_WIDTH, COLUMNS[c].heading);
  text_append(out, "  best\n");
}

static void print_row(const Line *line, unsigned used, Text *out) {
  const ReportRow *row = &line->row;
  double scale = row->scale != 0 ? row->scale : 1;
  text_append(out, "  %-*s", TITLE_WIDTH - 2, line->title);
  for (int c = 0; c < REPORT_COLUMNS; c++) {
    if (!(used >> c & 1)) continue;
    if (!(row->columns >> c & 1)) {
      text_append(out, "%*s", COLUMN_WIDTH, "");
    } else if (isnan(row->values[c])) {
      text_append(out, "%*s", COLUMN_WIDTH, "-");
    } else {
      text_append(out, " %*.*f", COLUMN_WIDTH - 1, row->decimals, scale * row->values[c]);
    }
  }
  text_append(out, "  %s\n", line->best);
}

void report_print(const Report *report, Text *out) {
  unsigned used = used_columns(report);
  print_heading(used, out);
  for (int i = 0; i < report->count; i++) {
    const Line *line = &report->lines[i];
    if (line->kind == LINE_GROUP) text_append(out, "%s%s\n", i > 0 ? "\n" : "", line->title);
    if (line->kind == LINE_ROW) print_row(line, used, out);
    if (line->kind != LINE_NOTE) continue;
    text_append(out, "    ");
    text_append_wrapped(out, line->title, 4, PAGE_WIDTH);
    text_append(out, "\n");
  }
}

/* --- JSON ------------------------------------------------------------------------------------- */

static json_t *number(double value) {
  return isnan(value) ? json_null() : json_real(value);
}

Status report_json(const Report *report, json_t *object, Error *error) {
  Status status = OK;
  for (int i = 0; i < report->count; i++) {
    const Line *line = &report->lines[i];
    if (line->kind == LINE_NUMBER)
      TRY(json_set(object, line->key, number(line->row.values[0]), line->key, error));
    for (int c = 0; line->kind == LINE_ROW && c < REPORT_COLUMNS; c++) {
      char key[TEXT_SIZE];
      if (!(line->row.columns >> c & 1)) continue;
      snprintf(key, sizeof key, "%s_%s", line->key, COLUMNS[c].key);
      TRY(json_set(object, key, number(line->row.values[c]), key, error));
    }
  }
done:
  return status;
}
