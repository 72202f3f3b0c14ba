#include "data/dataset/manifest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/random.h"

#define MANIFEST_FORMAT "celforge-dataset"
/* The lowest version that has what is needed is written: shards that were written for another
 * dataset from version 2, one side alone from version 3. */
enum { SCHEMA_OWN_SHARDS = 1, SCHEMA_JOINED_SHARDS = 2, SCHEMA_ONE_SIDED = 3 };
static const char *const OFFSET_KEYS[SIDES] = {"source_offset", "target_offset"};
static const size_t max_manifest_bytes = (size_t)1 << 28;

void dataset_uuid_derive(const char *text, char out[37]) {
  size_t length = strlen(text);
  uint32_t hash[4] = {0, 0, 0, 0};
  for (size_t done = 0; done <= length; done += sizeof hash) {
    uint32_t block[4] = {0, 0, 0, 0}, mixed[4];
    memcpy(block, text + done, length - done < sizeof block ? length - done : sizeof block);
    const uint32_t key[2] = {(uint32_t)done, (uint32_t)length};
    for (int i = 0; i < 4; i++) block[i] ^= hash[i];
    philox4x32(block, key, mixed);
    for (int i = 0; i < 4; i++) hash[i] = mixed[i] ^ block[i];
  }
  hash[1] = (hash[1] & 0xffff0fffu) | 0x8000u;
  hash[2] = (hash[2] & 0x3fffffffu) | 0x80000000u;
  snprintf(out, 37, "%08x-%04x-%04x-%04x-%04x%08x", hash[0], hash[1] >> 16, hash[1] & 0xffff,
           hash[2] >> 16, hash[2] & 0xffff, hash[3]);
}

void manifest_free(Manifest *manifest) {
  for (int i = 0; i < manifest->info.shards; i++) shard_layout_free(&manifest->shards[i].layout);
  free(manifest->shards);
  free(manifest->maker);
  *manifest = (Manifest){0};
}

void manifest_add(Manifest *manifest, ShardLayout layout, const char *uuid, int64_t number) {
  DatasetInfo *info = &manifest->info;
  MEM_PUSH_SLOT(manifest->shards, info->shards, manifest->capacity);
  ManifestShard *shard = &manifest->shards[info->shards++];
  *shard = (ManifestShard){.layout = layout, .number = number};
  snprintf(shard->uuid, sizeof shard->uuid, "%s", uuid);
  info->clips += layout.clips;
}

/* --- Reading ---------------------------------------------------------------------------------- */

static Status require_string(const json_t *object, const char *where, const char *key,
                             const char *expected, Error *error) {
  const char *found;
  Status status = json_get_string(object, where, key, &found, error);
  if (status == OK && strcmp(found, expected) != 0)
    return error_set(error, ERROR_DATA, "%s: %s is \"%.80s\", expected \"%s\"", where, key, found,
                     expected);
  return status;
}

/* Reads an array of `count` numbers, each 0 to `maximum`. */
static Status get_numbers(const json_t *object, const char *where, const char *key, size_t count,
                          int64_t maximum, int64_t *out, Error *error) {
  json_t *array;
  Status status = json_get_array(object, where, key, &array, error);
  if (status != OK) return status;
  if (json_array_size(array) != count)
    return error_set(error, ERROR_DATA, "%s: %s has %zu entries, expected %zu", where, key,
                     json_array_size(array), count);
  for (size_t i = 0; i < count; i++) {
    const json_t *entry = json_array_get(array, i);
    out[i] = json_integer_value(entry);
    if (!json_is_integer(entry) || out[i] < 0 || out[i] > maximum)
      return error_set(error, ERROR_DATA, "%s: %s[%zu]: expected an integer from 0 to %lld", where,
                       key, i, (long long)maximum);
  }
  return OK;
}

static bool is_uuid(const char *text) {
  if (strlen(text) != 36) return false;
  for (int i = 0; i < 36; i++) {
    bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    if (dash ? text[i] != '-' : !strchr("0123456789abcdef", text[i])) return false;
  }
  return true;
}

