#include "trainer/eval/inception_scores.h"

#include <math.h>
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "base/bulk_memory.h"
#include "base/memory.h"
#include "trainer/eval/bicubic_resize.h"
#include "trainer/eval/inception.h"
#include "trainer/eval/kernel_distance.h"

enum { IMAGE_VALUES = INCEPTION_SIDE * INCEPTION_SIDE * 3 };

struct InceptionScores {
  Inception *network;
  FeatureSet sets[REPORT_COLUMNS];
  int64_t capacity[REPORT_COLUMNS];
  /* The batch that is being filled: images, and the columns that they belong to. */
  int pending;
  ReportColumn columns[INCEPTION_BATCH];
  float *images;   /* [INCEPTION_BATCH,299,299,3] */
  float *features; /* [INCEPTION_BATCH,INCEPTION_FEATURES] */
};

Status inception_scores_new(Backend *backend, const char *path, InceptionScores **out,
                            Error *error) {
  Status status = OK;
  InceptionScores *scores = mem_new(1, sizeof *scores);
  size_t batch = INCEPTION_BATCH * sizeof(float);
  TRY(inception_new(backend, path, &scores->network, error));
  TRY(mem_bulk(batch * IMAGE_VALUES, "images for Inception", (void **)&scores->images, error));
  TRY(mem_bulk(batch * INCEPTION_FEATURES, "features of Inception", (void **)&scores->features,
               error));
  *out = scores;
  scores = NULL;
done:
  inception_scores_free(scores);
  return status;
}

void inception_scores_free(InceptionScores *scores) {
  if (!scores) return;
  inception_free(scores->network);
  for (int c = 0; c < REPORT_COLUMNS; c++) free(scores->sets[c].values);
  free(scores->images);
  free(scores->features);
  free(scores);
}

/* Computes the features of the pending images and appends them to their sets. */
static Status flush(InceptionScores *scores, Error *error) {
  Status status = OK;
  if (scores->pending == 0) return OK;
  TRY(inception_run(scores->network, scores->images, scores->pending, scores->features, error));
  for (int i = 0; i < scores->pending; i++) {
    FeatureSet *set = &scores->sets[scores->columns[i]];
    float *to = set->values + set->count++ * INCEPTION_FEATURES;
    for (int64_t k = 0; k < INCEPTION_FEATURES; k++)
      to[k] = scores->features[i * INCEPTION_FEATURES + k];
  }
  scores->pending = 0;
done:
  return status;
}

static Status reserve(InceptionScores *scores, ReportColumn column, int64_t frames, Error *error) {
  FeatureSet *set = &scores->sets[column];
  scores->capacity[column] = frames;
  set->length = INCEPTION_FEATURES;
  return mem_bulk((size_t)frames * INCEPTION_FEATURES * sizeof *set->values,
                  "features of all frames", (void **)&set->values, error);
}

Status inception_scores_add(InceptionScores *scores, ReportColumn column, const uint8_t *rgb,
                            const FramePosition *at, Error *error) {
  Status status = OK;
  if (!scores->sets[column].values) TRY(reserve(scores, column, at->frames, error));
  if (at->index >= scores->capacity[column])
    FAIL(error, ERROR_INTERNAL, "frame %lld of a video of %lld", (long long)at->index,
         (long long)scores->capacity[column]);
  float *image = scores->images + (int64_t)scores->pending * IMAGE_VALUES;
  TRY(bicubic_resize(rgb, at->height, at->width, INCEPTION_SIDE, image, error));
  for (int i = 0; i < IMAGE_VALUES; i++) image[i] = (image[i] - 128) / 128;
  scores->columns[scores->pending++] = column;
  if (scores->pending == INCEPTION_BATCH) TRY(flush(scores, error));
done:
  return status;
}

static int default_threads(void) {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

Status inception_scores_run(InceptionScores *scores, ReportColumn reference, int threads,
                            InceptionResult *out, Error *error) {
  Status status = OK;
  const FeatureSet *other = &scores->sets[reference];
  if (threads <= 0) threads = default_threads();
  *out = (InceptionResult){.reference = reference};
  TRY(flush(scores, error));
  for (int c = 0; c < REPORT_COLUMNS; c++) {
    const FeatureSet *set = &scores->sets[c];
    out->frames[c] = set->count;
    out->fid[c] = out->kid[c] = (double)NAN;
    if (c == (int)reference || set->count == 0) continue;
    TRY(kernel_distance(set, other, KID_SUBSET_SIZE, threads, &out->kid[c], error));
    TRY(frechet_distance(set, other, threads, &out->fid[c], error));
  }
done:
  return status;
}
