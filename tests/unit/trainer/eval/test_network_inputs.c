/* Bicubic resizing by hand, and max pooling over 3 x 3 pixels against loops. Pillow and whole
 * networks: tests/oracle/test_pretrained_scores.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "base/random.h"
#include "engine/program/program.h"
#include "trainer/eval/bicubic_resize.h"
#include "trainer/eval/max_pool3.h"

static Error error;

static void near(double found, double expected, double tolerance) {
  if (!(fabs(found - expected) <= tolerance))
    fail_msg("%.17g, expected %.17g within %g", found, expected, tolerance);
}

/* --- Resizing --------------------------------------------------------------------------------- */

static void resize(const uint8_t *rgb, int height, int width, int side, float *out) {
  if (bicubic_resize(rgb, height, width, side, out, &error) != OK) fail_msg("%s", error.message);
}

static void test_equal_pixels_and_sizes(void **state) {
  (void)state;
  uint8_t frame[5 * 5 * 3], other[31 * 7 * 3];
  float out[5 * 5 * 3];
  Random random = random_stream(1, RANDOM_TEST, 0, 0);
  for (size_t i = 0; i < sizeof frame; i++) frame[i] = (uint8_t)random_u32(&random);
  resize(frame, 5, 5, 5, out); /* the same size */
  for (size_t i = 0; i < sizeof frame; i++) assert_true(out[i] == (float)frame[i]);
  for (size_t i = 0; i < sizeof other; i++) other[i] = (uint8_t)(10 + 50 * (i % 3));
  resize(other, 31, 7, 5, out); /* equal pixels */
  for (int i = 0; i < 5 * 5 * 3; i++) near((double)out[i], 10 + 50 * (i % 3), 1e-4);
}

/* Two columns 100 and 200 enlarged to four: the first is centred at 0.25, a quarter pixel from
 * column 0 and 1.25 from column 1, whose weights 0.8671875 and -0.0703125 are normalised. */
static void test_enlarging_by_hand(void **state) {
  (void)state;
  double inner = 0.8671875, outer = -0.0703125;
  uint8_t frame[2 * 2 * 3];
  float out[4 * 4 * 3];
  for (int i = 0; i < 12; i++) frame[i] = i % 6 < 3 ? 100 : 200;
  resize(frame, 2, 2, 4, out);
  for (int y = 0; y < 4; y++) {
    near((double)out[y * 12], (100 * inner + 200 * outer) / (inner + outer), 1e-4);
    near((double)out[y * 12 + 9], (200 * inner + 100 * outer) / (inner + outer), 1e-4);
  }
  for (int i = 0; i < 12; i++) frame[i] = i % 6 < 3 ? 0 : 255; /* overshoots both ways */
  resize(frame, 2, 2, 4, out);
  assert_true(out[0] == 0 && out[9] == 255);
}

/* Rows 0 to 7 reduced to two: taps at odd eighths of the kernel, twice as wide as the reduction. */
static void test_reducing_by_hand(void **state) {
  (void)state;
  uint8_t frame[8 * 2 * 3];
  float out[2 * 2 * 3];
  double sum = 0, weights = 0;
  for (int i = 0; i < 48; i++) frame[i] = (uint8_t)(30 * (i / 6));
  resize(frame, 8, 2, 2, out);
  for (int y = 0; y < 8; y++) { /* the first output row is centred at 2, four pixels wide */
    double x = fabs((y + 0.5 - 2) / 4);
    double w =
        x < 1 ? 1.5 * x * x * x - 2.5 * x * x + 1 : -0.5 * x * x * x + 2.5 * x * x - 4 * x + 2;
    sum += w * 30 * y;
    weights += w;
  }
  near((double)out[0], sum / weights, 1e-4);
  near((double)out[6], 210 - sum / weights, 1e-4);
}

/* --- Max pooling ------------------------------------------------------------------------------ */

enum { FRAMES = 2, CHANNELS = 3, MAX_VALUES = 4096 };

