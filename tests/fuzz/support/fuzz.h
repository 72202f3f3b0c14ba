/* Shared by the fuzz targets: requirements, input as a file, random choices and mutations.
 *
 * A target defines LLVMFuzzerTestOneInput, and often LLVMFuzzerCustomMutator, which libFuzzer calls
 * instead of its own mutations. Ours change a structure (a JSON value, a PNG chunk, a message of an
 * HDF5 object header) and then recompute lengths and checksums; otherwise nearly every input would
 * fail at its first checksum. */
#ifndef CELFORGE_TESTS_FUZZ_SUPPORT_FUZZ_H
#define CELFORGE_TESTS_FUZZ_SUPPORT_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed);
/* Provided by libFuzzer: its own mutations, with the target's dictionary. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t room);

/* Aborts, which libFuzzer reports as a finding, unless `good`. */
void require(bool good);
/* Requires that a failed call filled `error`: one line, with the status it returned. */
void require_error(Status status, const Error *error);

/* --- Input as a file -------------------------------------------------------------------------- */

/* The targets are linked with --wrap=file_read and --wrap=path_exists: these read the input of a
 * path below MEMORY_FILES from memory. A system call costs more than parsing a small file. */
#define MEMORY_FILES "/memory/"
/* Sets what each path below MEMORY_FILES holds; `data` must stay valid. */
void memory_files_set(const uint8_t *data, size_t size);

/* Writes the input to a file on a memory file system, for parsers in libraries that need one.
 * Returns its path, which is the same for each input and ends in `ending`, and its descriptor. */
const char *scratch_file(const char *ending, const uint8_t *data, size_t size, int *descriptor);
/* Returns an empty folder on a memory file system, removed at exit. */
const char *scratch_folder(void);

/* --- Random choices --------------------------------------------------------------------------- */

typedef struct Dice {
  uint64_t state;
} Dice;
Dice dice_new(unsigned seed);
uint32_t dice_below(Dice *dice, size_t limit); /* 0 .. limit-1; 0 if the limit is 0 */
bool dice_chance(Dice *dice, unsigned one_in);

/* --- Mutations -------------------------------------------------------------------------------- */

/* Text of a target's vocabulary, inserted as it stands; ends with NULL. */
typedef const char *const *Words;

/* Replaces data[begin..end) by `text` if the result fits into `room`. Returns the new size. */
size_t replace_bytes(uint8_t *data, size_t size, size_t room, size_t begin, size_t end,
                     const void *text, size_t length);
/* Writes a boundary value of 1, 2, 4 or 8 bytes, or flips a bit, in data[begin..end). */
void mutate_field(uint8_t *data, size_t begin, size_t end, Dice *dice);

/* Changes values, members and elements of a JSON text (json.c); every fourth time bytes. `words`
 * are JSON texts. */
size_t mutate_json(uint8_t *data, size_t size, size_t room, Words words, Dice *dice);
/* Changes lines, indentation and values of YAML (lines.c). */
size_t mutate_lines(uint8_t *data, size_t size, size_t room, Words words, Dice *dice);
/* Changes a safetensors file (safetensors.c): its header as JSON, then the header's length; every
 * second time offsets and data are made to fit the shapes. */
size_t mutate_safetensors(uint8_t *data, size_t size, size_t room, Words words, Dice *dice);
/* The same for an HDF5 file (hdf5.c): messages and fields of structures with a lookup3 checksum,
 * which are recomputed. Never changes the size. */
void mutate_hdf5(uint8_t *data, size_t size, Dice *dice);
/* Recomputes the checksums of an HDF5 file; returns how many structures have one. */
int fix_hdf5(uint8_t *data, size_t size);
/* A PNG file (png.c): chunks, and the pixels below deflate; CRC-32 and Adler-32 are recomputed. */
size_t mutate_png(uint8_t *data, size_t size, size_t room, Dice *dice);
/* A video (containers.c): boxes of MP4, chunks of RIFF, EBML elements; checksums of Ogg pages and
 * of MPEG-TS tables are recomputed. */
size_t mutate_container(uint8_t *data, size_t size, size_t room, Dice *dice);

#endif
