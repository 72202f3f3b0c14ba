/* Mutations of HDF5 files of superblock version 3, with offsets and lengths of 8 bytes. Its
 * structures begin with a signature and end with a lookup3 checksum of all bytes before (HDF5 File
 * Format Specification, version 3). */
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/support/fuzz.h"

enum { MAX_STRUCTURES = 64, MAX_MESSAGES = 64 };

/* A structure with a checksum at `checksum` over the bytes from `begin`; in the middle of the
 * structure, and itself counted as 0, in blocks of a fractal heap (`end` is behind them). */
typedef struct Structure {
  size_t begin, checksum, end;
} Structure;

typedef struct Message {
  size_t begin, size; /* of its header, of 4 or 6 bytes; of its body */
  size_t header;
} Message;

typedef struct File {
  uint8_t *data;
  size_t size;
  int count, message_count;
  Structure structures[MAX_STRUCTURES];
  Message messages[MAX_MESSAGES];
} File;

/* --- lookup3 (Jenkins 2006: "hashlittle", initial value 0) ------------------------------------ */

static uint32_t rotate(uint32_t x, int k) {
  return x << k | x >> (32 - k);
}

static void mix(uint32_t v[3]) {
  static const int SHIFTS[6] = {4, 6, 8, 16, 19, 4};
  for (int i = 0; i < 6; i++) {
    uint32_t *a = &v[i % 3], *b = &v[(i + 1) % 3], *c = &v[(i + 2) % 3];
    *a -= *c;
    *a ^= rotate(*c, SHIFTS[i]);
    *c += *b;
  }
}

static void finish(uint32_t v[3]) {
  static const int SHIFTS[7] = {14, 11, 25, 16, 4, 14, 24};
  for (int i = 0; i < 7; i++) {
    uint32_t *target = &v[(i + 2) % 3], *other = &v[(i + 1) % 3];
    *target ^= *other;
    *target -= rotate(*other, SHIFTS[i]);
  }
}

static uint32_t lookup3(const uint8_t *data, size_t size) {
  uint32_t v[3];
  v[0] = v[1] = v[2] = 0xdeadbeef + (uint32_t)size;
  while (size > 12) {
    for (int i = 0; i < 12; i++) v[i / 4] += (uint32_t)data[i] << 8 * (i % 4);
    mix(v);
    data += 12;
    size -= 12;
  }
  if (size == 0) return v[2];
  for (size_t i = 0; i < size; i++) v[i / 4] += (uint32_t)data[i] << 8 * (i % 4);
  finish(v);
  return v[2];
}

/* --- Finding the structures ------------------------------------------------------------------- */

static uint64_t get(const File *file, size_t at, int width) {
  uint64_t value = 0;
  for (int i = 0; i < width && at + (size_t)i < file->size; i++)
    value |= (uint64_t)file->data[at + (size_t)i] << 8 * i;
  return value;
}

static void add(File *file, size_t begin, size_t checksum, size_t end) {
  if (file->count == MAX_STRUCTURES || end > file->size || checksum + 4 > end || checksum < begin)
    return;
  file->structures[file->count++] = (Structure){begin, checksum, end};
}

/* Adds a structure whose checksum is its last four bytes. */
static void add_bytes(File *file, size_t begin, uint64_t bytes) {
  if (bytes >= 4 && bytes <= file->size - begin)
    add(file, begin, begin + (size_t)bytes - 4, begin + (size_t)bytes);
}

static void find_messages(File *file, size_t begin, size_t end, size_t header) {
  enum { CONTINUATION = 0x10 };
  for (size_t at = begin; at + header <= end && file->message_count < MAX_MESSAGES;) {
    size_t size = get(file, at + 1, 2);
    if (size > end - at - header) return;
    file->messages[file->message_count++] = (Message){at, size, header};
    uint64_t offset = get(file, at + header, 8), length = get(file, at + header + 8, 8);
    if (file->data[at] == CONTINUATION && size == 16 && offset < file->size &&
        length <= file->size - offset && length > 8) {
      add_bytes(file, offset, length);
      if (offset > at) find_messages(file, offset + 4, offset + length - 4, header);
    }
    at += header + size;
  }
}

/* Object header version 2: flags tell the width of its first chunk's size and optional fields. */
static void find_object_header(File *file, size_t at) {
  uint64_t flags = get(file, at + 5, 1);
  size_t fields = at + 6 + (flags & 0x20 ? 16 : 0) + (flags & 0x10 ? 4 : 0);
  int width = 1 << (flags & 3);
  uint64_t size = get(file, fields, width);
  size_t messages = fields + (size_t)width;
  if (messages + 4 > file->size || size > file->size - messages - 4) return;
  add_bytes(file, at, messages - at + size + 4);
  find_messages(file, messages, messages + size, flags & 4 ? 6 : 4);
}

