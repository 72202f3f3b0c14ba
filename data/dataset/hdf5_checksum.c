#include "data/dataset/hdf5_checksum.h"

/* lookup3 keeps three words of state and adds twelve bytes at a time to them. */
typedef struct State {
  uint32_t a, b, c;
} State;

static uint32_t rotate(uint32_t x, int bits) {
  return x << bits | x >> (32 - bits);
}

static void mix(State *s) {
  static const int bits[2][3] = {{4, 6, 8}, {16, 19, 4}};
  for (int i = 0; i < 2; i++) {
    s->a = (s->a - s->c) ^ rotate(s->c, bits[i][0]);
    s->c += s->b;
    s->b = (s->b - s->a) ^ rotate(s->a, bits[i][1]);
    s->a += s->c;
    s->c = (s->c - s->b) ^ rotate(s->b, bits[i][2]);
    s->b += s->a;
  }
}

static void finish(State *s) {
  s->c = (s->c ^ s->b) - rotate(s->b, 14);
  s->a = (s->a ^ s->c) - rotate(s->c, 11);
  s->b = (s->b ^ s->a) - rotate(s->a, 25);
  s->c = (s->c ^ s->b) - rotate(s->b, 16);
  s->a = (s->a ^ s->c) - rotate(s->c, 4);
  s->b = (s->b ^ s->a) - rotate(s->a, 14);
  s->c = (s->c ^ s->b) - rotate(s->b, 24);
}

/* Adds up to twelve bytes; the missing ones count as 0. */
static void add(State *s, const uint8_t *bytes, size_t count) {
  uint32_t words[3] = {0, 0, 0};
  for (size_t i = 0; i < count && i < 12; i++) words[i / 4] |= (uint32_t)bytes[i] << (8 * (i % 4));
  s->a += words[0];
  s->b += words[1];
  s->c += words[2];
}

uint32_t hdf5_checksum(const void *data, size_t size) {
  const uint8_t *bytes = data;
  uint32_t start = 0xdeadbeefu + (uint32_t)size;
  State s = {start, start, start};
  for (; size > 12; bytes += 12, size -= 12) {
    add(&s, bytes, 12);
    mix(&s);
  }
  if (size == 0) return s.c;
  add(&s, bytes, size);
  finish(&s);
  return s.c;
}