static Status parse_shape(const json_t *root, const char *name, bool one_sided, ClipShape *shape,
                          Error *error) {
  Status status = OK;
  int64_t frames, source[3] = {0}, target[3] = {0};
  TRY(json_get_int(root, name, "frames", 1, CLIP_MAX_FRAMES, &frames, error));
  for (int side = 0; side < SIDES; side++) {
    int64_t *numbers = side == SIDE_SOURCE ? source : target;
    if (one_sided && !json_object_get(root, side_name(side))) continue;
    TRY(get_numbers(root, name, side_name(side), 3, CLIP_MAX_EDGE, numbers, error));
  }
  *shape = (ClipShape){(int)frames,    (int)source[0], (int)source[1],
                       (int)source[2], (int)target[0], (int)target[1]};
  if (clip_has_target(shape) && target[2] != 3)
    FAIL(error, ERROR_DATA, "%s: target[2] is %lld, expected 3", name, (long long)target[2]);
  TRY(clip_shape_check(name, shape, ERROR_DATA, error));
  if (one_sided == clip_is_paired(shape))
    FAIL(error, ERROR_DATA, "%s: expected %s", name,
         one_sided ? "either source or target, found both" : "both source and target");
done:
  return status;
}

static Status parse_uuid(const json_t *object, const char *where, const char *key, char out[37],
                         Error *error) {
  const char *uuid;
  Status status = json_get_string(object, where, key, &uuid, error);
  if (status != OK) return status;
  if (!is_uuid(uuid))
    return error_set(error, ERROR_DATA, "%s: %s is \"%.80s\", expected a UUID in lower case", where,
                     key, uuid);
  memcpy(out, uuid, 37);
  return OK;
}

static Status parse_header(const json_t *root, const char *name, Manifest *out, Error *error) {
  Status status = OK;
  DatasetInfo *info = &out->info;
  int64_t version;
  const char *fps, *maker, *compression;
  TRY(require_string(root, name, "format", MANIFEST_FORMAT, error));
  TRY(json_get_int(root, name, "schema_version", SCHEMA_OWN_SHARDS, SCHEMA_ONE_SIDED, &version,
                   error));
  TRY(parse_uuid(root, name, "uuid", info->uuid, error));
  TRY(json_get_string(root, name, "maker", &maker, error));
  TRY(parse_shape(root, name, version == SCHEMA_ONE_SIDED, &info->shape, error));
  TRY(json_get_string(root, name, "fps", &fps, error));
  TRY(fps_parse(name, fps, &info->fps_numerator, &info->fps_denominator, error));
  TRY(json_get_string(root, name, "compression", &compression, error));
  info->deflated = strcmp(compression, "deflate") == 0;
  if (!info->deflated && strcmp(compression, "none") != 0)
    FAIL(error, ERROR_DATA, "%s: compression is \"%.80s\", expected \"none\" or \"deflate\"", name,
         compression);
  out->maker = mem_string(maker);
done:
  return status;
}

static Status parse_chunks(const json_t *shard, const char *where, const char *side, int64_t clips,
                           ClipExtent **out, Error *error) {
  Status status = OK;
  char *key_offsets = mem_format("%s_offsets", side), *key_sizes = mem_format("%s_sizes", side);
  int64_t *numbers = NULL;
  json_t *array;
  /* Compare the array's length before allocating `clips` entries. */
  TRY(json_get_array(shard, where, key_offsets, &array, error));
  if ((uint64_t)clips != json_array_size(array))
    FAIL(error, ERROR_DATA, "%s: %s has %zu entries, expected %lld", where, key_offsets,
         json_array_size(array), (long long)clips);
  numbers = mem_new((size_t)clips, sizeof *numbers);
  *out = mem_new((size_t)clips, sizeof **out);
  TRY(get_numbers(shard, where, key_offsets, (size_t)clips, INT64_MAX, numbers, error));
  for (int64_t i = 0; i < clips; i++) (*out)[i].offset = (uint64_t)numbers[i];
  TRY(get_numbers(shard, where, key_sizes, (size_t)clips, INT64_MAX, numbers, error));
  for (int64_t i = 0; i < clips; i++) (*out)[i].size = (uint64_t)numbers[i];
done:
  free(numbers);
  free(key_offsets);
  free(key_sizes);
  return status;
}

/* Reads the dataset and number that the shard was written for; the defaults are this dataset and
 * `index`. */
