/* DiffAugment: the ranges of its draws, and what it does to frames. (tests/oracle compares it and
 * its gradients with PyTorch.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "engine/program/program.h"
#include "support_gan.h"
#include "trainer/gan/diff_augment.h"

enum { HEIGHT = 24, WIDTH = 40, LENGTH = 2, ELEMENTS = LENGTH * HEIGHT * WIDTH * 3, DRAWS = 4000 };

static void draw(int index, double probability, float out[DRAW_VALUES]) {
  Random random = random_stream(1, RANDOM_TEST, (uint64_t)index, 0);
  diff_augment_draw(&random, probability, HEIGHT, WIDTH, out);
}

/* --- Draws ------------------------------------------------------------------------------------ */

/* The smallest and largest of many values, and how often they change anything. */
typedef struct Range {
  float low, high;
} Range;

static void widen(Range *range, float value) {
  range->low = fminf(range->low, value);
  range->high = fmaxf(range->high, value);
}

/* The values fill the interval from low to high, and none is outside of it. */
static void check_range(const char *what, Range found, double low, double high) {
  double slack = 0.01 * (high - low);
  if (!((double)found.low >= low && (double)found.low <= low + slack &&
        (double)found.high <= high && (double)found.high >= high - slack))
    fail_msg("%s: %g to %g, expected %g to %g", what, (double)found.low, (double)found.high, low,
             high);
}

static void draws_fill_their_ranges(void **state) {
  (void)state;
  static const char *const NAMES[DRAW_VALUES] = {"brightness", "saturation", "contrast",
                                                 "dx",         "dy",         "cut x",
                                                 "cut y",      "cut width",  "cut height"};
  static const double LIMITS[DRAW_VALUES][2] = {{-1, 1},
                                                {0, 2},
                                                {0.5, 1.5},
                                                {-WIDTH / 8.0, WIDTH / 8.0},
                                                {-HEIGHT / 8.0, HEIGHT / 8.0},
                                                {0, WIDTH},
                                                {0, HEIGHT},
                                                {WIDTH / 4.0, WIDTH / 4.0},
                                                {HEIGHT / 4.0, HEIGHT / 4.0}};
  Range ranges[DRAW_VALUES];
  float values[DRAW_VALUES];
  for (int i = 0; i < DRAW_VALUES; i++) ranges[i] = (Range){INFINITY, -INFINITY};
  for (int k = 0; k < DRAWS; k++) {
    draw(k, 1, values);
    for (int i = 0; i < DRAW_VALUES; i++) widen(&ranges[i], values[i]);
    for (int i = DRAW_SHIFT; i < DRAW_CUT; i++)
      assert_true((double)values[i] == round((double)values[i]));
  }
  for (int i = 0; i < DRAW_VALUES; i++)
    check_range(NAMES[i], ranges[i], LIMITS[i][0], LIMITS[i][1]);
}

static bool changes_nothing(const float values[DRAW_VALUES]) {
  return values[DRAW_BRIGHTNESS] == 0 && values[DRAW_SATURATION] == 1 &&
         values[DRAW_CONTRAST] == 1 && values[DRAW_SHIFT] == 0 && values[DRAW_SHIFT + 1] == 0 &&
         values[DRAW_CUT_SIZE] < 0 && values[DRAW_CUT_SIZE + 1] < 0;
}

static void probability_is_the_share_of_changed_clips(void **state) {
  (void)state;
  static const double PROBABILITIES[] = {0, 0.3, 1};
  float values[DRAW_VALUES];
  for (size_t p = 0; p < sizeof PROBABILITIES / sizeof *PROBABILITIES; p++) {
    int changed = 0;
    for (int k = 0; k < DRAWS; k++) {
      draw(k, PROBABILITIES[p], values);
      changed += !changes_nothing(values);
    }
    double deviations = sqrt(DRAWS * PROBABILITIES[p] * (1 - PROBABILITIES[p]));
    assert_true(fabs(changed - DRAWS * PROBABILITIES[p]) <= 4 * deviations);
  }
}

/* So that a clip that is augmented at a low probability is augmented alike at a higher one, and the
 * draws that follow stay the same. */
static void draws_take_equal_amounts_of_random_numbers(void **state) {
  (void)state;
  float values[DRAW_VALUES];
  for (int k = 0; k < 20; k++) {
    Random a = random_stream(2, RANDOM_TEST, (uint64_t)k, 0), b = a;
    diff_augment_draw(&a, 0, HEIGHT, WIDTH, values);
    diff_augment_draw(&b, 1, HEIGHT, WIDTH, values);
    assert_int_equal(random_u32(&a), random_u32(&b));
  }
}

/* --- Frames ----------------------------------------------------------------------------------- */

