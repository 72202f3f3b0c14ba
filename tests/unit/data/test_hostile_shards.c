/* Inspects mutated shards whose checksums are right, as somebody would make them who wants to crash
 * the program. Each is inspected in a child process: no signal, no hang, and an error of bad data
 * or none.
 *
 * Fixed seed. CELFORGE_MUTATIONS=N sets the number of mutations of each kind of shard,
 * CELFORGE_MUTATION_SEED=N another seed. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/files.h"
#include "base/memory.h"
#include "base/random.h"
#include "data/dataset/shard.h"
#include "support_dataset.h"
#include "tests/fuzz/hdf5_blocks.h"

enum { DEFAULT_MUTATIONS = 400, MAX_BLOCKS = 64, MAX_CLIPS_READ = 3, TIME_LIMIT = 10, BATCH = 25 };

typedef struct Seed {
  uint8_t *bytes;
  size_t size;
  Hdf5Block blocks[MAX_BLOCKS];
  size_t block_count;
} Seed;

static uint32_t setting(const char *name, uint32_t otherwise) {
  const char *text = getenv(name);
  return text && *text ? (uint32_t)strtoul(text, NULL, 10) : otherwise;
}

/* --- Mutations -------------------------------------------------------------------------------- */

/* Values at which sizes, counts and addresses are likely to be handled wrongly. */
static uint64_t interesting(Random *random, const Seed *seed) {
  const uint64_t values[] = {0,
                             1,
                             2,
                             3,
                             4,
                             7,
                             8,
                             16,
                             63,
                             64,
                             255,
                             256,
                             32767,
                             32768,
                             65535,
                             65536,
                             0x7fffffff,
                             0x80000000u,
                             0xffffffff,
                             1 << 24,
                             INT64_MAX,
                             UINT64_MAX,
                             UINT64_MAX - 7,
                             1ull << 40,
                             seed->size,
                             seed->size - 1,
                             seed->size - 4};
  size_t count = sizeof values / sizeof *values;
  uint64_t choice = random_below(random, count + 2);
  if (choice < count) return values[choice];
  return seed->blocks[random_below(random, seed->block_count)].start; /* a loop of structures */
}

static void mutate_block(Random *random, const Seed *seed, uint8_t *file, const Hdf5Block *block) {
  size_t size = block->end - block->start;
  size_t at = block->start + random_below(random, size), left = block->end - at;
  switch (random_below(random, 6)) {
  case 0:
    file[at] ^= (uint8_t)(1u << random_below(random, 8));
    break;
  case 1:
    file[at] = (uint8_t)random_below(random, 256);
    break;
  case 2:
    file[at] = (uint8_t)random_below(random, 32);
    break; /* a type, version or flag */
  case 3: {
    size_t bytes = (size_t)1 << random_below(random, 4);
    uint64_t value = interesting(random, seed);
    memcpy(file + at, &value, bytes < left ? bytes : left);
    break;
  }
  case 4: { /* moves the messages behind it */
    size_t by = 1 + random_below(random, 16);
    if (by < left) memmove(file + at, file + at + by, left - by);
    break;
  }
  default: { /* a piece of another structure */
    const Hdf5Block *from = &seed->blocks[random_below(random, seed->block_count)];
    size_t room = from->end - from->start, bytes = 1 + random_below(random, 48);
    size_t start = from->start + random_below(random, room);
    if (bytes > from->end - start) bytes = from->end - start;
    memcpy(file + at, seed->bytes + start, bytes < left ? bytes : left);
  }
  }
}

static void mutate(Random *random, const Seed *seed, uint8_t *file) {
  memcpy(file, seed->bytes, seed->size);
  for (uint64_t i = 0, count = 1 + random_below(random, 3); i < count; i++) {
    const Hdf5Block *block = &seed->blocks[random_below(random, seed->block_count)];
    mutate_block(random, seed, file, block);
  }
  hdf5_renew_checksums(file, seed->size, seed->blocks, seed->block_count);
}

/* --- Inspecting ------------------------------------------------------------------------------- */

static void check_status(Status status, const Error *error) {
  if (status == OK || status == ERROR_DATA) return;
  fprintf(stderr, "status %d: %s\n", status, error->message);
  _exit(1);
}

static void read_clips(const char *path, const Shard *shard) {
  Error error;
  ClipName name;
  uint8_t *sides[SIDES];
  FILE *file = fopen(path, "rb");
  if (!file) _exit(1);
  for (int side = 0; side < SIDES; side++)
    sides[side] = mem_new(clip_side_bytes(&shard->header.shape, side) + 1, 1);
  const ShardFile opened = {path, fileno(file), &shard->header.shape, &shard->layout,
                            (const uint32_t(*)[SIDES])shard->checksums};
  for (int64_t i = 0; i < shard->header.clips && i < MAX_CLIPS_READ; i++)
    check_status(shard_read_clip(&opened, i, sides, &error), &error);
  check_status(shard_clip_name(path, shard->header.clips - 1, &name, &error), &error);
  for (int side = 0; side < SIDES; side++) free(sides[side]);
  fclose(file);
}

/* Writes mutations first .. first+count-1 to `path`, one after the other, and reads them as train,
 * verify and info do. Returns how many were refused. */
