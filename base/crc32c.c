#include "base/crc32c.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#define HAVE_SSE42 1
#else
#define HAVE_SSE42 0
#endif

static const size_t STRIDE =
    1024; /* bytes of each of the three streams that the hardware version interleaves */

/* slices[k][b]: the CRC of byte b followed by k zero bytes. */
static uint32_t slices[8][256];
static pthread_once_t slices_once = PTHREAD_ONCE_INIT;

static void make_slices(void) {
  for (uint32_t byte = 0; byte < 256; byte++) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
    slices[0][byte] = crc;
  }
  for (int k = 1; k < 8; k++)
    for (int byte = 0; byte < 256; byte++) {
      uint32_t crc = slices[k - 1][byte];
      slices[k][byte] = crc >> 8 ^ slices[0][crc & 255];
    }
}

/* Slicing by eight (Kounavis and Berry: "Novel table lookup-based algorithms for high-performance
 * CRC generation", IEEE Trans. Computers 57(11), 2008). */
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t size) {
  pthread_once(&slices_once, make_slices);
  const uint8_t *p = data;
  crc = ~crc;
  for (; size >= 8; p += 8, size -= 8) {
    uint32_t low =
        crc ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
    crc = slices[7][low & 255] ^ slices[6][low >> 8 & 255] ^ slices[5][low >> 16 & 255] ^
          slices[4][low >> 24] ^ slices[3][p[4]] ^ slices[2][p[5]] ^ slices[1][p[6]] ^
          slices[0][p[7]];
  }
  for (; size > 0; p++, size--) crc = crc >> 8 ^ slices[0][(crc ^ *p) & 255];
  return ~crc;
}

#if HAVE_SSE42

static bool have_hardware;
/* advanced[k][b]: the CRC register that holds b in byte k and zeros elsewhere, after STRIDE zero
 * bytes. */
static uint32_t advanced[4][256];
static pthread_once_t hardware_once = PTHREAD_ONCE_INIT;

static uint64_t load64(const uint8_t *p) {
  uint64_t word;
  memcpy(&word, p, sizeof word);
  return word;
}

__attribute__((target("sse4.2"))) static void make_advanced(void) {
  have_hardware = __builtin_cpu_supports("sse4.2");
  if (!have_hardware) return;
  for (int bit = 0; bit < 32; bit++) {
    uint64_t crc = (uint64_t)1 << bit;
    for (size_t i = 0; i < STRIDE; i += 8) crc = _mm_crc32_u64(crc, 0);
    advanced[bit / 8][1 << bit % 8] = (uint32_t)crc;
  }
  for (int k = 0; k < 4; k++)
    for (int byte = 1; byte < 256; byte++) /* linear: the lowest bit XOR the others */
      advanced[k][byte] = advanced[k][byte & -byte] ^ advanced[k][byte & (byte - 1)];
}

static uint64_t advance_stride(uint64_t crc) {
  return advanced[0][crc & 255] ^ advanced[1][crc >> 8 & 255] ^ advanced[2][crc >> 16 & 255] ^
         advanced[3][crc >> 24 & 255];
}

/* The CRC instruction has a latency of three cycles and a throughput of one per cycle, so three
 * streams are interleaved. */
__attribute__((target("sse4.2"))) static uint32_t crc32c_hardware(uint32_t start, const uint8_t *p,
                                                                  size_t size) {
  uint64_t crc = (uint32_t)~start;
  for (; size >= 3 * STRIDE; p += 3 * STRIDE, size -= 3 * STRIDE) {
    uint64_t second = 0, third = 0;
    for (size_t i = 0; i < STRIDE; i += 8) {
      crc = _mm_crc32_u64(crc, load64(p + i));
      second = _mm_crc32_u64(second, load64(p + STRIDE + i));
      third = _mm_crc32_u64(third, load64(p + 2 * STRIDE + i));
    }
    crc = advance_stride(advance_stride(crc) ^ second) ^ third;
  }
  for (; size >= 8; p += 8, size -= 8) crc = _mm_crc32_u64(crc, load64(p));
  for (; size > 0; p++, size--) crc = _mm_crc32_u8((uint32_t)crc, *p);
  return ~(uint32_t)crc;
}

uint32_t crc32c(uint32_t crc, const void *data, size_t size) {
  pthread_once(&hardware_once, make_advanced);
  return have_hardware ? crc32c_hardware(crc, data, size) : crc32c_portable(crc, data, size);
}

#else

uint32_t crc32c(uint32_t crc, const void *data, size_t size) {
  return crc32c_portable(crc, data, size);
}

#endif
