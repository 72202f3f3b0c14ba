#include "data/dataset/hdf5_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/files.h"
#include "base/memory.h"
#include "data/dataset/hdf5_checksum.h"
#include "data/dataset/hdf5_structures.h"

enum { SUPERBLOCK_SIZE = 44, SUPERBLOCK_VERSION = 3, HEADER_VERSION = 2 };

/* Flags of an object header. */
enum { HEADER_SIZE_BYTES = 3, HEADER_ORDERED = 4, HEADER_PHASES = 16, HEADER_TIMES = 32 };
enum { MESSAGE_CONTINUATION = 16, MESSAGE_IS_SHARED = 2 };

/* --- Superblock ------------------------------------------------------------------------------- */

static Status check_superblock(Hdf5Reader *reader, const uint8_t *block, Error *error) {
  Cursor cursor = {block, SUPERBLOCK_SIZE, 9, false};
  uint64_t offset_size = cursor_number(&cursor, 1), length_size = cursor_number(&cursor, 1);
  uint64_t open_flags = cursor_number(&cursor, 1), base = cursor_number(&cursor, 8);
  uint64_t extension = cursor_number(&cursor, 8), end = cursor_number(&cursor, 8);
  reader->root = cursor_number(&cursor, 8);
  if (open_flags != 0)
    return hdf5_damaged(reader, "superblock", error,
                        "the file is being written, or its writer was killed");
  if (offset_size != 8 || length_size != 8 || base != 0 || extension != HDF5_NO_ADDRESS)
    return hdf5_damaged(reader, "superblock", error,
                        "expected offsets and lengths of 8 bytes, base address 0, no extension");
  if (end != reader->bytes)
    return error_set(error, ERROR_DATA, "%s: %llu bytes, expected %llu (superblock)%s",
                     reader->path, (unsigned long long)reader->bytes, (unsigned long long)end,
                     reader->bytes < end ? ": the file is truncated" : "");
  return OK;
}

