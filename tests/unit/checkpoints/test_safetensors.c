/* safetensors files: round trips, and the files that the reader must reject. With arguments it
 * reads or writes files for tests/interop/test_safetensors.py (see `interop`). */
#include "support_checkpoints.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/files.h"
#include "base/memory.h"

/* A file in memory: header text, `data_bytes` bytes of data 0, 1, 2, ... Caller frees. */
static char *build(const char *header, size_t data_bytes, size_t *size) {
  uint64_t length = strlen(header);
  *size = 8 + length + data_bytes;
  char *bytes = mem_new(*size, 1);
  memcpy(bytes, &length, 8);
  memcpy(bytes + 8, header, length);
  for (size_t i = 0; i < data_bytes; i++) bytes[8 + length + i] = (char)i;
  return bytes;
}

static Status parse(const char *header, size_t data_bytes) {
  size_t size;
  Safetensors *file = NULL;
  char *bytes = build(header, data_bytes, &size);
  Status status = safetensors_parse("x", bytes, size, &file, &error);
  if (status != OK) assert_null(file);
  safetensors_close(file);
  free(bytes);
  return status;
}

static void test_known_bytes(void **state) {
  (void)state;
  static const float values[2] = {1.0F, -2.0F};
  static const unsigned char flag = 7;
  const NamedTensor tensors[] = {{"flag", TENSOR_U8, 0, {0}, &flag},
                                 {"w", TENSOR_F32, 2, {2, 1}, values}};
  static const char expected[] =
      "\x70\0\0\0\0\0\0\0"
      "{\"w\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]},"
      "\"flag\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[8,9]}}  "
      "\0\0\x80\x3f\0\0\0\xc0\x07";
  char *found;
  size_t size;
  uint32_t crc;
  uint64_t length;
  MUST_OK(safetensors_write(in_folder("a"), tensors, 2, NULL, &crc, &length, &error));
  MUST_OK(file_read(in_folder("a"), 4096, &found, &size, &error));
  assert_int_equal(size, sizeof expected - 1);
  assert_memory_equal(found, expected, size);
  assert_int_equal(length, size);
  assert_int_equal(crc, crc32c_portable(0, found, size));
  free(found);
}

static void test_round_trip_of_every_type(void **state) {
  (void)state;
  static unsigned char bytes[13][48];
  static char names[13][32];
  NamedTensor tensors[13];
  for (int t = 0; t < 13; t++) {
    for (int i = 0; i < 48; i++) bytes[t][i] = (unsigned char)(t * 31 + i);
    snprintf(names[t], sizeof names[t], "tensor %d", t);
    tensors[t] = (NamedTensor){names[t], (TensorType)t, 3, {1, 2, 3}, bytes[t]};
  }
  MUST_OK(safetensors_write(in_folder("a"), tensors, 13, NULL, NULL, NULL, &error));
  Safetensors *file;
  MUST_OK(safetensors_open(in_folder("a"), &file, &error));
  assert_int_equal(safetensors_count(file), 13);
  for (int t = 0; t < 13; t++) {
    const NamedTensor *tensor = safetensors_find(file, names[t]);
    assert_non_null(tensor);
    assert_int_equal(tensor->type, t);
    assert_int_equal(tensor->rank, 3);
    assert_int_equal(tensor->shape[2], 3);
    assert_memory_equal(tensor->data, bytes[t], named_tensor_bytes(tensor));
    assert_int_equal((uintptr_t)tensor->data % (named_tensor_bytes(tensor) / 6), 0);
  }
  for (int t = 1; t < 13; t++) { /* file order: widest first, then by name */
    const NamedTensor *a = safetensors_tensor(file, t - 1), *b = safetensors_tensor(file, t);
    size_t wide = named_tensor_bytes(a), narrow = named_tensor_bytes(b);
    assert_true(wide > narrow || (wide == narrow && strcmp(a->name, b->name) < 0));
  }
  assert_null(safetensors_find(file, "other"));
  assert_null(safetensors_tensor(file, 13));
  safetensors_close(file);
}

static void test_nothing_and_nan(void **state) {
  (void)state;
  Safetensors *file;
  const float values[2] = {NAN, -0.0F};
  const NamedTensor tensors[] = {{"none", TENSOR_F64, 2, {0, 5}, NULL},
                                 {"nan", TENSOR_F32, 1, {2}, values},
                                 {"", TENSOR_F32, 1, {0}, NULL}};
  MUST_OK(safetensors_write(in_folder("a"), tensors, 3, NULL, NULL, NULL, &error));
  MUST_OK(safetensors_open(in_folder("a"), &file, &error));
  assert_memory_equal(safetensors_find(file, "nan")->data, values, sizeof values);
  assert_int_equal(named_tensor_bytes(safetensors_find(file, "none")), 0);
  assert_non_null(safetensors_find(file, ""));
  safetensors_close(file);

  MUST_OK(safetensors_write(in_folder("a"), NULL, 0, NULL, NULL, NULL, &error));
  MUST_OK(safetensors_open(in_folder("a"), &file, &error));
  assert_int_equal(safetensors_count(file), 0);
  safetensors_close(file);
}

