/* A protobuf encoder: appends the fields of a message to a Text, one after the other. Field numbers
 * and types come from the message definition, which the caller follows.
 *
 * Format: https://protobuf.dev/programming-guides/encoding. */
#ifndef CELFORGE_BASE_PROTOBUF_H
#define CELFORGE_BASE_PROTOBUF_H

#include <stdint.h>

#include "base/text.h"

/* For int32, int64, bool and enum; a negative number takes ten bytes. */
void protobuf_integer(Text *out, int field, int64_t value);
void protobuf_float(Text *out, int field, float value);
void protobuf_double(Text *out, int field, double value);
void protobuf_bytes(Text *out, int field, const void *bytes, size_t size);
void protobuf_string(Text *out, int field, const char *string);
/* Appends an embedded message and frees it. */
void protobuf_message(Text *out, int field, Text *message);
/* Appends the tag and length of a bytes field or embedded message, whose `size` bytes the caller
 * writes next. */
void protobuf_length_prefix(Text *out, int field, uint64_t size);

#endif