/* Older superblocks have no checksums, and are followed by structures that have none. */
static Status read_superblock(Hdf5Reader *reader, Error *error) {
  static const uint8_t signature[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
  Status status = OK;
  uint8_t start[sizeof signature + 1] = {0}, *block = NULL;
  if (reader->bytes >= sizeof start)
    TRY(file_pread(reader->descriptor, reader->path, start, sizeof start, 0, error));
  if (memcmp(start, signature, sizeof signature) != 0)
    FAIL(error, ERROR_DATA, "%s: not an HDF5 file", reader->path);
  if (start[8] != SUPERBLOCK_VERSION)
    FAIL(error, ERROR_DATA, "%s: HDF5 superblock version %d, expected %d", reader->path, start[8],
         SUPERBLOCK_VERSION);
  TRY(hdf5_read_block(reader, "superblock", NULL, 0, SUPERBLOCK_SIZE, &block, error));
  TRY(check_superblock(reader, block, error));
done:
  free(block);
  return status;
}

Status hdf5_reader_open(const char *path, Hdf5Reader *out, Error *error) {
  struct stat info;
  *out = (Hdf5Reader){.path = path};
  /* O_NONBLOCK: opening a pipe without a writer would block. */
  out->descriptor = file_open(path, O_RDONLY | O_NONBLOCK);
  if (out->descriptor < 0) return error_errno(error, errno, "%s: cannot open", path);
  if (fstat(out->descriptor, &info) != 0) return error_errno(error, errno, "%s: cannot read", path);
  if (!S_ISREG(info.st_mode)) return error_set(error, ERROR_DATA, "%s: not a regular file", path);
  out->bytes = (uint64_t)info.st_size;
  return read_superblock(out, error);
}

void hdf5_reader_close(Hdf5Reader *reader) {
  file_close(&reader->descriptor);
}

/* --- Object headers --------------------------------------------------------------------------- */

/* The blocks of an object header: the first one, and the ones that continuation messages name. */
typedef struct Header {
  bool ordered; /* messages have a creation order */
  struct {
    uint64_t address, size;
  } blocks[HDF5_MAX_HEADER_BLOCKS];
  int count;
} Header;

static Status add_block(const Hdf5Reader *reader, Cursor message, Header *header,
                        const Hdf5Object *object, Error *error) {
  uint64_t address = cursor_number(&message, 8), size = cursor_number(&message, 8);
  if (message.overrun || size < 4 + CHECKSUM_SIZE || header->count == HDF5_MAX_HEADER_BLOCKS)
    return hdf5_damaged(reader, object->name, error,
                        "damaged continuation, or more than %d blocks in the object header",
                        HDF5_MAX_HEADER_BLOCKS);
  header->blocks[header->count].address = address;
  header->blocks[header->count++].size = size - CHECKSUM_SIZE;
  return OK;
}

/* Parses the messages of a block; too few bytes for another message are a gap. */
static Status parse_messages(const Hdf5Reader *reader, Cursor block, Header *header,
                             Hdf5Object *object, Error *error) {
  Status status = OK;
  const size_t prefix = header->ordered ? 6 : 4;
  while (block.size - block.at >= prefix) {
    int type = (int)cursor_number(&block, 1);
    size_t size = (size_t)cursor_number(&block, 2);
    uint64_t flags = cursor_number(&block, 1);
    if (header->ordered) cursor_number(&block, 2);
    Cursor message = {cursor_bytes(&block, size), size, 0, false};
    if (block.overrun) {
      status = hdf5_damaged(reader, object->name, error,
                            "a message of type %d with %zu bytes exceeds its block", type, size);
      goto done;
    }
    if (type != 0 && (flags & MESSAGE_IS_SHARED)) {
      status = hdf5_damaged(reader, object->name, error,
                            "a shared message of type %d, which shards do not have", type);
      goto done;
    }
    if (type == MESSAGE_CONTINUATION)
      TRY(add_block(reader, message, header, object, error));
    else
      TRY(hdf5_parse_message(reader, type, message, object, error));
  }
done:
  return status;
}

/* Reads the size of the first block, which depends on its flags. */
static Status read_prefix(const Hdf5Reader *reader, uint64_t address, Header *header,
                          size_t *prefix, const Hdf5Object *object, Error *error) {
  Status status = OK;
  uint8_t start[34];
  enum { FIXED = 6 }; /* signature, version, flags */
  if (address > reader->bytes || reader->bytes - address < sizeof start) {
    status = hdf5_damaged(reader, object->name, error,
                          "object header at offset %llu, the file has %llu bytes",
                          (unsigned long long)address, (unsigned long long)reader->bytes);
    goto done;
  }
  TRY(file_pread(reader->descriptor, reader->path, start, sizeof start, address, error));
  Cursor cursor = {start, sizeof start, FIXED, false};
  int flags = start[5], size_bytes = 1 << (flags & HEADER_SIZE_BYTES);
  if (memcmp(start, "OHDR", 4) != 0 || start[4] != HEADER_VERSION) {
    status =
        hdf5_damaged(reader, object->name, error, "no object header of version %d at offset %llu",
                     HEADER_VERSION, (unsigned long long)address);
    goto done;
  }
  cursor_bytes(&cursor, (flags & HEADER_TIMES ? 16 : 0) + (flags & HEADER_PHASES ? 4 : 0));
  uint64_t size = cursor_number(&cursor, size_bytes);
  *prefix = cursor.at;
  header->ordered = flags & HEADER_ORDERED;
  header->blocks[0].address = address;
  header->blocks[0].size = size > HDF5_MAX_BLOCK ? size : size + *prefix;
  header->count = 1;
done:
  return status;
}

Status hdf5_read_object(const Hdf5Reader *reader, uint64_t address, const char *name,
                        Hdf5Object *out, Error *error) {
  Status status = OK;
  Header header = {0};
  size_t prefix = 0;
  uint8_t *block = NULL;
  *out = (Hdf5Object){
      .name = name, .attribute_heap = HDF5_NO_ADDRESS, .attribute_index = HDF5_NO_ADDRESS};
  TRY(read_prefix(reader, address, &header, &prefix, out, error));
  for (int i = 0; i < header.count; i++) {
    size_t size = header.blocks[i].size;
    free(block);
    TRY(hdf5_read_block(reader, name, i == 0 ? "OHDR" : "OCHK", header.blocks[i].address, size,
                        &block, error));
    Cursor cursor = {block, size, i == 0 ? prefix : 4, false};
    TRY(parse_messages(reader, cursor, &header, out, error));
  }
  if (out->attribute_heap != HDF5_NO_ADDRESS) TRY(hdf5_read_dense_attributes(reader, out, error));
done:
  free(block);
  return status;
}
