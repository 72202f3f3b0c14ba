/* A library to preload into a training run. On SIGURG it flips one bit in the memory of rank
 * FLIP_RANK: in the middle of allocation number FLIP_NUMBER (from 0) of all with FLIP_BYTES bytes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static unsigned char *block;
static size_t bytes;
static int remaining = -1; /* allocations of this size before the block */

static void flip(int number) {
  static const char said[] = "flipped\n";
  (void)number;
  if (!block) return;
  block[bytes / 2 + 2] ^= 0x10; /* in the mantissa of a float */
  if (write(2, said, sizeof said - 1) < 0) _exit(1);
}

__attribute__((constructor)) static void begin(void) {
  const char *rank = getenv("OMPI_COMM_WORLD_RANK"), *wish = getenv("FLIP_RANK");
  if (!rank || !wish || strcmp(rank, wish) != 0) return;
  remaining = atoi(getenv("FLIP_NUMBER"));
  bytes = (size_t)atoll(getenv("FLIP_BYTES"));
  signal(SIGURG, flip);
}

void *aligned_alloc(size_t alignment, size_t size) {
  static void *(*next)(size_t, size_t);
  if (!next) *(void **)&next = dlsym(RTLD_NEXT, "aligned_alloc");
  void *memory = next(alignment, size);
  if (size == bytes && remaining >= 0 && remaining-- == 0) block = memory;
  return memory;
}
