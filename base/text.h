/* A growing string, for reports, JSON lines and plans. Zero-initialise it; text_free when done. */
#ifndef CELFORGE_BASE_TEXT_H
#define CELFORGE_BASE_TEXT_H

#include <stddef.h>
#include <stdint.h>

typedef struct Text {
  char *data; /* NUL-terminated after the first append; NULL before */
  size_t length, capacity;
} Text;

void text_append(Text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_append_bytes(Text *text, const void *bytes, size_t size);
/* Appends a string as one printable line: control characters and bytes that are not UTF-8 as \n,
 * \r, \t or \xNN. */
void text_append_printable(Text *text, const char *string);
void text_clear(Text *text);
void text_free(Text *text);

/* Appends words, wrapped at `width` columns. Every line starts at column `indent`, where the text
 * must already be. */
void text_append_wrapped(Text *text, const char *words, int indent, int width);

/* Appends a size in binary units, "1.5 GiB" or "640 B", or a count in decimal ones, "12.3 G". */
void text_append_size(Text *text, double bytes);
void text_append_count(Text *text, double count);

/* Decodes one UTF-8 character and advances *text past it. For invalid UTF-8 returns -1 and advances
 * by one byte. */
int32_t text_next_code_point(const char **text);

/* Returns the edit distance (insertion, deletion, replacement, swap of neighbours), for "did you
 * mean". */
int text_distance(const char *a, const char *b);

#endif
