/* Finds the checksummed blocks of an HDF5 file, and renews their checksums after bytes were
 * changed, so that a mutated file gets past the checksums and reaches the parser behind them.
 *
 * Use: hdf5_find_blocks on an intact file, change bytes of the file, hdf5_renew_checksums. */
#ifndef CELFORGE_TESTS_HDF5_BLOCKS_H
#define CELFORGE_TESTS_HDF5_BLOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "data/dataset/hdf5_checksum.h"

/* Bytes `start` to `end` of the file; the checksum is at `checksum`: behind the block, or within a
 * direct block of a fractal heap, where it counts as 0. */
typedef struct Hdf5Block {
  size_t start, end, checksum;
} Hdf5Block;

enum { HDF5_BLOCK_MAX = 4096, HDF5_CHECKSUM_SIZE = 4 };

static inline uint32_t hdf5_stored_checksum(const uint8_t *at) {
  return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static inline void hdf5_store_checksum(uint8_t *at, uint32_t sum) {
  for (int i = 0; i < HDF5_CHECKSUM_SIZE; i++) at[i] = (uint8_t)(sum >> (8 * i));
}

static inline bool hdf5_is_signature(const uint8_t *at) {
  static const char signatures[][5] = {"\x89HDF", "OHDR", "OCHK", "FRHP", "FHDB", "FHIB",
                                       "FSHD",    "FSSE", "BTHD", "BTIN", "BTLF", "FAHD",
                                       "FADB",    "EAHD", "EAIB", "EASB"};
  for (size_t i = 0; i < sizeof signatures / sizeof *signatures; i++)
    if (memcmp(at, signatures[i], 4) == 0) return true;
  return false;
}

static inline uint32_t hdf5_block_checksum(const uint8_t *file, const Hdf5Block *block) {
  uint8_t copy[HDF5_BLOCK_MAX];
  size_t size = block->end - block->start;
  memcpy(copy, file + block->start, size);
  if (block->checksum < block->end)
    memset(copy + (block->checksum - block->start), 0, HDF5_CHECKSUM_SIZE);
  return hdf5_checksum(copy, size);
}

/* Finds the block that begins at `start`, if one does: the length at which the checksum is right.
 */
static inline bool hdf5_find_block(const uint8_t *file, size_t size, size_t start, Hdf5Block *out) {
  enum { HEAP_CHECKSUM = 18 }; /* signature, version, address of the heap, offset of 5 bytes */
  bool heap = memcmp(file + start, "FHDB", 4) == 0;
  for (size_t length = heap ? 512 : 8; length <= HDF5_BLOCK_MAX; length += heap ? length : 1) {
    *out = (Hdf5Block){start, start + length, start + (heap ? HEAP_CHECKSUM : length)};
    if (out->end + (heap ? 0 : HDF5_CHECKSUM_SIZE) > size) return false;
    if (hdf5_stored_checksum(file + out->checksum) == hdf5_block_checksum(file, out)) return true;
  }
  return false;
}

/* Stores up to `room` blocks of the intact `file` and returns their number. */
static inline size_t hdf5_find_blocks(const uint8_t *file, size_t size, Hdf5Block *blocks,
                                      size_t room) {
  size_t count = 0;
  for (size_t at = 0; at + 8 < size && count < room; at++)
    if (hdf5_is_signature(file + at) && hdf5_find_block(file, size, at, &blocks[count])) count++;
  return count;
}

/* Stores the right checksum behind every block, and also where a changed object header says that it
 * ends. */
static inline void hdf5_renew_checksums(uint8_t *file, size_t size, const Hdf5Block *blocks,
                                        size_t count) {
  for (size_t i = 0; i < count; i++) {
    const uint8_t *header = file + blocks[i].start;
    hdf5_store_checksum(file + blocks[i].checksum, hdf5_block_checksum(file, &blocks[i]));
    if (memcmp(header, "OHDR", 4) != 0) continue;
    size_t prefix = 6u + (header[5] & 0x20 ? 16u : 0) + (header[5] & 0x10 ? 4u : 0), declared = 0;
    int bytes = 1 << (header[5] & 3);
    if (blocks[i].start + prefix + 8 > size) continue;
    for (int k = 0; k < bytes; k++) declared |= (size_t)header[prefix + (size_t)k] << (8 * k);
    prefix += (size_t)bytes;
    size_t room = size - blocks[i].start;
    if (declared > HDF5_BLOCK_MAX || prefix + declared + HDF5_CHECKSUM_SIZE > room) continue;
    hdf5_store_checksum(file + blocks[i].start + prefix + declared,
                        hdf5_checksum(header, prefix + declared));
  }
}

#endif
