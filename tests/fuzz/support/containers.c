/* Mutations of videos: of the elements of MP4 (boxes), AVI (RIFF chunks) and Matroska (EBML), whose
 * headers and small fields random bytes rarely hit. Checksums of Ogg pages (RFC 3533) and of the
 * tables of MPEG-TS (ISO 13818-1, annex A) are recomputed; both are CRC-32 with polynomial
 * 0x04c11db7, most significant bit first. */
#include <string.h>

#include "tests/fuzz/support/fuzz.h"

enum { MAX_ELEMENTS = 256, MAX_DEPTH = 8, TS_PACKET = 188 };

typedef struct Elements {
  int count;
  struct {
    size_t begin, payload, end;
  } items[MAX_ELEMENTS];
} Elements;

static void add(Elements *elements, size_t begin, size_t payload, size_t end) {
  if (elements->count == MAX_ELEMENTS) return;
  elements->items[elements->count].begin = begin;
  elements->items[elements->count].payload = payload;
  elements->items[elements->count++].end = end;
}

static bool is_one_of(const uint8_t *type, const char *names) {
  for (; *names; names += 4)
    if (memcmp(type, names, 4) == 0) return true;
  return false;
}

static void find_boxes(const uint8_t *data, size_t begin, size_t end, int depth, Elements *out) {
  for (size_t at = begin; at + 8 <= end;) {
    size_t size = (size_t)data[at] << 24 | (size_t)data[at + 1] << 16 | (size_t)data[at + 2] << 8 |
                  data[at + 3];
    if (size < 8 || size > end - at) return;
    add(out, at, at + 8, at + size);
    if (depth < MAX_DEPTH &&
        is_one_of(data + at + 4, "moovtrakmdiaminfstbldinfedtsudtamoofmvextraf"))
      find_boxes(data, at + 8, at + size, depth + 1, out);
    if (depth < MAX_DEPTH && size > 16 && is_one_of(data + at + 4, "stsddref"))
      find_boxes(data, at + 16, at + size, depth + 1, out);
    at += size;
  }
}

static void find_riff(const uint8_t *data, size_t begin, size_t end, int depth, Elements *out) {
  for (size_t at = begin; at + 8 <= end;) {
    size_t size = (size_t)data[at + 4] | (size_t)data[at + 5] << 8 | (size_t)data[at + 6] << 16 |
                  (size_t)data[at + 7] << 24;
    if (size > end - at - 8) return;
    add(out, at, at + 8, at + 8 + size);
    if (depth < MAX_DEPTH && size >= 4 && is_one_of(data + at, "RIFFLIST"))
      find_riff(data, at + 12, at + 8 + size, depth + 1, out);
    at += 8 + size + (size & 1);
  }
}

/* Reads an EBML number of 1 to 8 bytes; returns its width, 0 if there is none. */
static size_t read_vint(const uint8_t *data, size_t at, size_t end, bool keep_marker,
                        uint64_t *out) {
  size_t width = 1;
  if (at >= end || data[at] == 0) return 0;
  while (!(data[at] & (0x80 >> (width - 1)))) width++;
  if (at + width > end) return 0;
  *out = keep_marker ? data[at] : data[at] & (0x7f >> (width - 1));
  for (size_t i = 1; i < width; i++) *out = *out << 8 | data[at + i];
  return width;
}

static bool is_master(uint64_t id) {
  static const uint32_t MASTERS[] = {0x1a45dfa3, 0x18538067, 0x114d9b74, 0x4dbb, 0x1549a966,
                                     0x1654ae6b, 0xae,       0xe0,       0xe1,   0x55b0,
                                     0x6d80,     0x6240,     0x1f43b675, 0xa0,   0x1c53bb6b,
                                     0xbb,       0xb7,       0x1254c367, 0x7373, 0x67c8};
  for (size_t i = 0; i < sizeof MASTERS / sizeof *MASTERS; i++)
    if (MASTERS[i] == id) return true;
  return false;
}