static void test_writer_refuses(void **state) {
  (void)state;
  const float one = 1;
  NamedTensor good = {"a", TENSOR_F32, 1, {1}, &one}, bad[2] = {good, good};
  const char *path = in_folder("refused");
#define REFUSED(text)                                                                              \
  MUST_FAIL(safetensors_write(path, bad, 2, NULL, NULL, NULL, &error), ERROR_INTERNAL, text)
  REFUSED("two tensors are named \"a\"");
  bad[1] = (NamedTensor){"__metadata__", TENSOR_F32, 1, {1}, &one};
  REFUSED("cannot be named __metadata__");
  bad[1] = (NamedTensor){"\xff", TENSOR_F32, 1, {1}, &one};
  REFUSED("not UTF-8");
  bad[1] = (NamedTensor){"b", TENSOR_F32, 9, {1}, &one};
  REFUSED("rank 9; allowed: 0 to 8");
  bad[1] = (NamedTensor){"b", TENSOR_F32, 1, {-1}, &one};
  REFUSED("dimension 0 is -1");
  bad[1] = (NamedTensor){"b", TENSOR_F32, 2, {INT64_MAX, 4}, &one};
  REFUSED("dimension");
  bad[1] = (NamedTensor){"b", TENSOR_F32, 1, {1}, NULL};
  REFUSED("has no data");
#undef REFUSED
  assert_int_equal(access(path, F_OK), -1);
  MUST_FAIL(safetensors_write(in_folder("no/such"), &good, 1, NULL, NULL, NULL, &error), ERROR_IO,
            "no/such: cannot create: No such file");
}

static void test_lengths(void **state) {
  (void)state;
  Safetensors *file;
  unsigned char bytes[16] = {0};
  MUST_FAIL(safetensors_parse("x", bytes, 0, &file, &error), ERROR_DATA, "x: has 0 bytes");
  MUST_FAIL(safetensors_parse("x", bytes, 7, &file, &error), ERROR_DATA, "has 7 bytes");
  MUST_FAIL(safetensors_parse("x", bytes, 8, &file, &error), ERROR_DATA, "does not begin with {");
  bytes[0] = 9;
  MUST_FAIL(safetensors_parse("x", bytes, 16, &file, &error), ERROR_DATA,
            "ends inside its header: the header has 9 bytes, the file 8");
  memset(bytes, 0xff, 8);
  MUST_FAIL(safetensors_parse("x", bytes, 16, &file, &error), ERROR_DATA, "at most 100000000");
  MUST_FAIL(parse(" {}", 0), ERROR_DATA, "does not begin with {");
  MUST_FAIL(parse("[]", 0), ERROR_DATA, "does not begin with {");
  MUST_OK(parse("{}      ", 0));
  MUST_FAIL(parse("{}", 1), ERROR_DATA, "has 1 bytes of data; its header describes 0");
  write_bytes(in_folder("empty"), "", 0);
  MUST_FAIL(safetensors_open(in_folder("empty"), &file, &error), ERROR_DATA, "empty: has 0 bytes");
  MUST_FAIL(safetensors_open(in_folder("gone"), &file, &error), ERROR_IO, "No such file");
  MUST_FAIL(safetensors_open(in_folder("."), &file, &error), ERROR_IO, "is a folder, not a file");
}