static void pool_by_loops(const float *x, int height, int width, int stride, int pad,
                          int out_height, int out_width, float *out) {
  for (int n = 0; n < FRAMES; n++)
    for (int y = 0; y < out_height; y++)
      for (int c = 0; c < out_width * CHANNELS; c++) {
        float best = -INFINITY;
        for (int k = 0; k < 9; k++) {
          int row = y * stride + k / 3 - pad, column = c / CHANNELS * stride + k % 3 - pad;
          if (row < 0 || row >= height || column < 0 || column >= width) continue;
          best = fmaxf(best, x[((n * height + row) * width + column) * CHANNELS + c % CHANNELS]);
        }
        *out++ = best;
      }
}

/* Random numbers, at least 0 for the padded kind; out_* as PyTorch's max_pool2d has them. */
static void check_pool(Backend *backend, int height, int width, bool same) {
  int out_height = same ? height : (height - 3) / 2 + 1,
      out_width = same ? width : (width - 3) / 2 + 1;
  int64_t inputs = (int64_t)FRAMES * height * width * CHANNELS;
  int64_t outputs = (int64_t)FRAMES * out_height * out_width * CHANNELS;
  static float x[MAX_VALUES], found[MAX_VALUES], expected[MAX_VALUES];
  Random random = random_stream(2, RANDOM_TEST, (uint64_t)height, (uint32_t)width);
  for (int64_t i = 0; i < inputs; i++) x[i] = random_normal(&random);
  for (int64_t i = 0; same && i < inputs; i++) x[i] = fmaxf(x[i], 0);
  Buffer from = buffer_describe("x", DTYPE_F32, inputs);
  Buffer to = buffer_describe("y", DTYPE_F32, outputs);
  Arena *arena = arena_new();
  Program *program = NULL;
  Graph *graph = graph_new();
  Value value = graph_view(graph, &from, 0, shape_make(FRAMES, 1, height, width, CHANNELS));
  value = same ? max_pool3_same(graph, value) : max_pool3_half(graph, value);
  graph_store(graph, value,
              graph_view(graph, &to, 0, shape_make(FRAMES, 1, out_height, out_width, CHANNELS)));
  if (graph_status(graph, &error) != OK) fail_msg("%s", error.message);
  const ProgramOptions options = {.name = "pool", .arena = arena};
  assert_int_equal(program_plan(graph, backend, &options, &program, &error), OK);
  assert_int_equal(buffer_allocate(&from, backend, &error), OK);
  assert_int_equal(buffer_allocate(&to, backend, &error), OK);
  assert_int_equal(buffer_upload(&from, 0, x, inputs, &error), OK);
  assert_int_equal(program_run(program, &error), OK);
  assert_int_equal(buffer_download(&to, 0, found, outputs, &error), OK);
  pool_by_loops(x, height, width, same ? 1 : 2, same ? 1 : 0, out_height, out_width, expected);
  for (int64_t i = 0; i < outputs; i++) near((double)found[i], (double)expected[i], 1e-6);
  program_free(program);
  graph_free(graph);
  buffer_free(&from);
  buffer_free(&to);
  arena_free(arena);
}

static void test_max_pooling(void **state) {
  (void)state;
  Backend *backend = NULL;
  assert_int_equal(backend_cpu_new(1, &backend, &error), OK);
  for (int height = 3; height <= 8; height++) check_pool(backend, height, 11 - height, false);
  check_pool(backend, 1, 1, true);
  check_pool(backend, 4, 7, true);
  backend->free(backend);
}

static void test_frames_that_are_too_small(void **state) {
  (void)state;
  Graph *graph = graph_new();
  Buffer from = buffer_describe("x", DTYPE_F32, 10);
  max_pool3_half(graph, graph_view(graph, &from, 0, shape_make(1, 1, 2, 5, 1)));
  assert_int_equal(graph_status(graph, &error), ERROR_USAGE);
  assert_non_null(strstr(error.message, "3x3 pixels of a frame of 5x2"));
  graph_free(graph);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_equal_pixels_and_sizes), cmocka_unit_test(test_enlarging_by_hand),
      cmocka_unit_test(test_reducing_by_hand), cmocka_unit_test(test_max_pooling),
      cmocka_unit_test(test_frames_that_are_too_small)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
