/* Scores of a checkpoint on a dataset. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/progress.h"
#include "data/dataset/dataset.h"
#include "data/video/image.h"
#include "trainer/eval/evaluate.h"
#include "trainer/eval/image_metrics.h"
#include "trainer/eval/temporal_metrics.h"
#include "trainer/gan/device.h"
#include "trainer/infer/inference.h"

/* What is held against the target, and the target. */
typedef enum Film {
  FILM_INPUT,  /* the source as it is, enlarged where the target is larger */
  FILM_OUTPUT, /* the clip translated as a stream */
  FILM_FRAME,  /* each frame translated alone */
  FILM_CANDIDATES,
  FILM_TARGET = FILM_CANDIDATES,
  FILM_COUNT,
} Film;

static const char *const NAMES[FILM_COUNT] = {"input", "output", "frame", "target"};

typedef struct Score {
  double squared, ssim, temporal; /* sums over frames, frames, pairs of frames */
} Score;

typedef struct Evaluation {
  const EvalOptions *options;
  Dataset *dataset;
  Checkpoint *checkpoint;
  Backend *backend;
  Inference *inference;
  ClipShape shape;
  size_t source_frame, target_frame; /* bytes of a frame */
  int64_t clips, frames, pairs;
  uint8_t *source;            /* a clip */
  uint8_t *films[FILM_COUNT]; /* a clip each, of the target's size */
  float *output;              /* a frame */
  Score scores[FILM_CANDIDATES];
  Coherence *coherence; /* NULL: not asked for */
} Evaluation;

/* --- Candidates ------------------------------------------------------------------------------- */

static Status make_input(Evaluation *e, Error *error) {
  Status status = OK;
  const ClipShape *s = &e->shape;
  Image small = {0}, full = {0};
  TRY(image_new(s->source_width, s->source_height, &small, error));
  TRY(image_new(s->target_width, s->target_height, &full, error));
  size_t pixels = (size_t)s->source_width * (size_t)s->source_height;
  bool same = s->source_width == s->target_width && s->source_height == s->target_height;
  for (int t = 0; t < s->frames; t++) {
    const uint8_t *frame = e->source + (size_t)t * e->source_frame;
    for (size_t i = 0; i < pixels; i++)
      memcpy(small.pixels + 3 * i, frame + (size_t)s->source_channels * i, 3);
    if (!same) image_resize(&small, &full);
    memcpy(e->films[FILM_INPUT] + (size_t)t * e->target_frame, same ? small.pixels : full.pixels,
           e->target_frame);
  }
done:
  image_free(&small);
  image_free(&full);
  return status;
}

static Status make_output(Evaluation *e, Film film, Error *error) {
  Status status = OK;
  const ClipShape *s = &e->shape;
  InferenceShape shape = {
      1, s->source_height, s->source_width, s->source_channels, s->target_height, s->target_width};
  for (int t = 0; t < s->frames; t++) {
    if (t == 0 || film == FILM_FRAME) status = inference_stream_begin(e->inference, &shape, error);
    if (status != OK) {
      error_context(error, "%s", e->options->data);
      goto done;
    }
    TRY(inference_stream_frame(e->inference, e->source + (size_t)t * e->source_frame, e->output,
                               error));
    frames_to_u8(e->output, e->target_frame, e->films[film] + (size_t)t * e->target_frame);
  }
done:
  return status;
}

static Status make(Evaluation *e, Film film, Error *error) {
  return film == FILM_INPUT ? make_input(e, error) : make_output(e, film, error);
}

/* --- Scoring ---------------------------------------------------------------------------------- */

static void score_clip(Evaluation *e, Film film) {
  Score *score = &e->scores[film];
  int64_t pixels = (int64_t)e->shape.target_height * e->shape.target_width;
  for (int t = 0; t < e->shape.frames; t++) {
    const uint8_t *a = e->films[film] + (size_t)t * e->target_frame;
    const uint8_t *b = e->films[FILM_TARGET] + (size_t)t * e->target_frame;
    score->squared += quality_luma_mse(a, b, pixels);
    score->ssim += quality_ssim(a, b, e->shape.target_height, e->shape.target_width);
    if (t > 0)
      score->temporal += quality_temporal(a - e->target_frame, a, b - e->target_frame, b, pixels);
  }
}