static void find_ebml(const uint8_t *data, size_t begin, size_t end, int depth, Elements *out) {
  for (size_t at = begin; at < end;) {
    uint64_t id = 0, size = 0;
    size_t id_width = read_vint(data, at, end, true, &id);
    size_t size_width = id_width ? read_vint(data, at + id_width, end, false, &size) : 0;
    size_t payload = at + id_width + size_width;
    if (size_width == 0 || payload > end) return;
    if (size > end - payload) size = end - payload; /* unknown length */
    add(out, at, payload, payload + size);
    if (depth < MAX_DEPTH && is_master(id))
      find_ebml(data, payload, payload + size, depth + 1, out);
    at = payload + size;
  }
}

/* --- Checksums -------------------------------------------------------------------------------- */

static uint32_t crc_update(uint32_t crc, const uint8_t *data, size_t size) {
  for (size_t i = 0; i < size; i++) {
    crc ^= (uint32_t)data[i] << 24;
    for (int bit = 0; bit < 8; bit++) crc = crc << 1 ^ (crc >> 31 ? 0x04c11db7u : 0);
  }
  return crc;
}

static void fix_ogg(uint8_t *data, size_t size) {
  enum { HEADER = 27, CHECKSUM = 22 };
  for (size_t at = 0; at + HEADER <= size && memcmp(data + at, "OggS", 4) == 0;) {
    size_t segments = data[at + 26], page = HEADER + segments;
    if (segments > size - at - HEADER) return;
    for (size_t i = 0; i < segments; i++) page += data[at + HEADER + i];
    if (page > size - at) return;
    memset(data + at + CHECKSUM, 0, 4);
    uint32_t crc = crc_update(0, data + at, page);
    for (int i = 0; i < 4; i++) data[at + CHECKSUM + (size_t)i] = (uint8_t)(crc >> 8 * i);
    at += page;
  }
}

/* The section that begins in a packet of MPEG-TS, if it lies in it. */
static void fix_ts_section(uint8_t *packet) {
  size_t at = 4 + (packet[3] & 0x20 ? 1 + (size_t)packet[4] : 0);
  if (!(packet[1] & 0x40) || !(packet[3] & 0x10) || at >= TS_PACKET) return;
  at += 1 + (size_t)packet[at];
  if (at + 3 > TS_PACKET || packet[at] > 0x7f || !(packet[at + 1] & 0x80)) return;
  size_t length = 3 + ((size_t)(packet[at + 1] & 0x0f) << 8 | packet[at + 2]);
  if (length < 8 || length > TS_PACKET - at) return;
  uint32_t crc = crc_update(0xffffffff, packet + at, length - 4);
  for (size_t i = 0; i < 4; i++) packet[at + length - 4 + i] = (uint8_t)(crc >> (24 - 8 * i));
}

size_t mutate_container(uint8_t *data, size_t size, size_t room, Dice *dice) {
  static Elements elements;
  elements.count = 0;
  if (size >= 16 && is_one_of(data + 4, "ftypmoovfreemdatwide"))
    find_boxes(data, 0, size, 0, &elements);
  else if (size >= 12 && memcmp(data, "RIFF", 4) == 0)
    find_riff(data, 0, size, 0, &elements);
  else if (size >= 4 && memcmp(data, "\x1a\x45\xdf\xa3", 4) == 0)
    find_ebml(data, 0, size, 0, &elements);
  if (elements.count > 0 && !dice_chance(dice, 3)) {
    for (unsigned times = 1 + dice_below(dice, 4); times > 0; times--) {
      int i = (int)dice_below(dice, (size_t)elements.count);
      size_t begin = elements.items[i].begin, payload = elements.items[i].payload;
      bool header = dice_chance(dice, 4);
      mutate_field(data, header ? begin : payload, header ? payload : elements.items[i].end, dice);
    }
  } else if (dice_chance(dice, 2)) {
    for (unsigned times = 1 + dice_below(dice, 4); times > 0; times--)
      mutate_field(data, 0, size, dice);
  } else {
    size = LLVMFuzzerMutate(data, size, room);
  }
  fix_ogg(data, size);
  if (size >= 2 * TS_PACKET && data[0] == 0x47 && data[TS_PACKET] == 0x47)
    for (size_t at = 0; at + TS_PACKET <= size; at += TS_PACKET) fix_ts_section(data + at);
  return size;
}
