/* Mutations of a safetensors file: 8 bytes with the header's length, a JSON header, the data. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/support/fuzz.h"

enum { LENGTH = 8, MAX_HEADER = 1 << 16, MAX_DATA = 1 << 16 };

static size_t header_length(const uint8_t *data, size_t size) {
  uint64_t length = 0;
  if (size < LENGTH) return 0;
  memcpy(&length, data, LENGTH);
  return length <= size - LENGTH ? (size_t)length : 0;
}

static size_t element_size(const char *type) {
  static const struct {
    const char *name;
    size_t size;
  } TYPES[] = {{"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F64", 8},
               {"I64", 8}, {"I32", 4}, {"U8", 1},   {"BOOL", 1}};
  for (size_t i = 0; type && i < sizeof TYPES / sizeof *TYPES; i++)
    if (strcmp(TYPES[i].name, type) == 0) return TYPES[i].size;
  return 1;
}

/* Sets the tensor's offsets to its size by type and shape, from *end on; false if it is too large.
 */
static bool place(json_t *tensor, size_t *end) {
  size_t bytes = element_size(json_string_value(json_object_get(tensor, "dtype"))), index;
  json_t *length;
  json_array_foreach(json_object_get(tensor, "shape"), index, length) {
    json_int_t number = json_integer_value(length);
    if (number < 0 || number > MAX_DATA || bytes * (size_t)number > MAX_DATA) return false;
    bytes *= (size_t)number;
  }
  json_object_set_new(tensor, "data_offsets",
                      json_pack("[I,I]", (json_int_t)*end, (json_int_t)(*end + bytes)));
  *end += bytes;
  return *end <= MAX_DATA;
}

/* Makes all offsets and the size of the data fit the shapes. */
static size_t fix_data(uint8_t *data, size_t size, size_t room) {
  size_t length = header_length(data, size), end = 0;
  const char *name;
  json_t *tensor, *header = json_loadb((const char *)data + LENGTH, length, 0, NULL);
  bool good = json_is_object(header);
  json_object_foreach(header, name, tensor) {
    if (strcmp(name, "__metadata__") != 0 && json_is_object(tensor))
      good = good && place(tensor, &end);
  }
  char *text = good ? json_dumps(header, JSON_COMPACT) : NULL;
  json_decref(header);
  if (!text) return size;
  size_t written = strlen(text), before = size - LENGTH - length;
  if (LENGTH + written + end <= room && LENGTH + written + before <= room) {
    uint64_t field = written;
    size = replace_bytes(data, size, room, LENGTH, LENGTH + length, text, written);
    memcpy(data, &field, LENGTH);
    uint8_t *values = data + LENGTH + written;
    if (end > before) memset(values + before, 0, end - before);
    size = LENGTH + written + end;
  }
  free(text);
  return size;
}

size_t mutate_safetensors(uint8_t *data, size_t size, size_t room, Words words, Dice *dice) {
  static uint8_t header[MAX_HEADER];
  size_t length = header_length(data, size);
  if (length == 0 || length > sizeof header || dice_chance(dice, 8))
    return LLVMFuzzerMutate(data, size, room);
  if (dice_chance(dice, 6)) { /* the data alone */
    size_t begin = LENGTH + length;
    return begin + LLVMFuzzerMutate(data + begin, size - begin, room - begin);
  }
  memcpy(header, data + LENGTH, length);
  size_t free_room = room - size, header_room = length + free_room;
  if (header_room > sizeof header) header_room = sizeof header;
  size_t mutated = mutate_json(header, length, header_room, words, dice);
  size = replace_bytes(data, size, room, LENGTH, LENGTH + length, header, mutated);
  uint64_t field = mutated;
  memcpy(data, &field, LENGTH);
  return dice_chance(dice, 2) ? fix_data(data, size, room) : size;
}