static Status evaluate(Evaluation *e, Error *error) {
  Status status = OK;
  Progress *progress = progress_new("eval", 0, e->clips);
  for (int64_t clip = 0; clip < e->clips; clip++) {
    TRY(dataset_read(e->dataset, clip, e->source, e->films[FILM_TARGET], error));
    for (Film film = 0; film < FILM_CANDIDATES; film++) {
      TRY(make(e, film, error));
      score_clip(e, film);
    }
    if (e->coherence)
      coherence_add(e->coherence, (const uint8_t *const *)e->films, e->shape.frames);
    e->frames += e->shape.frames;
    e->pairs += e->shape.frames - 1;
    progress_update(progress, clip + 1, NULL);
  }
done:
  progress_end(progress);
  return status;
}

/* --- Reporting -------------------------------------------------------------------------------- */

typedef enum Measure {
  MEASURE_PSNR,
  MEASURE_SSIM,
  MEASURE_TEMPORAL,
  MEASURE_TOF,
  MEASURE_WARP_ERROR,
  MEASURE_COUNT
} Measure;

static const struct {
  const char *key, *title;
  int decimals;
} MEASURES[MEASURE_COUNT] = {
    [MEASURE_PSNR] = {"psnr", "PSNR dB", 3},
    [MEASURE_SSIM] = {"ssim", "SSIM", 4},
    [MEASURE_TEMPORAL] = {"temporal", "temporal error", 3},
    [MEASURE_TOF] = {"tof", "tOF pixels", 3},
    [MEASURE_WARP_ERROR] = {"warp_error", "warp error", 5},
};

/* The warp error alone is not against the target, which therefore has one too. Of optical flow are
 * the last two. */
static bool applies(const Evaluation *e, Film film, Measure which) {
  if (which >= MEASURE_TOF && !e->coherence) return false;
  return film != FILM_TARGET || which == MEASURE_WARP_ERROR;
}

/* NaN for scores of motion of clips of one frame. */
static double measure(const Evaluation *e, Film film, Measure which) {
  if (which == MEASURE_TOF) return coherence_tof(e->coherence, (int)film);
  if (which == MEASURE_WARP_ERROR) return coherence_warp_error(e->coherence, (int)film);
  const Score *score = &e->scores[film];
  double frames = (double)e->frames;
  if (which == MEASURE_PSNR) return quality_psnr(score->squared / frames);
  if (which == MEASURE_SSIM) return score->ssim / frames;
  return e->pairs > 0 ? score->temporal / (double)e->pairs : (double)NAN;
}

static void print_row(const Evaluation *e, const char *name, Film film) {
  printf("%-18s", name);
  for (Measure m = 0; m < MEASURE_COUNT; m++) {
    char cell[32] = "";
    if (applies(e, film, m))
      snprintf(cell, sizeof cell, "%.*f", MEASURES[m].decimals, measure(e, film, m));
    if (applies(e, FILM_INPUT, m)) printf(" %14s", cell);
  }
  printf("\n");
}

static void print_table(const Evaluation *e) {
  printf("%s (step %lld, %s weights) on %s: %lld clips, %lld frames\n\n", e->checkpoint->path,
         (long long)e->checkpoint->step, e->options->ema ? "averaged" : "plain", e->options->data,
         (long long)e->clips, (long long)e->frames);
  printf("%-18s", "against the target");
  for (Measure m = 0; m < MEASURE_COUNT; m++)
    if (applies(e, FILM_INPUT, m)) printf(" %14s", MEASURES[m].title);
  printf("\n");
  print_row(e, "untouched input", FILM_INPUT);
  print_row(e, "output", FILM_OUTPUT);
  print_row(e, "each frame alone", FILM_FRAME);
  if (e->coherence) print_row(e, "the target itself", FILM_TARGET);
}

