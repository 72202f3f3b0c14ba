#include "trainer/eval/style_test.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "trainer/eval/style_classifier.h"

struct StyleTest {
  int side, candidate_count;
  StylePatches source_train, source_test, cartoon_train, cartoon_test;
  StylePatches candidates[STYLE_MAX_CANDIDATES];
};

Status style_test_new(int side, int candidates, StyleTest **out, Error *error) {
  Status status = OK;
  StyleTest *test = mem_new(1, sizeof *test);
  test->side = side;
  test->candidate_count = candidates;
  TRY(style_patches_new(side, STYLE_TRAIN_PATCHES, &test->source_train, error));
  TRY(style_patches_new(side, STYLE_TEST_PATCHES, &test->source_test, error));
  TRY(style_patches_new(side, STYLE_TRAIN_PATCHES, &test->cartoon_train, error));
  TRY(style_patches_new(side, STYLE_TEST_PATCHES, &test->cartoon_test, error));
  for (int i = 0; i < candidates; i++)
    TRY(style_patches_new(side, STYLE_TEST_PATCHES, &test->candidates[i], error));
  *out = test;
  test = NULL;
done:
  style_test_free(test);
  return status;
}

void style_test_free(StyleTest *test) {
  if (!test) return;
  style_patches_free(&test->source_train);
  style_patches_free(&test->source_test);
  style_patches_free(&test->cartoon_train);
  style_patches_free(&test->cartoon_test);
  for (int i = 0; i < test->candidate_count; i++) style_patches_free(&test->candidates[i]);
  free(test);
}

/* --- Collecting ------------------------------------------------------------------------------- */

/* The place of a frame in its half. */
typedef struct Half {
  bool train;
  int64_t index, frames;
} Half;

static Half half_of(const FramePosition *at) {
  int64_t quarter = at->frames / 4, middle = at->frames - 2 * quarter;
  if (at->index < quarter) return (Half){true, at->index, 2 * quarter};
  if (at->index >= quarter + middle) return (Half){true, at->index - middle, 2 * quarter};
  return (Half){false, at->index - quarter, middle};
}

/* The number of patches to take from a frame: `capacity` is spread evenly over the frames, but a
 * frame gives at most four patches for each that it has room for. */
static int patch_count(const FramePosition *at, const Half *half, int side, int64_t capacity) {
  int64_t most = 4 * (((int64_t)at->height * at->width) / ((int64_t)side * side));
  int64_t positions = (int64_t)(at->height - side + 1) * (at->width - side + 1);
  if (most > positions) most = positions;
  int64_t total = half->frames * most < capacity ? half->frames * most : capacity;
  return (int)((half->index + 1) * total / half->frames - half->index * total / half->frames);
}

static void add(StylePatches *train, StylePatches *test, const uint8_t *rgb,
                const FramePosition *at) {
  Half half = half_of(at);
  StylePatches *to = half.train ? train : test;
  if (!to) return;
  style_patches_add(to, rgb, at->height, at->width, patch_count(at, &half, to->side, to->capacity),
                    at->index);
}

void style_test_add_source(StyleTest *test, const uint8_t *rgb, const FramePosition *at) {
  add(&test->source_train, &test->source_test, rgb, at);
}

void style_test_add_cartoon(StyleTest *test, const uint8_t *rgb, const FramePosition *at) {
  add(&test->cartoon_train, &test->cartoon_test, rgb, at);
}

void style_test_add_candidate(StyleTest *test, int candidate, const uint8_t *rgb,
                              const FramePosition *at) {
  add(NULL, &test->candidates[candidate], rgb, at);
}

/* --- Asking ----------------------------------------------------------------------------------- */

static const double SOURCES_ABOVE = 0.05; /* share of sources above the threshold */

static int compare_floats(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

/* The share of logits above the threshold, from `first` on in steps of `step`. */
static double share_above(const float *logits, int64_t count, int64_t first, int64_t step,
                          double threshold) {
  int64_t above = 0, total = 0;
  for (int64_t i = first; i < count; i += step, total++) above += logits[i] > threshold;
  return total > 0 ? (double)above / (double)total : (double)NAN;
}

/* From every second logit of the sources, beginning with the first. */
static double choose_threshold(const float *logits, int64_t count) {
  int64_t half = (count + 1) / 2, above = (int64_t)(SOURCES_ABOVE * (double)half);
  if (half == 0) return 0;
  float *sorted = mem_new((size_t)half, sizeof *sorted);
  for (int64_t i = 0; i < half; i++) sorted[i] = logits[2 * i];
  qsort(sorted, (size_t)half, sizeof *sorted, compare_floats);
  double threshold = sorted[half - 1 - above];
  free(sorted);
  return threshold > 0 ? threshold : 0;
}

static Status share_of(StyleClassifier *classifier, const StylePatches *patches, double threshold,
                       double *out, Error *error) {
  float *logits = mem_new((size_t)patches->count + 1, sizeof *logits);
  Status status = style_classifier_logits(classifier, patches, logits, error);
  *out = share_above(logits, patches->count, 0, 1, threshold);
  free(logits);
  return status;
}

static Status ask(StyleTest *test, StyleClassifier *classifier, StyleTestResult *out,
                  Error *error) {
  Status status = OK;
  int64_t sources = test->source_test.count;
  float *logits = mem_new((size_t)sources + 1, sizeof *logits);
  TRY(style_classifier_logits(classifier, &test->source_test, logits, error));
  out->threshold = choose_threshold(logits, sources);
  out->source = share_above(logits, sources, 1, 2, out->threshold);
  TRY(share_of(classifier, &test->cartoon_test, out->threshold, &out->cartoons, error));
  for (int i = 0; i < test->candidate_count; i++)
    TRY(share_of(classifier, &test->candidates[i], out->threshold, &out->candidates[i], error));
  out->accuracy = (1 - out->source + out->cartoons) / 2;
  out->trained = true;
done:
  free(logits);
  return status;
}

Status style_test_run(StyleTest *test, Backend *backend, int threads, StyleTestResult *out,
                      Error *error) {
  Status status = OK;
  StyleClassifier *classifier = NULL;
  *out = (StyleTestResult){.accuracy = NAN, .threshold = NAN, .source = NAN, .cartoons = NAN};
  for (int i = 0; i < STYLE_MAX_CANDIDATES; i++) out->candidates[i] = (double)NAN;
  if (test->source_train.count == 0 || test->cartoon_train.count == 0) return OK;
  TRY(style_classifier_new(backend, test->side, &classifier, error));
  TRY(style_classifier_train(classifier, &test->source_train, &test->cartoon_train, STYLE_STEPS,
                             threads, error));
  TRY(ask(test, classifier, out, error));
done:
  style_classifier_free(classifier);
  return status;
}
