/* Mutations of JSON, on the text: a scan finds the values and their keys, also in text that no
 * parser accepts. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/support/fuzz.h"

enum { MAX_VALUES = 512, MAX_DEPTH = 64, MAX_TEXT = 4096 };

/* A value; `whole` begins at its key if it is a member of an object. */
typedef struct Value {
  size_t whole, begin, end;
} Value;

typedef struct Scan {
  int count, depth;
  Value values[MAX_VALUES];
  int open[MAX_DEPTH]; /* indices of the containers around */
} Scan;

static size_t end_of_string(const uint8_t *text, size_t size, size_t at) {
  for (at++; at < size && text[at] != '"'; at++)
    if (text[at] == '\\') at++;
  return at < size ? at + 1 : size;
}

/* Not memchr, whose calls AddressSanitizer intercepts: this runs for every byte. */
static bool is_space(uint8_t c) {
  return c == ' ' || c == '\n' || c == '\t' || c == ',' || c == ':';
}

static bool ends_word(uint8_t c) {
  return is_space(c) || c == '}' || c == ']' || c == '{' || c == '[' || c == '"';
}

static size_t end_of_word(const uint8_t *text, size_t size, size_t at) {
  while (at < size && !ends_word(text[at])) at++;
  return at;
}

static void scan(const uint8_t *text, size_t size, Scan *out) {
  size_t key = SIZE_MAX;
  out->count = out->depth = 0;
  for (size_t at = 0; at < size && out->count < MAX_VALUES;) {
    uint8_t c = text[at];
    Value *value = &out->values[out->count];
    *value = (Value){key == SIZE_MAX ? at : key, at, at + 1};
    if (c == '{' || c == '[') {
      if (out->depth < MAX_DEPTH) out->open[out->depth++] = out->count;
      out->count++;
    } else if (c == '}' || c == ']') {
      if (out->depth > 0) out->values[out->open[--out->depth]].end = at + 1;
    } else if (c == '"') {
      value->end = end_of_string(text, size, at);
      if (value->end < size && text[value->end] == ':') {
        key = at;
        at = value->end + 1;
        continue;
      }
      out->count++;
    } else if (!is_space(c)) {
      value->end = end_of_word(text, size, at);
      out->count++;
    }
    if (c != ' ' && c != '\n' && c != '\t') key = SIZE_MAX;
    at = c == '{' || c == '[' ? at + 1 : value->end;
  }
}

static const char *const LITERALS[] = {
    "0",
    "1",
    "-1",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "1e308",
    "1e309",
    "-0.0",
    "0.5",
    "1e-320",
    "null",
    "true",
    "false",
    "\"\"",
    "{}",
    "[]",
    "[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]",
    "\"\\u0000\"",
    "\"\\ud83d\\ude00\"",
    "\"\\u202e\\u001b[2J\"",
    "\"%s%n%s\"",
    "\"../../etc/passwd\"",
    "[0,0]",
    "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\""};

static const char *pick_literal(Words words, Dice *dice) {
  size_t count = 0;
  while (words && words[count]) count++;
  if (count > 0 && dice_chance(dice, 2)) return words[dice_below(dice, count)];
  return LITERALS[dice_below(dice, sizeof LITERALS / sizeof *LITERALS)];
}

/* Writes a number near the value's, or a boundary value. */
static size_t mutate_number(uint8_t *data, size_t size, size_t room, Value value, Dice *dice) {
  char text[32] = "", out[32];
  size_t length = value.end - value.begin;
  if (length >= sizeof text) return size;
  memcpy(text, data + value.begin, length);
  int64_t number = strtoll(text, NULL, 10);
  switch (dice_below(dice, 6)) {
  case 0:
    number = (int64_t)((uint64_t)number + 1);
    break;
  case 1:
    number = (int64_t)((uint64_t)number - 1);
    break;
  case 2:
    number = (int64_t)((uint64_t)number * 2);
    break;
  case 3:
    number = (int64_t)((uint64_t)number ^ (1ull << dice_below(dice, 64)));
    break;
  case 4:
    number /= 2;
    break;
  default:
    number = (int64_t)(0 - (uint64_t)number);
    break;
  }
  int written = snprintf(out, sizeof out, "%" PRId64, number);
  return replace_bytes(data, size, room, value.begin, value.end, out, (size_t)written);
}

