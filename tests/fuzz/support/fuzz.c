/* Requirements, random choices and the simple mutations. */
#include "tests/fuzz/support/fuzz.h"

#include <stdlib.h>
#include <string.h>

void require(bool good) {
  if (!good) abort();
}

void require_error(Status status, const Error *error) {
  require(error->status == status && error->message[0] != '\0');
  require(strlen(error->message) < sizeof error->message);
}

/* --- Random choices: SplitMix64 (Steele, Lea, Flood 2014) ------------------------------------- */

static uint64_t next(Dice *dice) {
  uint64_t z = dice->state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

Dice dice_new(unsigned seed) {
  return (Dice){seed};
}

uint32_t dice_below(Dice *dice, size_t limit) {
  return limit > 0 ? (uint32_t)(next(dice) % limit) : 0;
}

bool dice_chance(Dice *dice, unsigned one_in) {
  return dice_below(dice, one_in) == 0;
}

/* --- Bytes ------------------------------------------------------------------------------------ */

size_t replace_bytes(uint8_t *data, size_t size, size_t room, size_t begin, size_t end,
                     const void *text, size_t length) {
  if (begin > end || end > size || size - (end - begin) + length > room) return size;
  memmove(data + begin + length, data + end, size - end);
  if (length > 0) memcpy(data + begin, text, length);
  return size - (end - begin) + length;
}

/* The boundary values of a field of `width` bytes, some of them near `size`. */
static uint64_t boundary(size_t size, int width, Dice *dice) {
  const uint64_t top = (uint64_t)1 << (8 * width - 1);
  switch (dice_below(dice, 10)) {
  case 0:
    return 0;
  case 1:
    return 1;
  case 2:
    return UINT64_MAX;
  case 3:
    return top;
  case 4:
    return top - 1;
  case 5:
    return size;
  case 6:
    return size - 1 - dice_below(dice, 16);
  case 7:
    return dice_below(dice, size + 1);
  case 8:
    return (uint64_t)1 << dice_below(dice, (size_t)width * 8);
  default:
    return dice_below(dice, 300);
  }
}

void mutate_field(uint8_t *data, size_t begin, size_t end, Dice *dice) {
  if (begin >= end) return;
  size_t at = begin + dice_below(dice, end - begin);
  int width = 1 << dice_below(dice, 4);
  bool big_endian = dice_chance(dice, 2);
  if (dice_chance(dice, 3)) {
    data[at] ^= (uint8_t)(1u << dice_below(dice, 8));
    return;
  }
  uint64_t value = boundary(end, width, dice);
  for (int i = 0; i < width && at + (size_t)i < end; i++)
    data[at + (size_t)i] = (uint8_t)(value >> 8 * (big_endian ? width - 1 - i : i));
}

/* Called by AddressSanitizer. Short stacks of allocations and a small quarantine double the speed
 * of parsers that allocate much; a finding is run again with ASAN_OPTIONS=malloc_context_size=30.
 */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
  return "malloc_context_size=2:quarantine_size_mb=4:allocator_may_return_null=1";
}
