/* Opens any files as the folder of a checkpoint. The input is a list of files: a byte for the name
 * (an index of NAMES), four for the length (little-endian), the content. The mutator recomputes the
 * sizes and CRC-32C that the manifest holds of its files and of itself. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "checkpoints/internal.h"
#include "tests/fuzz/support/fuzz.h"

enum { MANIFEST, STATE, NAME_COUNT = 6, MAX_FILES = 8, FRAME = 5, MAX_CONTENT = 1 << 16 };
static const char *const NAMES[NAME_COUNT] = {"manifest.json",         "state.json",
                                              "generator.safetensors", "discriminator.safetensors",
                                              "optimizer.safetensors", "a\nb"};

typedef struct Part {
  size_t begin, length; /* of the frame; of the content */
  int name;
} Part;

static int find_parts(const uint8_t *data, size_t size, Part *parts) {
  int count = 0;
  for (size_t at = 0; at + FRAME <= size && count < MAX_FILES;) {
    uint32_t length;
    memcpy(&length, data + at + 1, sizeof length);
    if (length > size - at - FRAME) length = (uint32_t)(size - at - FRAME);
    parts[count++] = (Part){at, length, data[at] % NAME_COUNT};
    at += FRAME + length;
  }
  return count;
}

/* --- Mutator ---------------------------------------------------------------------------------- */

static size_t set_content(uint8_t *data, size_t size, size_t room, Part part, const void *content,
                          size_t length) {
  uint32_t field = (uint32_t)length;
  if (size - part.length + length > room) return size;
  size = replace_bytes(data, size, room, part.begin + FRAME, part.begin + FRAME + part.length,
                       content, length);
  memcpy(data + part.begin + 1, &field, sizeof field);
  return size;
}

/* Sets the entry of every file in the manifest's "files", then the manifest's own checksum. */
static void fill_checksums(json_t *manifest, const uint8_t *data, const Part *parts, int count) {
  json_t *files = json_object_get(manifest, "files");
  for (int i = 0; i < count && json_is_object(files); i++) {
    const uint8_t *content = data + parts[i].begin + FRAME;
    json_t *entry = json_object_get(files, NAMES[parts[i].name]);
    if (parts[i].name == MANIFEST || !json_is_object(entry)) continue;
    json_object_set_new(entry, "bytes", json_integer((json_int_t)parts[i].length));
    json_object_set_new(entry, "crc32c",
                        json_integer((json_int_t)crc32c(0, content, parts[i].length)));
  }
  json_object_set_new(manifest, "crc32c",
                      json_integer((json_int_t)checkpoint_manifest_crc(manifest)));
}

static size_t fix_manifest(uint8_t *data, size_t size, size_t room) {
  Part parts[MAX_FILES];
  int count = find_parts(data, size, parts);
  for (int i = count; i-- > 0;) {
    if (parts[i].name != MANIFEST) continue;
    json_t *manifest =
        json_loadb((const char *)data + parts[i].begin + FRAME, parts[i].length, 0, NULL);
    if (json_is_object(manifest)) {
      fill_checksums(manifest, data, parts, count);
      char *text = json_dumps(manifest, JSON_COMPACT);
      if (text) size = set_content(data, size, room, parts[i], text, strlen(text));
      free(text);
    }
    json_decref(manifest);
    break;
  }
  return size;
}

static size_t mutate_part(uint8_t *data, size_t size, size_t room, Part part, Dice *dice) {
  static const char *const WORDS[] = {"\"celforge checkpoint\"",
                                      "\"state.json\":{}",
                                      "\"optimizer.safetensors\":{\"bytes\":1,\"crc32c\":1}",
                                      "\"../x\":{}",
                                      "\"F32\"",
                                      "9223372036854775807",
                                      "2",
                                      NULL};
  static uint8_t content[MAX_CONTENT];
  size_t free_room = room - size, content_room = part.length + free_room;
  if (part.length > sizeof content) return size;
  if (content_room > sizeof content) content_room = sizeof content;
  memcpy(content, data + part.begin + FRAME, part.length);
  size_t length = part.name == MANIFEST || part.name == STATE
                      ? mutate_json(content, part.length, content_room, WORDS, dice)
                      : mutate_safetensors(content, part.length, content_room, WORDS, dice);
  return set_content(data, size, room, part, content, length);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed) {
  Part parts[MAX_FILES];
  Dice dice = dice_new(seed);
  int count = find_parts(data, size, parts);
  if (count == 0 || dice_chance(&dice, 16)) return LLVMFuzzerMutate(data, size, room);
  Part part = parts[dice_below(&dice, (size_t)count)];
  if (dice_chance(&dice, 16))
    data[part.begin] = (uint8_t)dice_below(&dice, NAME_COUNT);
  else
    size = mutate_part(data, size, room, part, &dice);
  return dice_chance(&dice, 8) ? size : fix_manifest(data, size, room);
}

/* --- Target ----------------------------------------------------------------------------------- */

static void write_files(const char *folder, const uint8_t *data, size_t size) {
  Part parts[MAX_FILES];
  char path[128];
  bool written[NAME_COUNT] = {0};
  int count = find_parts(data, size, parts);
  for (int i = 0; i < count; i++) {
    snprintf(path, sizeof path, "%s/%s", folder, NAMES[parts[i].name]);
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    require(file >= 0);
    require(write(file, data + parts[i].begin + FRAME, parts[i].length) ==
            (ssize_t)parts[i].length);
    close(file);
    written[parts[i].name] = true;
  }
  for (int name = 0; name < NAME_COUNT; name++) {
    snprintf(path, sizeof path, "%s/%s", folder, NAMES[name]);
    if (!written[name]) unlink(path);
  }
}

static void use(const Checkpoint *checkpoint, const char *folder) {
  Error error = {0};
  Text text = {0};
  unsigned sum = 0;
  require(checkpoint->state && checkpoint->manifest && checkpoint->step >= 0);
  for (int i = 0; i < checkpoint->file_count; i++)
    for (int k = 0; k < safetensors_count(checkpoint->files[i]); k++) {
      const NamedTensor *tensor = safetensors_tensor(checkpoint->files[i], k);
      const uint8_t *bytes = tensor->data;
      for (size_t b = 0; b < named_tensor_bytes(tensor); b++) sum += bytes[b];
    }
  require(checkpoint->file_count > 0 || sum == 0);
  require(checkpoint_describe(folder, NULL, &text, &error) == OK && text.length > 0);
  text_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Error error = {0};
  Checkpoint *checkpoint = NULL;
  const char *folder = scratch_folder();
  write_files(folder, data, size);
  Status status = checkpoint_open(folder, &checkpoint, &error);
  if (status == OK) {
    use(checkpoint, folder);
  } else {
    require(!checkpoint && status == ERROR_DATA);
    require_error(status, &error);
  }
  checkpoint_close(checkpoint);
  return 0;
}