static size_t mutate_string(uint8_t *data, size_t size, size_t room, Value value) {
  uint8_t text[MAX_TEXT];
  size_t length = value.end - value.begin;
  if (length < 2 || length > sizeof text / 2) return size;
  memcpy(text, data + value.begin + 1, length - 2);
  length = LLVMFuzzerMutate(text, length - 2, sizeof text);
  return replace_bytes(data, size, room, value.begin + 1, value.end - 1, text, length);
}

/* Removes a member or element with the comma behind or before it. */
static size_t remove_value(uint8_t *data, size_t size, size_t room, Value value) {
  size_t begin = value.whole, end = value.end;
  if (end < size && data[end] == ',')
    end++;
  else if (begin > 0 && data[begin - 1] == ',')
    begin--;
  return replace_bytes(data, size, room, begin, end, NULL, 0);
}

/* Inserts a copy of `what` up to `times` times behind it, with commas. */
static size_t repeat_value(uint8_t *data, size_t size, size_t room, Value what, size_t times) {
  uint8_t text[MAX_TEXT + 1] = {','};
  size_t length = what.end - what.whole;
  if (length > MAX_TEXT) return size;
  memcpy(text + 1, data + what.whole, length);
  for (size_t i = 0; i < times; i++)
    size = replace_bytes(data, size, room, what.end, what.end, text, length + 1);
  return size;
}

static size_t copy_over(uint8_t *data, size_t size, size_t room, size_t begin, size_t end,
                        size_t from, size_t length) {
  uint8_t text[MAX_TEXT];
  if (length > sizeof text) return size;
  memcpy(text, data + from, length);
  return replace_bytes(data, size, room, begin, end, text, length);
}

static size_t mutate_value(uint8_t *data, size_t size, size_t room, const Scan *scan, Words words,
                           Dice *dice) {
  Value value = scan->values[dice_below(dice, (size_t)scan->count)];
  Value other = scan->values[dice_below(dice, (size_t)scan->count)];
  uint8_t first = data[value.begin];
  const char *literal = pick_literal(words, dice);
  switch (dice_below(dice, 9)) {
  case 0:
    return remove_value(data, size, room, value);
  case 1:
    return repeat_value(data, size, room, value, 1 + dice_below(dice, 8));
  case 2:
    return copy_over(data, size, room, value.begin, value.end, other.begin,
                     other.end - other.begin);
  case 3: /* the key of another member */
    if (value.whole == value.begin || other.whole == other.begin) return size;
    return copy_over(data, size, room, value.whole, value.begin, other.whole,
                     other.begin - other.whole);
  case 4:
    return replace_bytes(data, size, room, value.begin, value.begin, literal, strlen(literal));
  case 5:
    return replace_bytes(data, size, room, value.begin, value.end, literal, strlen(literal));
  default:
    break;
  }
  if (first == '"') return mutate_string(data, size, room, value);
  if (first == '-' || (first >= '0' && first <= '9'))
    return mutate_number(data, size, room, value, dice);
  return replace_bytes(data, size, room, value.begin, value.end, literal, strlen(literal));
}

size_t mutate_json(uint8_t *data, size_t size, size_t room, Words words, Dice *dice) {
  static Scan found;
  if (dice_chance(dice, 4)) return LLVMFuzzerMutate(data, size, room);
  unsigned times = 1 + dice_below(dice, 3);
  for (unsigned i = 0; i < times; i++) {
    scan(data, size, &found);
    if (found.count == 0) return LLVMFuzzerMutate(data, size, room);
    size = mutate_value(data, size, room, &found, words, dice);
  }
  return size;
}
