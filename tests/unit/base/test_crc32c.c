#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/random.h"

typedef uint32_t (*Crc)(uint32_t, const void *, size_t);
static const Crc implementations[] = {crc32c, crc32c_portable};

/* RFC 3720 appendix B.4, and the check value of CRC catalogues. */
static void values_of_rfc_3720(void **state) {
  (void)state;
  uint8_t zeros[32] = {0}, ones[32], rising[32], falling[32];
  memset(ones, 0xff, sizeof ones);
  for (int i = 0; i < 32; i++) {
    rising[i] = (uint8_t)i;
    falling[i] = (uint8_t)(31 - i);
  }
  for (int w = 0; w < 2; w++) {
    assert_int_equal(implementations[w](0, "123456789", 9), 0xe3069283);
    assert_int_equal(implementations[w](0, zeros, 32), 0x8a9136aa);
    assert_int_equal(implementations[w](0, ones, 32), 0x62a8ab43);
    assert_int_equal(implementations[w](0, rising, 32), 0x46dd794e);
    assert_int_equal(implementations[w](0, falling, 32), 0x113fdb5c);
    assert_int_equal(implementations[w](0, NULL, 0), 0);
    assert_int_equal(implementations[w](0x12345678, NULL, 0), 0x12345678);
  }
}

static uint32_t bit_by_bit(uint32_t crc, const uint8_t *data, size_t size) {
  crc = ~crc;
  for (size_t i = 0; i < size; i++) {
    crc ^= data[i];
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
  }
  return ~crc;
}

enum { ROOM = 16384 };

static uint8_t *random_bytes(Random *random) {
  uint8_t *bytes = malloc(ROOM);
  for (int i = 0; i < ROOM; i++) bytes[i] = (uint8_t)random_u32(random);
  return bytes;
}

static void all_sizes_and_alignments_agree_with_the_definition(void **state) {
  (void)state;
  Random random = random_stream(2, RANDOM_TEST, 0, 0);
  uint8_t *bytes = random_bytes(&random);
  for (size_t offset = 0; offset < 9; offset++)
    for (size_t size = 0; size < 70; size++) {
      uint32_t expected = bit_by_bit(0, bytes + offset, size);
      assert_int_equal(crc32c(0, bytes + offset, size), expected);
      assert_int_equal(crc32c_portable(0, bytes + offset, size), expected);
    }
  for (int i = 0; i < 200; i++) {
    size_t offset = random_below(&random, 64), size = random_below(&random, ROOM - 64);
    uint32_t start = random_u32(&random), expected = bit_by_bit(start, bytes + offset, size);
    assert_int_equal(crc32c(start, bytes + offset, size), expected);
    assert_int_equal(crc32c_portable(start, bytes + offset, size), expected);
  }
  free(bytes);
}

static void checksum_continues_after_a_split(void **state) {
  (void)state;
  Random random = random_stream(3, RANDOM_TEST, 0, 0);
  uint8_t *bytes = random_bytes(&random);
  for (int w = 0; w < 2; w++) {
    uint32_t whole = implementations[w](0, bytes, ROOM);
    for (int i = 0; i < 50; i++) {
      size_t split = random_below(&random, ROOM);
      assert_int_equal(
          implementations[w](implementations[w](0, bytes, split), bytes + split, ROOM - split),
          whole);
    }
  }
  free(bytes);
}

static void flipped_bits_change_the_checksum(void **state) {
  (void)state;
  Random random = random_stream(4, RANDOM_TEST, 0, 0);
  uint8_t *bytes = random_bytes(&random);
  uint32_t whole = crc32c(0, bytes, ROOM);
  for (int i = 0; i < 500; i++) {
    size_t at = random_below(&random, ROOM);
    uint8_t bit = (uint8_t)(1 << random_below(&random, 8));
    bytes[at] ^= bit;
    assert_int_not_equal(crc32c(0, bytes, ROOM), whole);
    bytes[at] ^= bit;
  }
  free(bytes);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(values_of_rfc_3720),
      cmocka_unit_test(all_sizes_and_alignments_agree_with_the_definition),
      cmocka_unit_test(checksum_continues_after_a_split),
      cmocka_unit_test(flipped_bits_change_the_checksum),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