static json_t *number(double value) {
  return isnan(value) ? json_null() : json_real(value);
}

static Status write_json(const Evaluation *e, Error *error) {
  json_t *scores = json_object();
  for (Measure m = 0; m < MEASURE_COUNT; m++)
    for (Film film = 0; film < FILM_COUNT; film++) {
      char key[32];
      if (!applies(e, film, m)) continue;
      snprintf(key, sizeof key, "%s_%s", MEASURES[m].key, NAMES[film]);
      json_object_set_new(scores, key, number(measure(e, film, m)));
    }
  if (e->coherence)
    json_object_set_new(scores, "warp_visible", number(coherence_visible(e->coherence)));
  json_object_set_new(scores, "clips", json_integer((json_int_t)e->clips));
  json_object_set_new(scores, "frames", json_integer((json_int_t)e->frames));
  json_object_set_new(scores, "checkpoint", json_string(e->checkpoint->path));
  json_object_set_new(scores, "step", json_integer((json_int_t)e->checkpoint->step));
  json_object_set_new(scores, "data", json_string(e->options->data));
  json_object_set_new(scores, "weights", json_string(e->options->ema ? "ema" : "plain"));
  Status status = json_write_file(e->options->json, scores, error);
  json_decref(scores);
  return status;
}

/* --- The command ------------------------------------------------------------------------------ */

static Status follow(Evaluation *e, Error *error) {
  const CoherenceShape shape = {.height = e->shape.target_height,
                                .width = e->shape.target_width,
                                .films = FILM_COUNT,
                                .source = FILM_INPUT,
                                .target = FILM_TARGET};
  return coherence_new(&shape, e->options->threads, &e->coherence, error);
}

static Status set_up(Evaluation *e, Error *error) {
  Status status = OK;
  const EvalOptions *options = e->options;
  TRY(checkpoint_open_path(options->checkpoint, &e->checkpoint, error));
  TRY(dataset_open(options->data, &e->dataset, error));
  TRY(device_open_default(options->device, options->threads, &e->backend, error));
  TRY(inference_of_checkpoint(e->checkpoint, options->ema, DTYPE_F32, e->backend, &e->inference,
                              error));
  const DatasetInfo *info = dataset_info(e->dataset);
  int64_t channels = inference_source_channels(e->inference);
  e->shape = info->shape;
  if (channels != e->shape.source_channels)
    FAIL(error, ERROR_USAGE,
         "%s: its generator reads %lld source channels, but the clips of %s have %d",
         e->checkpoint->path, (long long)channels, options->data, e->shape.source_channels);
  e->clips = options->clips > 0 && options->clips < info->clips ? options->clips : info->clips;
  e->source_frame = clip_source_bytes(&e->shape) / (size_t)e->shape.frames;
  e->target_frame = clip_target_bytes(&e->shape) / (size_t)e->shape.frames;
  TRY(mem_bulk(clip_source_bytes(&e->shape), "a clip", (void **)&e->source, error));
  for (Film film = 0; film < FILM_COUNT; film++)
    TRY(mem_bulk(clip_target_bytes(&e->shape), "a clip", (void **)&e->films[film], error));
  TRY(mem_bulk(e->target_frame * sizeof(float), "a frame", (void **)&e->output, error));
  if (options->flow) TRY(follow(e, error));
done:
  return status;
}

static void tear_down(Evaluation *e) {
  free(e->source);
  for (Film film = 0; film < FILM_COUNT; film++) free(e->films[film]);
  free(e->output);
  coherence_free(e->coherence);
  inference_free(e->inference);
  if (e->backend) e->backend->free(e->backend);
  checkpoint_close(e->checkpoint);
  dataset_close(e->dataset);
}

Status eval_run(const EvalOptions *options, Error *error) {
  Status status = OK;
  Evaluation e = {.options = options};
  TRY(set_up(&e, error));
  TRY(evaluate(&e, error));
  print_table(&e);
  if (options->json) TRY(write_json(&e, error));
done:
  tear_down(&e);
  return status;
}