static Status parse_origin(const json_t *shard, const char *where, int index, char uuid[37],
                           int64_t *number, Error *error) {
  Status status = OK;
  *number = index;
  if (!json_object_get(shard, "dataset_uuid") && !json_object_get(shard, "shard")) return OK;
  TRY(parse_uuid(shard, where, "dataset_uuid", uuid, error));
  TRY(json_get_int(shard, where, "shard", 0, DATASET_MAX_SHARDS - 1, number, error));
done:
  return status;
}

static Status parse_layout(const json_t *shard, const char *where, const DatasetInfo *info,
                           ShardLayout *layout, Error *error) {
  Status status = OK;
  int64_t bytes, sum, offset;
  TRY(json_get_int(shard, where, "clips", 1, INT32_MAX, &layout->clips, error));
  TRY(json_get_int(shard, where, "bytes", 1, INT64_MAX, &bytes, error));
  TRY(json_get_int(shard, where, "crc32c", 0, UINT32_MAX, &sum, error));
  layout->bytes = (uint64_t)bytes;
  layout->crc32c = (uint32_t)sum;
  for (int side = 0; side < SIDES; side++) {
    if (!clip_has_side(&info->shape, side)) continue;
    if (info->deflated) {
      TRY(parse_chunks(shard, where, side_name(side), layout->clips, &layout->chunks[side], error));
      continue;
    }
    TRY(json_get_int(shard, where, OFFSET_KEYS[side], 0, bytes, &offset, error));
    layout->offset[side] = (uint64_t)offset;
  }
  TRY(shard_layout_check(where, layout, &info->shape, error));
done:
  return status;
}

static Status parse_shard(const json_t *shard, const char *where, int index, Manifest *out,
                          Error *error) {
  Status status = OK;
  ShardLayout layout = {0};
  char name[SHARD_NAME_SIZE], uuid[37];
  int64_t number;
  shard_file_name(index, name);
  memcpy(uuid, out->info.uuid, sizeof uuid);
  if (!json_is_object(shard)) FAIL(error, ERROR_DATA, "%s: expected an object", where);
  TRY(require_string(shard, where, "file", name, error));
  TRY(parse_origin(shard, where, index, uuid, &number, error));
  TRY(parse_layout(shard, where, &out->info, &layout, error));
  manifest_add(out, layout, uuid, number);
  layout = (ShardLayout){0};
done:
  shard_layout_free(&layout);
  return status;
}

static Status parse_shards(const json_t *root, const char *name, Manifest *out, Error *error) {
  Status status = OK;
  json_t *shards;
  int64_t clips;
  TRY(json_get_int(root, name, "clips", 1, INT64_MAX, &clips, error));
  TRY(json_get_array(root, name, "shards", &shards, error));
  size_t count = json_array_size(shards);
  if (count < 1 || count > DATASET_MAX_SHARDS)
    FAIL(error, ERROR_DATA, "%s: shards has %zu entries, expected 1 to %d", name, count,
         DATASET_MAX_SHARDS);
  for (size_t i = 0; i < count; i++) {
    char *where = mem_format("%s: shards[%zu]", name, i);
    status = parse_shard(json_array_get(shards, i), where, (int)i, out, error);
    free(where);
    if (status != OK) goto done;
  }
  if (clips != out->info.clips)
    FAIL(error, ERROR_DATA, "%s: clips is %lld, expected %lld (the sum over the shards)", name,
         (long long)clips, (long long)out->info.clips);
done:
  return status;
}

Status manifest_parse(const char *name, const char *text, size_t size, Manifest *out,
                      Error *error) {
  Status status = OK;
  json_t *root = NULL;
  *out = (Manifest){0};
  TRY(json_parse(name, text, size, &root, error));
  TRY(parse_header(root, name, out, error));
  TRY(parse_shards(root, name, out, error));
done:
  json_decref(root);
  if (status != OK) manifest_free(out);
  return status;
}

Status manifest_read(const char *folder, Manifest *out, Error *error) {
  Status status = OK;
  char *path = path_join(folder, MANIFEST_NAME), *text = NULL;
  size_t size;
  *out = (Manifest){0};
  bool found;
  TRY(path_exists(folder, &found, error));
  if (!found) FAIL(error, ERROR_DATA, "%s: no such folder", folder);
  TRY(path_is_folder(folder, &found, error));
  if (!found) FAIL(error, ERROR_DATA, "%s: not a dataset: a file, expected a folder", folder);
  TRY(path_exists(path, &found, error));
  if (!found)
    FAIL(error, ERROR_DATA,
         "%s: not a dataset: no " MANIFEST_NAME "; if synth, pack or join was interrupted, run it "
         "again to finish",
         folder);
  TRY(file_read(path, max_manifest_bytes, &text, &size, error));
  TRY(manifest_parse(path, text, size, out, error));
done:
  free(text);
  free(path);
  return status;
}