/* Fixed array: the header, and the data block it points to. */
static void find_fixed_array(File *file, size_t at) {
  uint64_t entry = get(file, at + 6, 1), count = get(file, at + 8, 8);
  uint64_t block = get(file, at + 16, 8);
  add_bytes(file, at, 28);
  if (block < file->size && count < file->size) add_bytes(file, block, 14 + entry * count + 4);
}

/* B-tree version 2: the header and its root, a leaf. */
static void find_tree(File *file, size_t at) {
  uint64_t record = get(file, at + 10, 2), root = get(file, at + 16, 8);
  uint64_t records = get(file, at + 24, 2);
  add_bytes(file, at, 38);
  if (root < file->size) add_bytes(file, root, 6 + record * records + 4);
}

/* Fractal heap: the header and its root, a direct block, whose checksum is in its middle. */
static void find_heap(File *file, size_t at) {
  uint64_t flags = get(file, at + 9, 1), block_size = get(file, at + 112, 8);
  uint64_t heap_bits = get(file, at + 128, 2), root = get(file, at + 132, 8);
  uint64_t filters = get(file, at + 7, 2);
  add_bytes(file, at, filters == 0 ? 146 : 146 + 12 + filters);
  size_t offset_size = (size_t)(heap_bits + 7) / 8;
  if ((flags & 2) && root < file->size && block_size <= file->size - root)
    add(file, root, root + 13 + offset_size, root + block_size);
}

static void find_structures(File *file) {
  file->count = file->message_count = 0;
  if (file->size >= 48) add_bytes(file, 0, 48); /* superblock */
  for (size_t at = 0; at + 8 <= file->size; at++) {
    const uint8_t *s = file->data + at;
    if (s[0] == 'O' && s[1] == 'H' && s[2] == 'D' && s[3] == 'R') find_object_header(file, at);
    if (s[0] == 'F' && s[1] == 'A' && s[2] == 'H' && s[3] == 'D') find_fixed_array(file, at);
    if (s[0] == 'B' && s[1] == 'T' && s[2] == 'H' && s[3] == 'D') find_tree(file, at);
    if (s[0] == 'F' && s[1] == 'R' && s[2] == 'H' && s[3] == 'P') find_heap(file, at);
  }
}

/* --- Mutating --------------------------------------------------------------------------------- */

static void fix_checksums(File *file) {
  for (int i = 0; i < file->count; i++) {
    const Structure *s = &file->structures[i];
    uint8_t *checksum = file->data + s->checksum;
    bool in_middle = s->end > s->checksum + 4;
    if (in_middle) memset(checksum, 0, 4);
    size_t end = in_middle ? s->end : s->checksum;
    uint32_t value = lookup3(file->data + s->begin, end - s->begin);
    for (int k = 0; k < 4; k++) checksum[k] = (uint8_t)(value >> 8 * k);
  }
}

int fix_hdf5(uint8_t *data, size_t size) {
  static File file;
  file.data = data;
  file.size = size;
  find_structures(&file);
  fix_checksums(&file);
  return file.count;
}

/* The type, size or flags of a message, or a field of its body. */
static void mutate_message(const File *file, Dice *dice) {
  enum { TYPES = 0x19 };
  const Message *message = &file->messages[dice_below(dice, (size_t)file->message_count)];
  uint8_t *at = file->data + message->begin;
  size_t body = message->begin + message->header;
  switch (dice_below(dice, 10)) {
  case 0:
    at[0] = (uint8_t)dice_below(dice, TYPES);
    break;
  case 1:
    mutate_field(file->data, message->begin + 1, message->begin + 3, dice);
    break;
  case 2:
    at[3] ^= (uint8_t)(1u << dice_below(dice, 8));
    break;
  default:
    mutate_field(file->data, body, body + message->size, dice);
    break;
  }
}

void mutate_hdf5(uint8_t *data, size_t size, Dice *dice) {
  static File file;
  unsigned times = 1 + dice_below(dice, 3);
  file.data = data;
  file.size = size;
  for (unsigned i = 0; i < times; i++) {
    find_structures(&file);
    if (file.count == 0 || dice_chance(dice, 12)) {
      mutate_field(data, 0, size, dice);
    } else if (file.message_count > 0 && dice_chance(dice, 2)) {
      mutate_message(&file, dice);
    } else {
      const Structure *s = &file.structures[dice_below(dice, (size_t)file.count)];
      mutate_field(data, s->begin + 4, s->end, dice);
    }
  }
  find_structures(&file);
  if (!dice_chance(dice, 20)) fix_checksums(&file);
}
