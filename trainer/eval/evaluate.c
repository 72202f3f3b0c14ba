#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/json.h"
#include "base/progress.h"
#include "data/dataset/dataset.h"
#include "data/video/image.h"
#include "trainer/eval/evaluate.h"
#include "trainer/eval/image_metrics.h"
#include "trainer/eval/temporal_metrics.h"
#include "trainer/gan/device.h"
#include "trainer/infer/inference.h"

/* The candidates that are compared with the target, and the target. */
typedef enum Video {
  VIDEO_INPUT,  /* the source, upsampled to the target's size */
  VIDEO_OUTPUT, /* the clip, translated frame by frame */
  VIDEO_FRAME,  /* each frame translated by itself, without state from earlier frames */
  VIDEO_CANDIDATES,
  VIDEO_TARGET = VIDEO_CANDIDATES,
  VIDEO_COUNT,
} Video;

static const char *const NAMES[VIDEO_COUNT] = {"input", "output", "frame", "target"};

typedef struct ScoreSums {
  double squared_error, ssim, temporal; /* over frames, frames, pairs of frames */
} ScoreSums;

typedef struct Evaluation {
  const EvalOptions *options;
  Dataset *dataset;
  Checkpoint *checkpoint;
  Backend *backend;
  Inference *inference;
  ClipShape shape;
  size_t source_frame, target_frame; /* bytes per frame */
  int64_t clips, frames, pairs;
  uint8_t *source;                /* one clip */
  uint8_t *clips_of[VIDEO_COUNT]; /* one clip of each video, of the target's size */
  float *output;                  /* one frame */
  ScoreSums scores[VIDEO_CANDIDATES];
  TemporalMetrics *motion; /* NULL without options->flow */
} Evaluation;

/* --- Candidates ------------------------------------------------------------------------------- */

static Status fill_input(Evaluation *e, Error *error) {
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
    memcpy(e->clips_of[VIDEO_INPUT] + (size_t)t * e->target_frame,
           same ? small.pixels : full.pixels, e->target_frame);
  }
done:
  image_free(&small);
  image_free(&full);
  return status;
}

static Status fill_output(Evaluation *e, Video video, Error *error) {
  Status status = OK;
  const ClipShape *s = &e->shape;
  InferenceShape shape = {s->source_height, s->source_width, s->source_channels, s->target_height,
                          s->target_width};
  for (int t = 0; t < s->frames; t++) {
    if (t == 0 || video == VIDEO_FRAME)
      status = inference_stream_begin(e->inference, &shape, error);
    if (status != OK) {
      error_context(error, "%s", e->options->data);
      goto done;
    }
    TRY(inference_stream_frame(e->inference, e->source + (size_t)t * e->source_frame, e->output,
                               error));
    frames_to_u8(e->output, e->target_frame, e->clips_of[video] + (size_t)t * e->target_frame);
  }
done:
  return status;
}

static Status fill(Evaluation *e, Video video, Error *error) {
  return video == VIDEO_INPUT ? fill_input(e, error) : fill_output(e, video, error);
}

/* --- Scoring ---------------------------------------------------------------------------------- */

static void score_clip(Evaluation *e, Video video) {
  ScoreSums *score = &e->scores[video];
  int64_t pixels = (int64_t)e->shape.target_height * e->shape.target_width;
  for (int t = 0; t < e->shape.frames; t++) {
    const uint8_t *a = e->clips_of[video] + (size_t)t * e->target_frame;
    const uint8_t *b = e->clips_of[VIDEO_TARGET] + (size_t)t * e->target_frame;
    score->squared_error += image_metrics_luma_mse(a, b, pixels);
    score->ssim += image_metrics_ssim(a, b, e->shape.target_height, e->shape.target_width);
    if (t > 0)
      score->temporal +=
          image_metrics_temporal_error(a - e->target_frame, a, b - e->target_frame, b, pixels);
  }
}

static Status evaluate(Evaluation *e, Error *error) {
  Status status = OK;
  Progress *progress = progress_new("eval", 0, e->clips);
  for (int64_t clip = 0; clip < e->clips; clip++) {
    TRY(dataset_read(e->dataset, clip, e->source, e->clips_of[VIDEO_TARGET], error));
    for (Video video = 0; video < VIDEO_CANDIDATES; video++) {
      TRY(fill(e, video, error));
      score_clip(e, video);
    }
    if (e->motion)
      temporal_metrics_add(e->motion, (const uint8_t *const *)e->clips_of, e->shape.frames);
    e->frames += e->shape.frames;
    e->pairs += e->shape.frames - 1;
    progress_update(progress, clip + 1);
  }
done:
  progress_end(progress);
  return status;
}

/* --- Reporting -------------------------------------------------------------------------------- */

typedef enum ScoreKind {
  SCORE_PSNR,
  SCORE_SSIM,
  SCORE_TEMPORAL,
  SCORE_TOF,
  SCORE_WARP_ERROR,
  SCORE_COUNT
} ScoreKind;

