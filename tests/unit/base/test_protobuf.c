#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/protobuf.h"

static void assert_bytes(Text *text, const char *expected, size_t size) {
  assert_int_equal(text->length, size);
  assert_memory_equal(text->data, expected, size);
  text_free(text);
}

/* The examples of the format's documentation: 150, "testing", and the message with 150. */
static void documented_examples(void **state) {
  (void)state;
  Text text = {0}, inner = {0};
  protobuf_integer(&text, 1, 150);
  assert_bytes(&text, "\x08\x96\x01", 3);
  protobuf_string(&text, 2, "testing");
  assert_bytes(&text, "\x12\x07testing", 9);
  protobuf_integer(&inner, 1, 150);
  protobuf_message(&text, 3, &inner);
  assert_null(inner.data);
  assert_bytes(&text, "\x1a\x03\x08\x96\x01", 5);
}

static void numbers_are_little_endian(void **state) {
  (void)state;
  Text text = {0};
  protobuf_integer(&text, 1, 0);
  assert_bytes(&text, "\x08\x00", 2);
  protobuf_integer(&text, 16, -1); /* a two-byte tag and ten bytes */
  assert_bytes(&text, "\x80\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12);
  protobuf_float(&text, 1, 1.0f);
  assert_bytes(&text, "\x0d\x00\x00\x80\x3f", 5);
  protobuf_double(&text, 1, -2.0);
  assert_bytes(&text, "\x09\x00\x00\x00\x00\x00\x00\x00\xc0", 9);
}

static void bytes_equal_prefix_and_content(void **state) {
  (void)state;
  Text text = {0}, parts = {0};
  char content[300] = {1};
  protobuf_bytes(&text, 4, content, sizeof content);
  protobuf_length_prefix(&parts, 4, sizeof content);
  assert_int_equal(parts.length, 3); /* the tag and a two-byte length */
  text_append_bytes(&parts, content, sizeof content);
  assert_bytes(&text, parts.data, parts.length);
  text_free(&parts);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(documented_examples),
      cmocka_unit_test(numbers_are_little_endian),
      cmocka_unit_test(bytes_equal_prefix_and_content),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