#define ENTRY(dtype, shape, offsets)                                                               \
  "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void test_bad_headers(void **state) {
  (void)state;
  static const struct {
    const char *header;
    size_t data_bytes;
    const char *message;
  } cases[] = {
      {"{", 0, "x:1:"},
      {"{}}", 0, "x:1:3: end of file expected"},
      {"{\"\xff\":1}", 0, "x:1:"},
      {"{\"a\":" ENTRY("U8", "[1]", "[0,1]") ",\"a\":" ENTRY("U8", "[0]", "[1,1]") "}", 1,
       "duplicate object key"},
      {"{\"a\":1}", 0, "x: \"a\": must be an object"},
      {"{\"a\":{}}", 0, "x: \"a\".dtype: missing"},
      {"{\"a\":" ENTRY("F8", "[1]", "[0,1]") "}", 1,
       "\"a\".dtype: is \"F8\"; known types: F32, BF16"},
      {"{\"a\":{\"dtype\":1,\"shape\":[],\"data_offsets\":[0,1]}}", 1, "dtype: is 1; must be"},
      {"{\"a\":" ENTRY("U8", "1", "[0,1]") "}", 1, "\"a\".shape: is 1; must be an array"},
      {"{\"a\":" ENTRY("U8", "[1.0]", "[0,1]") "}", 1, "shape[0]: must be an integer >= 0"},
      {"{\"a\":" ENTRY("U8", "[-1]", "[0,1]") "}", 1, "shape[0]: must be an integer >= 0"},
      {"{\"a\":" ENTRY("U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]") "}", 1, "9 dimensions; at most 8"},
      {"{\"a\":" ENTRY("F32", "[4611686018427387904]", "[0,0]") "}", 0, "exceeds 64 bits"},
      {"{\"a\":" ENTRY("U8", "[4294967296,4294967296]", "[0,0]") "}", 0, "exceeds 64 bits"},
      {"{\"a\":" ENTRY("U8", "[99999999999999999999]", "[0,1]") "}", 1, "too big integer"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "\"a\".data_offsets: missing"},
      {"{\"a\":" ENTRY("U8", "[1]", "[0]") "}", 1, "has 1 numbers; must be [begin, end]"},
      {"{\"a\":" ENTRY("U8", "[1]", "[0,1,1]") "}", 1, "has 3 numbers"},
      {"{\"a\":" ENTRY("U8", "[1]", "[-1,0]") "}", 1, "data_offsets[0]: must be"},
      {"{\"a\":" ENTRY("U8", "[1]", "[1,0]") "}", 1, "length and shape disagree"},
      {"{\"a\":" ENTRY("F32", "[2]", "[0,4]") "}", 4,
       "[0, 4] for 8 bytes of F32: length and shape disagree"},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":0}}", 1,
       "members other than"},
      {"{\"a\":" ENTRY("U8", "[1]", "[1,2]") "}", 2, "begins at byte 1 of the data, not at 0"},
      {"{\"a\":" ENTRY("U8", "[2]", "[0,2]") ",\"b\":" ENTRY("U8", "[2]", "[3,5]") "}", 5,
       "\"b\" begins at byte 3 of the data, not at 2: there is a gap"},
      {"{\"a\":" ENTRY("U8", "[2]", "[0,2]") ",\"b\":" ENTRY("U8", "[2]", "[1,3]") "}", 3,
       "\"b\" begins at byte 1 of the data, not at 2: tensors overlap"},
      {"{\"a\":" ENTRY("U8", "[2]", "[0,2]") ",\"b\":" ENTRY("U8", "[0]", "[1,1]") "}", 2,
       "tensors overlap"},
      {"{\"a\":" ENTRY("U8", "[2]", "[0,2]") "}", 3, "3 bytes of data; its header describes 2"},
      {"{\"a\":" ENTRY("U8", "[2]", "[0,2]") "}", 1, "1 bytes of data; its header describes 2"},
      {"{\"__metadata__\":{\"a\":1}}", 0, "x: __metadata__.a: must be a string"},
      {"{\"__metadata__\":[]}", 0, "x: __metadata__: must be an object"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    MUST_FAIL(parse(cases[i].header, cases[i].data_bytes), ERROR_DATA, cases[i].message);
}

/* Control characters in a tensor name must not reach the log. */
static void test_names_in_messages(void **state) {
  (void)state;
  MUST_FAIL(parse("{\"a\\n\\u001b[2J\":1}", 0), ERROR_DATA, "x: \"a??[2J\": must be");
  MUST_FAIL(parse("{\"__metadata__\":{\"\\r\":1}}", 0), ERROR_DATA, "x: __metadata__.?: must be");
  MUST_FAIL(parse("{\"\\t\":" ENTRY("U8", "[1]", "[1,2]") "}", 2), ERROR_DATA,
            "x: \"?\" begins at");
}

static void test_good_headers(void **state) {
  (void)state;
  /* Any order of names, empty tensors at a border, zero before a large dimension. */
  MUST_OK(parse("{\"z\":" ENTRY("U8", "[1]", "[1,2]") ",\"a\":" ENTRY("U8", "[]", "[0,1]") "}", 2));
  MUST_OK(
      parse("{\"a\":" ENTRY("U8", "[2]", "[0,2]") ",\"b\":" ENTRY("F64", "[0]", "[2,2]") "}", 2));
  MUST_OK(
      parse("{\"b\":" ENTRY("F64", "[0]", "[0,0]") ",\"a\":" ENTRY("U8", "[2]", "[0,2]") "}", 2));
  MUST_OK(parse("{\"a\":" ENTRY("F64", "[0,4611686018427387904]", "[0,0]") "}", 0));
  MUST_OK(parse("{\"__metadata__\":{}}", 0));
}

