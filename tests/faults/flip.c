/* Preloaded into a training run: at SIGURG one bit flips in the memory of rank FLIP_RANK, in the
 * middle of block FLIP_NUMBER (counted from 0) of those that were allocated with FLIP_BYTES bytes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static unsigned char *block;
static size_t bytes;
static int wanted = -1;

static void flip(int number) {
  static const char said[] = "flipped\n";
  (void)number;
  if (!block) return;
  block[bytes / 2 + 2] ^= 0x10; /* of the mantissa of a float */
  if (write(2, said, sizeof said - 1) < 0) _exit(1);
}

__attribute__((constructor)) static void begin(void) {
  const char *rank = getenv("OMPI_COMM_WORLD_RANK"), *wish = getenv("FLIP_RANK");
  if (!rank || !wish || strcmp(rank, wish) != 0) return;
  wanted = atoi(getenv("FLIP_NUMBER"));
  bytes = (size_t)atoll(getenv("FLIP_BYTES"));
  signal(SIGURG, flip);
}

void *aligned_alloc(size_t alignment, size_t size) {
  static void *(*next)(size_t, size_t);
  if (!next) *(void **)&next = dlsym(RTLD_NEXT, "aligned_alloc");
  void *memory = next(alignment, size);
  if (size == bytes && wanted >= 0 && wanted-- == 0) block = memory;
  return memory;
}
