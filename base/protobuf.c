#include "base/protobuf.h"

#include <string.h>

typedef enum WireType {
  WIRE_VARINT = 0,
  WIRE_FIXED64 = 1,
  WIRE_BYTES = 2,
  WIRE_FIXED32 = 5
} WireType;

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format is little-endian");

/* Seven bits per byte, lowest first; the top bit is set if more bytes follow. */
static void put_varint(Text *out, uint64_t value) {
  while (value >= 0x80) {
    text_append_bytes(out, &(uint8_t){(uint8_t)(value | 0x80)}, 1);
    value >>= 7;
  }
  text_append_bytes(out, &(uint8_t){(uint8_t)value}, 1);
}

static void put_tag(Text *out, int field, WireType type) {
  put_varint(out, (uint64_t)field << 3 | (uint64_t)type);
}

void protobuf_integer(Text *out, int field, int64_t value) {
  put_tag(out, field, WIRE_VARINT);
  put_varint(out, (uint64_t)value);
}

void protobuf_float(Text *out, int field, float value) {
  put_tag(out, field, WIRE_FIXED32);
  text_append_bytes(out, &value, sizeof value);
}

void protobuf_double(Text *out, int field, double value) {
  put_tag(out, field, WIRE_FIXED64);
  text_append_bytes(out, &value, sizeof value);
}

void protobuf_length_prefix(Text *out, int field, uint64_t size) {
  put_tag(out, field, WIRE_BYTES);
  put_varint(out, size);
}

void protobuf_bytes(Text *out, int field, const void *bytes, size_t size) {
  protobuf_length_prefix(out, field, size);
  text_append_bytes(out, bytes, size);
}

void protobuf_string(Text *out, int field, const char *string) {
  protobuf_bytes(out, field, string, strlen(string));
}

void protobuf_message(Text *out, int field, Text *message) {
  protobuf_bytes(out, field, message->data, message->length);
  text_free(message);
}
