/* A growing string, for reports, JSON lines and plans. Zero-initialise; text_free when done. */
#ifndef CELFORGE_BASE_TEXT_H
#define CELFORGE_BASE_TEXT_H

#include <stddef.h>

typedef struct Text {
  char *data; /* NUL-terminated once anything was appended; NULL before */
  size_t length, capacity;
} Text;

void text_append(Text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_append_bytes(Text *text, const void *bytes, size_t size);
void text_clear(Text *text);
void text_free(Text *text);

/* The words of `words` as lines of up to `width` columns, all from column `indent` on, where the
 * text already ends. */
void text_append_wrapped(Text *text, const char *words, int indent, int width);

/* "1.5 GiB", "640 B"; "12.3 G" for counts per second and the like. */
void text_append_bytes_size(Text *text, double bytes);
void text_append_count(Text *text, double count);

/* The edit distance (insert, delete, replace, swap of neighbours), for "did you mean". */
int text_distance(const char *a, const char *b);

#endif
