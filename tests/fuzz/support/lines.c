/* Mutations of YAML, line by line. */
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/support/fuzz.h"

enum { MAX_LINES = 512, MAX_LINE = 2048 };

typedef struct Line {
  size_t begin, end; /* without the newline */
} Line;

static const char *const VALUES[] = {"0",
                                     "1",
                                     "-1",
                                     "9223372036854775807",
                                     "-9223372036854775809",
                                     "1e308",
                                     "1e309",
                                     "-1e-320",
                                     ".inf",
                                     ".nan",
                                     "0x7f",
                                     "1_000",
                                     "true",
                                     "null",
                                     "~",
                                     "\"\"",
                                     "''",
                                     "\"\\u0000\"",
                                     "\"\\x1b[2J\"",
                                     "\"\\ud800\"",
                                     "[1, 2]",
                                     "{a: 1}",
                                     "&a 1",
                                     "*a",
                                     "!!int 1",
                                     "|\n  text",
                                     ">-\n  text",
                                     "# comment",
                                     "[[[[[[[[[[[[[[[[[[[[[[",
                                     "? a"};

static int find_lines(const uint8_t *data, size_t size, Line *lines) {
  int count = 0;
  for (size_t at = 0; at < size && count < MAX_LINES;) {
    const uint8_t *newline = memchr(data + at, '\n', size - at);
    size_t end = newline ? (size_t)(newline - data) : size;
    lines[count++] = (Line){at, end};
    at = end + 1;
  }
  return count;
}

static const char *pick(Words words, Dice *dice) {
  size_t count = 0;
  while (words && words[count]) count++;
  if (count > 0 && dice_chance(dice, 2)) return words[dice_below(dice, count)];
  return VALUES[dice_below(dice, sizeof VALUES / sizeof *VALUES)];
}

/* Replaces what is behind the colon, or all of a line without one. */
static size_t set_value(uint8_t *data, size_t size, size_t room, Line line, Words words,
                        Dice *dice) {
  const uint8_t *colon = memchr(data + line.begin, ':', line.end - line.begin);
  size_t begin = colon ? (size_t)(colon - data) + 1 : line.begin;
  const char *value = pick(words, dice);
  size = replace_bytes(data, size, room, begin, line.end, value, strlen(value));
  return replace_bytes(data, size, room, begin, begin, " ", 1);
}

static size_t mutate_value_bytes(uint8_t *data, size_t size, size_t room, Line line) {
  uint8_t text[MAX_LINE];
  const uint8_t *colon = memchr(data + line.begin, ':', line.end - line.begin);
  size_t begin = colon ? (size_t)(colon - data) + 1 : line.begin, length = line.end - begin;
  if (length > sizeof text / 2) return size;
  memcpy(text, data + begin, length);
  length = LLVMFuzzerMutate(text, length, sizeof text);
  return replace_bytes(data, size, room, begin, line.end, text, length);
}

/* Inserts a copy of a line, with its newline, before another. */
static size_t copy_line(uint8_t *data, size_t size, size_t room, Line line, size_t at) {
  uint8_t text[MAX_LINE + 1];
  size_t length = line.end - line.begin;
  if (length > MAX_LINE) return size;
  memcpy(text, data + line.begin, length);
  text[length] = '\n';
  return replace_bytes(data, size, room, at, at, text, length + 1);
}

size_t mutate_lines(uint8_t *data, size_t size, size_t room, Words words, Dice *dice) {
  Line lines[MAX_LINES];
  int count = find_lines(data, size, lines);
  if (count == 0 || dice_chance(dice, 3)) return LLVMFuzzerMutate(data, size, room);
  Line line = lines[dice_below(dice, (size_t)count)];
  Line other = lines[dice_below(dice, (size_t)count)];
  switch (dice_below(dice, 7)) {
  case 0:
    return replace_bytes(data, size, room, line.begin, line.end + (line.end < size), NULL, 0);
  case 1:
    return copy_line(data, size, room, line, other.begin);
  case 2:
    return replace_bytes(data, size, room, line.begin, line.begin, "  ", 1 + dice_below(dice, 2));
  case 3:
    if (line.begin == line.end || data[line.begin] != ' ') return size;
    return replace_bytes(data, size, room, line.begin, line.begin + 1, NULL, 0);
  case 4:
    return mutate_value_bytes(data, size, room, line);
  default:
    return set_value(data, size, room, line, words, dice);
  }
}
