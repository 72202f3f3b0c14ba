/* Protobuf messages, written: fields one after the other into a Text.
 *
 * Format: https://protobuf.dev/programming-guides/encoding. What fields there are, and of which
 * type, is the message's definition; nothing here knows it. */
#ifndef CELFORGE_BASE_PROTOBUF_H
#define CELFORGE_BASE_PROTOBUF_H

#include <stdint.h>

#include "base/text.h"

/* int32, int64, bool, enum (negative numbers take ten bytes) */
void protobuf_integer(Text *out, int field, int64_t value);
void protobuf_float(Text *out, int field, float value);
void protobuf_double(Text *out, int field, double value);
void protobuf_bytes(Text *out, int field, const void *bytes, size_t size);
void protobuf_string(Text *out, int field, const char *string);
/* A message inside of another; frees it. */
void protobuf_message(Text *out, int field, Text *message);
/* What stands before bytes, or a message, of `size` bytes that the caller writes behind it. */
void protobuf_head(Text *out, int field, uint64_t size);

#endif