static int inspect_mutations(const char *path, const Seed *seed, uint32_t first, uint32_t count) {
  int refused = 0;
  uint8_t *file = mem_new(seed->size, 1);
  for (uint32_t i = first; i < first + count; i++) {
    Random random = random_stream(setting("CELFORGE_MUTATION_SEED", 17), RANDOM_TEST, i, 0);
    Error error;
    Shard shard;
    mutate(&random, seed, file);
    FILE *out = fopen(path, "wb");
    if (!out || fwrite(file, 1, seed->size, out) != seed->size || fclose(out) != 0) _exit(1);
    alarm(TIME_LIMIT);
    Status status = shard_inspect(path, true, &shard, &error);
    check_status(status, &error);
    if (status == OK) read_clips(path, &shard);
    shard_free(&shard);
    refused += status != OK;
  }
  free(file);
  return refused;
}

/* Returns the child's wait status. */
static int in_child(const char *path, const Seed *seed, uint32_t first, uint32_t count) {
  int result = 0;
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    const struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    for (int number = 1; number < 32; number++) signal(number, SIG_DFL);
    inspect_mutations(path, seed, first, count);
    _exit(0);
  }
  assert_int_equal(waitpid(child, &result, 0), child);
  return result;
}

/* Repeats a batch that failed one by one, to name the mutations. */
static uint32_t name_failures(const char *path, const Seed *seed, uint32_t first, uint32_t count) {
  uint32_t failures = 0;
  for (uint32_t i = first; i < first + count; i++) {
    int result = in_child(path, seed, i, 1);
    if (result == 0) continue;
    failures++;
    print_message("mutation %u: signal %d, exit code %d\n", i,
                  WIFSIGNALED(result) ? WTERMSIG(result) : 0,
                  WIFEXITED(result) ? WEXITSTATUS(result) : 0);
  }
  return failures;
}

static void survive_mutations(const char *folder, const char *shard) {
  Error error;
  Seed seed = {0};
  char *bytes;
  uint32_t failures = 0, mutations = setting("CELFORGE_MUTATIONS", DEFAULT_MUTATIONS);
  const char *path = inside(folder, "mutated.h5");
  if (file_read(shard, (size_t)1 << 24, &bytes, &seed.size, &error) != OK)
    fail_msg("%s", error.message);
  seed.bytes = (uint8_t *)bytes;
  seed.block_count = hdf5_find_blocks(seed.bytes, seed.size, seed.blocks, MAX_BLOCKS);
  assert_in_range(seed.block_count, 9, MAX_BLOCKS - 1);
  for (uint32_t i = 0; i < mutations; i += BATCH) {
    uint32_t count = mutations - i < BATCH ? mutations - i : BATCH;
    if (in_child(path, &seed, i, count) != 0) failures += name_failures(path, &seed, i, count);
  }
  /* Most mutations must be refused, but not all: some only change what does not matter. */
  int refused = failures ? 0 : inspect_mutations(path, &seed, 0, DEFAULT_MUTATIONS);
  alarm(0);
  print_message("%s: %u mutations, %u failures, %d of the first %d refused\n", shard, mutations,
                failures, refused, DEFAULT_MUTATIONS);
  free(bytes);
  assert_int_equal(failures, 0);
  assert_in_range(refused, DEFAULT_MUTATIONS / 3, DEFAULT_MUTATIONS - 1);
}

/* --- Kinds of shards -------------------------------------------------------------------------- */

static void mutated_shards(bool deflate, int64_t clips) {
  char *folder = temporary_folder();
  DatasetSpec spec = small_spec();
  spec.deflate = deflate;
  spec.clips_per_shard = clips;
  make_dataset(folder, &spec, clips);
  survive_mutations(folder, inside(folder, "data/shard-00000.h5"));
  remove_folder(folder);
}

static void mutated_plain_shards_do_not_crash(void **state) {
  (void)state;
  mutated_shards(false, 4);
}

static void mutated_deflated_shards_do_not_crash(void **state) {
  (void)state;
  mutated_shards(true, 4); /* a fixed array of chunks */
  mutated_shards(true, 1); /* a single chunk */
}

static void mutated_one_sided_shards_do_not_crash(void **state) {
  (void)state;
  char *folder = temporary_folder();
  DatasetSpec spec = one_sided_spec(SIDE_TARGET);
  make_dataset(folder, &spec, 3);
  survive_mutations(folder, inside(folder, "data/shard-00000.h5"));
  remove_folder(folder);
}

/* A shard of an earlier version, whose attributes are in a fractal heap behind a B-tree. */
static const char dense_shard[] = "tests/unit/data/dense_attributes.h5";

static void mutated_dense_attributes_do_not_crash(void **state) {
  (void)state;
  char *folder = temporary_folder();
  survive_mutations(folder, dense_shard);
  remove_folder(folder);
}

static void shards_of_earlier_versions_are_read(void **state) {
  (void)state;
  Error error;
  Shard shard;
  ClipName name;
  if (shard_inspect(dense_shard, true, &shard, &error) != OK) fail_msg("%s", error.message);
  assert_int_equal(shard.header.clips, 2);
  assert_int_equal(shard.header.shape.frames, 1);
  assert_int_equal(shard.header.shape.target_width, 8);
  assert_int_equal(shard.header.fps_numerator, 25);
  assert_string_equal(shard.header.uuid, "f6cbb7fc-b548-858e-b6db-2ba6a8d6060b");
  assert_int_equal(shard_clip_name(dense_shard, 1, &name, &error), OK);
  assert_string_equal(name.id, "synth-1-1");
  shard_free(&shard);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(mutated_plain_shards_do_not_crash),
      cmocka_unit_test(mutated_deflated_shards_do_not_crash),
      cmocka_unit_test(mutated_one_sided_shards_do_not_crash),
      cmocka_unit_test(mutated_dense_attributes_do_not_crash),
      cmocka_unit_test(shards_of_earlier_versions_are_read),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