static void upload(Buffer *buffer, const char *name, const float *values, int64_t count) {
  *buffer = buffer_describe(name, DTYPE_F32, count);
  assert_int_equal(buffer_allocate(buffer, backend, &error), OK);
  assert_int_equal(buffer_upload(buffer, 0, values, count, &error), OK);
}

/* Augments one clip with one draw. */
static void augment(const float *frames, const float values[DRAW_VALUES], float *out) {
  float places[WIDTH];
  Buffer input, draws, coordinates, output;
  for (int i = 0; i < WIDTH; i++) places[i] = (float)i;
  upload(&input, "frames", frames, ELEMENTS);
  upload(&draws, "draws", values, DRAW_VALUES);
  upload(&coordinates, "coordinates", places, WIDTH);
  upload(&output, "output", frames, ELEMENTS);
  Shape shape = shape_make(1, LENGTH, HEIGHT, WIDTH, 3);
  Graph *graph = graph_new();
  Value augmented =
      diff_augment(graph, graph_view(graph, &input, 0, shape),
                   graph_view(graph, &draws, 0, shape_make(1, 1, 1, 1, DRAW_VALUES)),
                   graph_view(graph, &coordinates, 0, shape_make(1, 1, 1, WIDTH, 1)),
                   graph_view(graph, &coordinates, 0, shape_make(1, 1, HEIGHT, 1, 1)));
  graph_store(graph, augmented, graph_view(graph, &output, 0, shape));
  Arena *arena = arena_new();
  Program *program = NULL;
  const ProgramOptions options = {.name = "augment", .arena = arena};
  if (program_plan(graph, backend, &options, &program, &error) != OK) fail_msg("%s", error.message);
  assert_int_equal(program_run(program, &error), OK);
  assert_int_equal(buffer_download(&output, 0, out, ELEMENTS, &error), OK);
  program_free(program);
  arena_free(arena);
  graph_free(graph);
  Buffer *const all[] = {&input, &draws, &coordinates, &output};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) buffer_free(all[i]);
}

static float frames[ELEMENTS], augmented[ELEMENTS];

static void make_frames(void) {
  Random random = random_stream(3, RANDOM_TEST, 0, 0);
  for (int i = 0; i < ELEMENTS; i++) frames[i] = (float)(2 * random_uniform(&random) - 1);
}

static void the_draw_of_probability_0_changes_nothing(void **state) {
  (void)state;
  float values[DRAW_VALUES];
  make_frames();
  for (int k = 0; k < 3; k++) {
    draw(k, 0, values);
    augment(frames, values, augmented);
    for (int i = 0; i < ELEMENTS; i++) assert_float_equal(augmented[i], frames[i], 1e-6);
  }
}

/* Index of a pixel's first colour. */
static int at(int t, int y, int x) {
  return ((t * HEIGHT + y) * WIDTH + x) * 3;
}

static void shift_and_cutout_are_where_the_draw_says(void **state) {
  (void)state;
  const float values[DRAW_VALUES] = {0, 1, 1, 3, -2, 10, 12, 5, 4};
  make_frames();
  augment(frames, values, augmented);
  for (int t = 0; t < LENGTH; t++)
    for (int y = 0; y < HEIGHT; y++)
      for (int x = 0; x < WIDTH; x++) {
        bool inside = x - 3 >= 0 && y + 2 < HEIGHT;
        bool cut = fabs(x - 10.0) < 5 && fabs(y - 12.0) < 4;
        for (int c = 0; c < 3; c++) {
          float expected = inside && !cut ? frames[at(t, y + 2, x - 3) + c] : 0;
          assert_float_equal(augmented[at(t, y, x) + c], expected, 1e-6);
        }
      }
}

static void saturation_0_is_grey_and_brightness_is_added(void **state) {
  (void)state;
  const float values[DRAW_VALUES] = {0.25f, 0, 1, 0, 0, 0, 0, -1, -1};
  make_frames();
  augment(frames, values, augmented);
  for (int i = 0; i < ELEMENTS; i += 3)
    for (int c = 0; c < 3; c++)
      assert_float_equal(augmented[i + c], (frames[i] + frames[i + 1] + frames[i + 2]) / 3 + 0.25f,
                         1e-5);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(draws_fill_their_ranges),
      cmocka_unit_test(probability_is_the_share_of_changed_clips),
      cmocka_unit_test(draws_take_equal_amounts_of_random_numbers),
      cmocka_unit_test(the_draw_of_probability_0_changes_nothing),
      cmocka_unit_test(shift_and_cutout_are_where_the_draw_says),
      cmocka_unit_test(saturation_0_is_grey_and_brightness_is_added),
  };
  return cmocka_run_group_tests(tests, open_backend, close_backend);
}
