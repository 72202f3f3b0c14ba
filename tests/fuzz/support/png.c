/* Mutations of a PNG file: chunks (length, type, data, CRC-32), and the filtered rows that IDAT
 * holds, inflated (W3C: Portable Network Graphics Specification, 2nd edition). */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "tests/fuzz/support/fuzz.h"

enum { SIGNATURE = 8, FRAME = 12, MAX_CHUNKS = 64, MAX_ROWS = 1 << 16 };

typedef struct Chunk {
  size_t begin, length; /* of the chunk with its frame; of its data */
} Chunk;

static uint32_t get32(const uint8_t *at) {
  return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void put32(uint8_t *at, uint32_t value) {
  for (int i = 0; i < 4; i++) at[i] = (uint8_t)(value >> (24 - 8 * i));
}

static int find_chunks(const uint8_t *data, size_t size, Chunk *chunks) {
  int count = 0;
  for (size_t at = SIGNATURE; at + FRAME <= size && count < MAX_CHUNKS;) {
    size_t length = get32(data + at);
    if (length > size - at - FRAME) break;
    chunks[count++] = (Chunk){at, length};
    at += FRAME + length;
  }
  return count;
}

static void fix_checksums(uint8_t *data, size_t size) {
  Chunk chunks[MAX_CHUNKS];
  int count = find_chunks(data, size, chunks);
  for (int i = 0; i < count; i++) {
    uint8_t *type = data + chunks[i].begin + 4;
    uint32_t crc = (uint32_t)crc32(0, type, (uInt)(4 + chunks[i].length));
    put32(type + 4 + chunks[i].length, crc);
  }
}

/* Replaces the data of a chunk. */
static size_t set_data(uint8_t *data, size_t size, size_t room, Chunk chunk, const uint8_t *value,
                       size_t length) {
  size_t begin = chunk.begin + 8;
  if (size - chunk.length + length > room) return size;
  size = replace_bytes(data, size, room, begin, begin + chunk.length, value, length);
  put32(data + chunk.begin, (uint32_t)length);
  return size;
}

static size_t mutate_data(uint8_t *data, size_t size, size_t room, Chunk chunk, Dice *dice) {
  static uint8_t value[MAX_ROWS];
  if (chunk.length > 0 && dice_chance(dice, 2)) {
    size_t begin = chunk.begin + 8;
    mutate_field(data, begin, begin + chunk.length, dice);
    return size;
  }
  if (chunk.length > sizeof value / 2) return size;
  memcpy(value, data + chunk.begin + 8, chunk.length);
  size_t length = LLVMFuzzerMutate(value, chunk.length, sizeof value);
  return set_data(data, size, room, chunk, value, length);
}

/* Inflates a chunk, mutates, and deflates again, with a right Adler-32. */
static size_t mutate_rows(uint8_t *data, size_t size, size_t room, Chunk chunk, Dice *dice) {
  static uint8_t rows[MAX_ROWS], packed[2 * MAX_ROWS];
  uLongf length = sizeof rows / 2, written = sizeof packed;
  if (uncompress(rows, &length, data + chunk.begin + 8, chunk.length) != Z_OK) return size;
  size_t mutated = length;
  if (dice_chance(dice, 2))
    mutate_field(rows, 0, mutated, dice);
  else
    mutated = LLVMFuzzerMutate(rows, mutated, sizeof rows);
  if (compress2(packed, &written, rows, mutated, (int)dice_below(dice, 10)) != Z_OK) return size;
  return set_data(data, size, room, chunk, packed, written);
}

static const char *const TYPES[] = {"IHDR", "PLTE", "IDAT", "IEND", "tRNS", "cHRM", "gAMA", "iCCP",
                                    "sBIT", "sRGB", "tEXt", "zTXt", "iTXt", "bKGD", "hIST", "pHYs",
                                    "sPLT", "tIME", "eXIf", "oFFs", "pCAL", "sCAL", "ABCD", "abcd"};

static size_t copy_chunk(uint8_t *data, size_t size, size_t room, Chunk chunk, size_t at) {
  static uint8_t value[MAX_ROWS];
  size_t length = chunk.length + FRAME;
  if (length > sizeof value) return size;
  memcpy(value, data + chunk.begin, length);
  return replace_bytes(data, size, room, at, at, value, length);
}

static size_t mutate_chunk(uint8_t *data, size_t size, size_t room, Dice *dice) {
  Chunk chunks[MAX_CHUNKS];
  int count = find_chunks(data, size, chunks);
  if (count == 0) return LLVMFuzzerMutate(data, size, room);
  Chunk chunk = chunks[dice_below(dice, (size_t)count)];
  Chunk other = chunks[dice_below(dice, (size_t)count)];
  const char *type = TYPES[dice_below(dice, sizeof TYPES / sizeof *TYPES)];
  uint8_t empty[FRAME] = {0};
  switch (dice_below(dice, 10)) {
  case 0:
    memcpy(data + chunk.begin + 4, type, 4);
    return size;
  case 1:
    return copy_chunk(data, size, room, chunk, other.begin);
  case 2:
    return replace_bytes(data, size, room, chunk.begin, chunk.begin + FRAME + chunk.length, NULL,
                         0);
  case 3:
    mutate_field(data, SIGNATURE + 8, SIGNATURE + 21 < size ? SIGNATURE + 21 : size, dice);
    return size;
  case 4:
    memcpy(empty + 4, type, 4);
    return replace_bytes(data, size, room, chunk.begin, chunk.begin, empty, FRAME);
  case 5:
  case 6:
    return mutate_rows(data, size, room, chunk, dice);
  default:
    return mutate_data(data, size, room, chunk, dice);
  }
}

size_t mutate_png(uint8_t *data, size_t size, size_t room, Dice *dice) {
  if (dice_chance(dice, 16)) return LLVMFuzzerMutate(data, size, room); /* checksums stay wrong */
  unsigned times = 1 + dice_below(dice, 3);
  for (unsigned i = 0; i < times; i++) size = mutate_chunk(data, size, room, dice);
  fix_checksums(data, size);
  return size;
}
