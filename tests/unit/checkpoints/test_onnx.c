/* The ONNX writer: the exact bytes of every kind of message it writes, and models that are too
 * large. tests/interop/test_export.py covers whole models: it validates them with the checker of
 * the onnx package and runs them with ONNX Runtime. */
#include "checkpoints/onnx.h"

#include <stdlib.h>

#include "base/files.h"
#include "support_checkpoints.h"

static OnnxModel *small_model(void) {
  return onnx_new("g", "p", "v", "");
}

static void must_write(const OnnxModel *model, const unsigned char *expected, size_t length) {
  char *bytes = NULL;
  size_t size = 0;
  MUST_OK(onnx_write(model, in_folder("a"), &error));
  MUST_OK(file_read(in_folder("a"), 4096, &bytes, &size, &error));
  assert_int_equal(size, length);
  assert_memory_equal(bytes, expected, length);
  free(bytes);
}

/* A model with one node, one input and one constant, encoded by hand: a tag is field << 3 | wire
 * type; lengths and integers are varints. */
static void test_model_of_one_node(void **state) {
  (void)state;
  static const int64_t NUMBERS[] = {-1, 300};
  static const unsigned char EXPECTED[] = {
      0x08, 8,                                       /* ir_version */
      0x12, 1,    'p',                               /* producer_name */
      0x1a, 1,    'v',                               /* producer_version */
      0x32, 0,                                       /* doc_string */
      0x42, 2,    0x10, 17,                          /* opset_import: version */
      0x72, 6,    0x0a, 1,    'k',  0x12, 1,    'w', /* metadata_props: key, value */
      0x3a, 80,                                      /* graph */
      0x12, 1,    'g',                               /* name */
      0x5a, 21,   0x0a, 1,    'x',                   /* input: name */
      0x12, 14,   0x0a, 12,   0x08, 1,               /* type, tensor_type, elem_type: float */
      0x12, 8,    0x0a, 2,    0x08, 3,               /* shape: a dim of 3 */
      0x0a, 2,    0x12, 0,                           /* and one whose dim_param is "" */
      0x1a, 0,                                       /* doc_string */
      0x0a, 25,   0x0a, 1,    'x',  0x0a, 1,    'c', /* node: inputs */
      0x12, 1,    'y',  0x1a, 1,    'y',             /* output, name */
      0x22, 1,    'F',                               /* op_type */
      0x2a, 8,    0x0a, 1,    'a',                   /* attribute: name */
      0xa0, 0x01, 2,                                 /* type: INT */
      0x18, 5,                                       /* i */
      0x2a, 25,   0x08, 2,                           /* initializer: a dim of 2 */
      0x10, 7,                                       /* data_type: int64 */
      0x42, 1,    'c',                               /* name */
      0x4a, 16,                                      /* raw_data */
      0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x2c, 0x01, 0, 0, 0, 0, 0, 0,
  };
  OnnxModel *model = small_model();
  onnx_property(model, "k", "w");
  onnx_input(model, "x", (OnnxAxis[]){{.length = 3}, {.name = ""}}, 2, "");
  onnx_node(model, &(OnnxNode){.type = "F",
                               .inputs = {"x", "c"},
                               .output = "y",
                               .attributes = {ONNX_ATTRIBUTE_INT("a", 5)}});
  onnx_initializer(model, &(NamedTensor){"c", TENSOR_I64, 1, {2}, NUMBERS});
  must_write(model, EXPECTED, sizeof EXPECTED);
  onnx_free(model);
}

/* The kinds of message that the model above lacks: an output, attributes of other types, an omitted
 * input, an f32 constant. */
static void test_outputs_attributes_and_f32(void **state) {
  (void)state;
  static const int64_t PADS[] = {1, -1};
  static const float ONE = 1;
  static const unsigned char EXPECTED[] = {
      0x08, 8,                            /* ir_version */
      0x12, 1,    'p',                    /* producer_name */
      0x1a, 1,    'v',                    /* producer_version */
      0x32, 0,                            /* doc_string */
      0x42, 2,    0x10, 17,               /* opset_import: version */
      0x3a, 92,                           /* graph */
      0x12, 1,    'g',                    /* name */
      0x62, 18,   0x0a, 1,    'y',        /* output: name */
      0x12, 10,   0x0a, 8,    0x08, 1,    /* type, tensor_type, elem_type: float */
      0x12, 4,    0x0a, 2,    0x08, 9,    /* shape: a dim of 9 */
      0x1a, 1,    'd',                    /* doc_string */
      0x0a, 52,   0x0a, 1,    'x',        /* node: input */
      0x0a, 0,    0x0a, 1,    'c',        /* an omitted input, and another one */
      0x12, 1,    'y',  0x1a, 1,    'y',  /* output, name */
      0x22, 1,    'R',                    /* op_type */
      0x2a, 12,   0x0a, 1,    's',        /* attribute: name */
      0xa0, 0x01, 3,                      /* type: STRING */
      0x22, 4,    'e',  'd',  'g',  'e',  /* s */
      0x2a, 19,   0x0a, 1,    'i',        /* attribute: name */
      0xa0, 0x01, 7,                      /* type: INTS */
      0x40, 1,    0x40, 0xff, 0xff, 0xff, /* ints: 1, -1 */
      0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x2a, 13, 0x08, 1, /* initializer: a dim of 1 */
      0x10, 1,                                                     /* data_type: float */
      0x42, 1,    'c',                                             /* name */
      0x4a, 4,    0,    0,    0x80, 0x3f,                          /* raw_data */
  };
  OnnxModel *model = small_model();
  onnx_output(model, "y", (OnnxAxis[]){{.length = 9}}, 1, "d");
  onnx_node(model, &(OnnxNode){.type = "R",
                               .inputs = {"x", "", "c"},
                               .output = "y",
                               .attributes = {ONNX_ATTRIBUTE_STRING("s", "edge"),
                                              ONNX_ATTRIBUTE_INTS("i", PADS, 2)}});
  onnx_initializer(model, &(NamedTensor){"c", TENSOR_F32, 1, {1}, &ONE});
  must_write(model, EXPECTED, sizeof EXPECTED);
  onnx_free(model);
}

/* A model that is too large is not written, and the existing file is kept. */
static void test_too_large(void **state) {
  (void)state;
  char *bytes = NULL;
  size_t size = 0;
  OnnxModel *model = small_model();
  MUST_OK(atomic_file_replace(in_folder("a"), "old", 3, &error));
  onnx_initializer(model, &(NamedTensor){"c", TENSOR_F32, 1, {1LL << 29}, "never read"});
  MUST_FAIL(onnx_write(model, in_folder("a"), &error), ERROR_USAGE,
            "an ONNX file holds at most 2147483647 bytes, this model takes 21474836");
  MUST_OK(file_read(in_folder("a"), 4096, &bytes, &size, &error));
  assert_string_equal(bytes, "old");
  free(bytes);
  onnx_free(model);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_model_of_one_node, make_folder, remove_folder),
      cmocka_unit_test_setup_teardown(test_outputs_attributes_and_f32, make_folder, remove_folder),
      cmocka_unit_test_setup_teardown(test_too_large, make_folder, remove_folder),
  };
  return cmocka_run_group_tests_name("onnx", tests, NULL, NULL);
}
