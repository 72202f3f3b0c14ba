#include "base/text.h"

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* Makes room for `more` bytes and a NUL after the current content. */
static void reserve(Text *text, size_t more) {
  size_t needed = text->length + more + 1;
  if (needed <= text->capacity) return;
  size_t capacity = text->capacity ? text->capacity : 64;
  while (capacity < needed) capacity *= 2;
  text->data = mem_resize(text->data, capacity, 1);
  text->capacity = capacity;
}

void text_append(Text *text, const char *format, ...) {
  va_list arguments, again;
  va_start(arguments, format);
  va_copy(again, arguments);
  int length = vsnprintf(NULL, 0, format, arguments);
  va_end(arguments);
  if (length >= 0) {
    reserve(text, (size_t)length);
    vsnprintf(text->data + text->length, (size_t)length + 1, format, again);
    text->length += (size_t)length;
  }
  va_end(again);
}

void text_append_bytes(Text *text, const void *bytes, size_t size) {
  reserve(text, size);
  if (size > 0) memcpy(text->data + text->length, bytes, size);
  text->length += size;
  text->data[text->length] = '\0';
}

void text_append_printable(Text *text, const char *string) {
  text_append_bytes(text, "", 0);
  while (*string) {
    const char *next = string;
    int32_t point = text_next_code_point(&next);
    const char *name = point == '\n' ? "\\n" : point == '\r' ? "\\r" : point == '\t' ? "\\t" : NULL;
    bool control = point < 0x20 || (point >= 0x7f && point < 0xa0); /* or -1: not UTF-8 */
    if (name)
      text_append(text, "%s", name);
    else if (!control)
      text_append_bytes(text, string, (size_t)(next - string));
    else
      for (const char *byte = string; byte < next; byte++)
        text_append(text, "\\x%02x", (unsigned char)*byte);
    string = next;
  }
}

void text_clear(Text *text) {
  text->length = 0;
  if (text->data) text->data[0] = '\0';
}

void text_free(Text *text) {
  free(text->data);
  *text = (Text){0};
}

/* Appends the value in the largest unit in which it is at least 1, with one decimal unless that is
 * the base unit. */
static void append_scaled(Text *text, double value, double step, const char *const units[],
                          int unit_count) {
  int unit = 0;
  /* 1023.96 would be printed as 1024.0, so it uses the next unit. */
  while (unit + 1 < unit_count && fabs(value) >= (unit ? step - 0.05 : step) && isfinite(value)) {
    value /= step;
    unit++;
  }
  if (unit > 0)
    text_append(text, "%.1f%s", value, units[unit]);
  else
    text_append(text, "%.4g%s", value, units[unit]);
}

void text_append_wrapped(Text *text, const char *words, int indent, int width) {
  size_t column = (size_t)indent;
  for (words += strspn(words, " "); *words; words += strspn(words, " ")) {
    size_t word = strcspn(words, " ");
    bool first = column == (size_t)indent;
    if (!first && column + 1 + word > (size_t)width) {
      text_append(text, "\n%*s", indent, "");
      column = (size_t)indent;
      first = true;
    }
    text_append(text, "%s%.*s", first ? "" : " ", (int)word, words);
    column += word + !first;
    words += word;
  }
}

void text_append_size(Text *text, double bytes) {
  static const char *const units[] = {" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"};
  append_scaled(text, bytes, 1024, units, 7);
}

void text_append_count(Text *text, double count) {
  static const char *const units[] = {"", " K", " M", " G", " T", " P", " E"};
  append_scaled(text, count, 1000, units, 7);
}

int32_t text_next_code_point(const char **text) {
  const unsigned char *p = (const unsigned char *)*text;
  int more = *p < 0x80 ? 0 : *p >= 0xc2 && *p < 0xe0 ? 1 : *p >= 0xe0 && *p < 0xf0 ? 2 : 3;
  int32_t point = more == 0 ? *p : *p & (0x3f >> more);
  (*text)++;
  if (more == 0) return point;
  if (*p < 0xc2 || *p > 0xf4) return -1;
  for (int i = 1; i <= more; i++) {
    if ((p[i] & 0xc0) != 0x80) return -1;
    point = point << 6 | (p[i] & 0x3f);
  }
  static const int32_t least[] = {0, 0x80, 0x800, 0x10000}; /* rejects overlong encodings */
  if (point < least[more] || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) return -1;
  *text += more;
  return point;
}

static int smaller(int a, int b) {
  return a < b ? a : b;
}

/* Optimal string alignment by dynamic programming over prefixes; keeps three rows. */
int text_distance(const char *a, const char *b) {
  size_t n = strlen(a), m = strlen(b);
  int *rows = mem_new(3 * (m + 1), sizeof *rows);
  int *before = rows, *above = rows + m + 1, *row = rows + 2 * (m + 1);
  for (size_t j = 0; j <= m; j++) row[j] = (int)j;
  for (size_t i = 1; i <= n; i++) {
    int *free_row = before;
    before = above;
    above = row;
    row = free_row;
    row[0] = (int)i;
    for (size_t j = 1; j <= m; j++) {
      int replaced = above[j - 1] + (a[i - 1] != b[j - 1]);
      row[j] = smaller(replaced, smaller(above[j], row[j - 1]) + 1);
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = smaller(row[j], before[j - 2] + 1);
    }
  }
  int distance = row[m];
  free(rows);
  return distance;
}