/* A file truncated to any length is rejected. */
static void test_every_truncation(void **state) {
  (void)state;
  size_t size;
  Safetensors *file;
  char *bytes = build("{\"a\":" ENTRY("F32", "[2,2]", "[0,16]") "}", 16, &size);
  for (size_t length = 0; length < size; length++) {
    char *cut =
        mem_new(length + 1, 1); /* an allocation of this length, so that a sanitizer sees its end */
    memcpy(cut, bytes, length);
    assert_int_equal(safetensors_parse("x", cut, length, &file, &error), ERROR_DATA);
    free(cut);
  }
  free(bytes);
}

/* --- Interchange with other programs ---------------------------------------------------------- */

static void print_hex(const void *data, size_t size) {
  const unsigned char *bytes = data;
  for (size_t i = 0; i < size; i++) printf("%02x", bytes[i]);
}

/* "file PATH" or "refused PATH", and for every tensor "tensor NAME TYPE D,D,D DATA"; name and data
 * in hexadecimal digits. */
static void print_file(const char *path) {
  Safetensors *file;
  if (safetensors_open(path, &file, &error) != OK) {
    printf("refused %s\n", path);
    return;
  }
  printf("file %s\n", path);
  for (int i = 0; i < safetensors_count(file); i++) {
    const NamedTensor *tensor = safetensors_tensor(file, i);
    printf("tensor ");
    print_hex(tensor->name, strlen(tensor->name));
    printf(" %s ", tensor_type_name(tensor->type));
    for (int d = 0; d < tensor->rank; d++)
      printf("%s%lld", d ? "," : "", (long long)tensor->shape[d]);
    printf(" ");
    print_hex(tensor->data, named_tensor_bytes(tensor));
    printf("\n");
  }
  safetensors_close(file);
}

/* One tensor of every type, byte i of it being (7 i + type) mod 2 for BOOL, mod 120 otherwise; and
 * names and shapes that try a reader. */
static Status write_every_type(const char *path) {
  static const char *const names[13] = {"b",
                                        "a.weight",
                                        "\xc3\xa9\xe2\x82\xac",
                                        "with \"quotes\"",
                                        "back\\slash",
                                        "z/y",
                                        "new\nline",
                                        "f",
                                        "",
                                        "i",
                                        "j",
                                        "k",
                                        "l"};
  unsigned char bytes[13][48];
  NamedTensor tensors[15];
  for (int t = 0; t < 13; t++) {
    for (int i = 0; i < 48; i++)
      bytes[t][i] = (unsigned char)((7 * i + t) % (t == TENSOR_BOOL ? 2 : 120));
    tensors[t] = (NamedTensor){names[t], (TensorType)t, 3, {3, 1, 2}, bytes[t]};
  }
  tensors[13] = (NamedTensor){"scalar", TENSOR_F32, 0, {0}, bytes[0]};
  tensors[14] = (NamedTensor){"none", TENSOR_F64, 2, {4, 0}, NULL};
  return safetensors_write(path, tensors, 15, NULL, NULL, NULL, &error);
}

/* Tensors with a few unusual names; their data are 0, 1, 2, ... */
static Status write_floats(const char *path) {
  float values[24];
  for (int i = 0; i < 24; i++) values[i] = (float)i;
  const NamedTensor tensors[] = {{"stem.weight", TENSOR_F32, 4, {2, 3, 2, 2}, values},
                                 {"stem.bias", TENSOR_F32, 1, {2}, values},
                                 {"head", TENSOR_F32, 0, {0}, values + 5}};
  return safetensors_write(path, tensors, 3, NULL, NULL, NULL, &error);
}

static int interop(int argc, char **argv) {
  Status status = OK;
  if (strcmp(argv[1], "write-types") == 0 && argc == 3) {
    status = write_every_type(argv[2]);
  } else if (strcmp(argv[1], "write-floats") == 0 && argc == 3) {
    status = write_floats(argv[2]);
  } else if (strcmp(argv[1], "read") == 0) {
    for (int i = 2; i < argc; i++) print_file(argv[i]);
  } else {
    status = error_set(&error, ERROR_USAGE, "write-types PATH | write-floats PATH | read PATH...");
  }
  if (status != OK) fprintf(stderr, "%s\n", error.message);
  return (int)status;
}

int main(int argc, char **argv) {
  if (argc > 1) return interop(argc, argv);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_known_bytes, make_folder, remove_folder),
      cmocka_unit_test_setup_teardown(test_round_trip_of_every_type, make_folder, remove_folder),
      cmocka_unit_test_setup_teardown(test_nothing_and_nan, make_folder, remove_folder),
      cmocka_unit_test_setup_teardown(test_writer_refuses, make_folder, remove_folder),
      cmocka_unit_test_setup_teardown(test_lengths, make_folder, remove_folder),
      cmocka_unit_test(test_bad_headers),
      cmocka_unit_test(test_names_in_messages),
      cmocka_unit_test(test_good_headers),
      cmocka_unit_test(test_every_truncation),
  };
  return cmocka_run_group_tests_name("safetensors", tests, NULL, NULL);
}