/* --- Writing ---------------------------------------------------------------------------------- */

/* Returns NULL for an absent side. */
static json_t *frame_size(int height, int width, int channels) {
  if (height == 0) return NULL;
  return json_pack("[iii]", height, width, channels);
}

static void set_chunks(json_t *shard, int side, const ShardLayout *layout) {
  json_t *offsets = json_array(), *sizes = json_array();
  for (int64_t i = 0; i < layout->clips; i++) {
    json_array_append_new(offsets, json_integer((json_int_t)layout->chunks[side][i].offset));
    json_array_append_new(sizes, json_integer((json_int_t)layout->chunks[side][i].size));
  }
  char *key_offsets = mem_format("%s_offsets", side_name(side));
  char *key_sizes = mem_format("%s_sizes", side_name(side));
  json_object_set_new(shard, key_offsets, offsets);
  json_object_set_new(shard, key_sizes, sizes);
  free(key_sizes);
  free(key_offsets);
}

static bool is_own_shard(const Manifest *manifest, int index) {
  const ManifestShard *shard = &manifest->shards[index];
  return shard->number == index && strcmp(shard->uuid, manifest->info.uuid) == 0;
}

static json_t *shard_entry(const Manifest *manifest, int index) {
  const ShardLayout *layout = &manifest->shards[index].layout;
  char name[SHARD_NAME_SIZE];
  shard_file_name(index, name);
  json_t *shard =
      json_pack("{ss sI sI sI}", "file", name, "clips", (json_int_t)layout->clips, "bytes",
                (json_int_t)layout->bytes, "crc32c", (json_int_t)layout->crc32c);
  if (!is_own_shard(manifest, index)) {
    json_object_set_new(shard, "dataset_uuid", json_string(manifest->shards[index].uuid));
    json_object_set_new(shard, "shard", json_integer((json_int_t)manifest->shards[index].number));
  }
  for (int side = 0; side < SIDES; side++) {
    if (!clip_has_side(&manifest->info.shape, side)) continue;
    if (manifest->info.deflated)
      set_chunks(shard, side, layout);
    else
      json_object_set_new(shard, OFFSET_KEYS[side], json_integer((json_int_t)layout->offset[side]));
  }
  return shard;
}

Status manifest_write(const char *folder, const Manifest *manifest, Error *error) {
  Status status = OK;
  const DatasetInfo *info = &manifest->info;
  const ClipShape *s = &info->shape;
  char *path = path_join(folder, MANIFEST_NAME);
  char *fps = mem_format("%d/%d", info->fps_numerator, info->fps_denominator);
  json_t *shards = json_array();
  int version = SCHEMA_OWN_SHARDS;
  for (int i = 0; i < info->shards; i++) {
    if (!is_own_shard(manifest, i)) version = SCHEMA_JOINED_SHARDS;
    json_array_append_new(shards, shard_entry(manifest, i));
  }
  if (!clip_is_paired(s)) version = SCHEMA_ONE_SIDED;
  json_t *source = frame_size(s->source_height, s->source_width, s->source_channels);
  json_t *target = frame_size(s->target_height, s->target_width, 3);
  /* "o*" leaves out the key if the value is NULL. */
  json_t *root =
      json_pack("{ss si ss ss sI si so* so* ss ss so}", "format", MANIFEST_FORMAT, "schema_version",
                version, "uuid", info->uuid, "maker", manifest->maker, "clips",
                (json_int_t)info->clips, "frames", s->frames, "source", source, "target", target,
                "fps", fps, "compression", info->deflated ? "deflate" : "none", "shards", shards);
  if (!root) FAIL(error, ERROR_USAGE, "%s: maker is not valid UTF-8", path);
  TRY(json_write_file(path, root, error));
done:
  json_decref(root);
  free(fps);
  free(path);
  return status;
}