static const struct {
  const char *key, *title;
  int decimals;
} SCORES[SCORE_COUNT] = {
    [SCORE_PSNR] = {"psnr", "PSNR dB", 3},
    [SCORE_SSIM] = {"ssim", "SSIM", 4},
    [SCORE_TEMPORAL] = {"temporal", "temporal error", 3},
    [SCORE_TOF] = {"tof", "tOF pixels", 3},
    [SCORE_WARP_ERROR] = {"warp_error", "warp error", 5},
};

/* Only the warp error is not relative to the target, so the target has one too. The last two
 * metrics need optical flow. */
static bool applies(const Evaluation *e, Video video, ScoreKind kind) {
  if (kind >= SCORE_TOF && !e->motion) return false;
  return video != VIDEO_TARGET || kind == SCORE_WARP_ERROR;
}

/* NaN for motion metrics of single-frame clips. */
static double value_of(const Evaluation *e, Video video, ScoreKind kind) {
  if (kind == SCORE_TOF) return temporal_metrics_tof(e->motion, (int)video);
  if (kind == SCORE_WARP_ERROR) return temporal_metrics_warp_error(e->motion, (int)video);
  const ScoreSums *score = &e->scores[video];
  double frames = (double)e->frames;
  if (kind == SCORE_PSNR) return image_metrics_psnr(score->squared_error / frames);
  if (kind == SCORE_SSIM) return score->ssim / frames;
  return e->pairs > 0 ? score->temporal / (double)e->pairs : (double)NAN;
}

static void print_row(const Evaluation *e, const char *name, Video video) {
  printf("%-18s", name);
  for (ScoreKind m = 0; m < SCORE_COUNT; m++) {
    char cell[32] = "";
    if (applies(e, video, m))
      snprintf(cell, sizeof cell, "%.*f", SCORES[m].decimals, value_of(e, video, m));
    if (applies(e, VIDEO_INPUT, m)) printf(" %14s", cell);
  }
  printf("\n");
}

static void print_table(const Evaluation *e) {
  printf("%s (step %lld, %s weights) on %s: %lld clips, %lld frames\n\n", e->checkpoint->path,
         (long long)e->checkpoint->step, e->options->ema ? "EMA" : "plain", e->options->data,
         (long long)e->clips, (long long)e->frames);
  printf("%-18s", "scores");
  for (ScoreKind m = 0; m < SCORE_COUNT; m++)
    if (applies(e, VIDEO_INPUT, m)) printf(" %14s", SCORES[m].title);
  printf("\n");
  print_row(e, "input (source)", VIDEO_INPUT);
  print_row(e, "output", VIDEO_OUTPUT);
  print_row(e, "each frame alone", VIDEO_FRAME);
  if (e->motion) print_row(e, "target", VIDEO_TARGET);
}

static json_t *number(double value) {
  return isnan(value) ? json_null() : json_real(value);
}

static Status write_json(const Evaluation *e, Error *error) {
  json_t *scores = json_object();
  for (ScoreKind m = 0; m < SCORE_COUNT; m++)
    for (Video video = 0; video < VIDEO_COUNT; video++) {
      char key[32];
      if (!applies(e, video, m)) continue;
      snprintf(key, sizeof key, "%s_%s", SCORES[m].key, NAMES[video]);
      json_object_set_new(scores, key, number(value_of(e, video, m)));
    }
  if (e->motion)
    json_object_set_new(scores, "warp_visible",
                        number(temporal_metrics_visible_fraction(e->motion)));
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

static Status open_motion_metrics(Evaluation *e, Error *error) {
  const TemporalMetricsOptions options = {.height = e->shape.target_height,
                                          .width = e->shape.target_width,
                                          .videos = VIDEO_COUNT,
                                          .source = VIDEO_INPUT,
                                          .target = VIDEO_TARGET};
  return temporal_metrics_new(&options, e->options->threads, &e->motion, error);
}

static Status set_up(Evaluation *e, Error *error) {
  Status status = OK;
  const EvalOptions *options = e->options;
  TRY(checkpoint_open_path(options->checkpoint, &e->checkpoint, error));
  TRY(dataset_open(options->data, &e->dataset, error));
  TRY(device_open_default(options->device, options->threads, &e->backend, error));
  TRY(inference_from_checkpoint(e->checkpoint, options->ema, DTYPE_F32, e->backend, &e->inference,
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
  for (Video video = 0; video < VIDEO_COUNT; video++)
    TRY(mem_bulk(clip_target_bytes(&e->shape), "a clip", (void **)&e->clips_of[video], error));
  TRY(mem_bulk(e->target_frame * sizeof(float), "a frame", (void **)&e->output, error));
  if (options->flow) TRY(open_motion_metrics(e, error));
done:
  return status;
}

static void tear_down(Evaluation *e) {
  free(e->source);
  for (Video video = 0; video < VIDEO_COUNT; video++) free(e->clips_of[video]);
  free(e->output);
  temporal_metrics_free(e->motion);
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
