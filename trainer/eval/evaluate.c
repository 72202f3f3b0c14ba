#include "trainer/eval/evaluate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/json.h"
#include "base/progress.h"
#include "data/dataset/dataset.h"
#include "data/video/image.h"
#include "trainer/eval/score_rows.h"
#include "trainer/infer/inference.h"

typedef struct Evaluation {
  const EvalOptions *options;
  Dataset *dataset, *cartoons; /* cartoons: NULL without --cartoons */
  Backend *backend;
  Inference *inference;
  ClipShape shape;
  bool has_target;
  int height, width;                 /* of the output */
  size_t source_frame, output_frame; /* bytes per frame, of the source and of all videos */
  int64_t clips;
  uint8_t *source;              /* one clip */
  uint8_t *videos[VIDEO_COUNT]; /* one clip of each video, of the output's size */
  float *output;                /* one frame */
  ClipScores scores;
  TemporalMetrics *motion; /* NULL without options->flow */
  StyleTest *style;        /* NULL without a classifier */
  StyleTestResult style_result;
  InceptionScores *inception; /* NULL without options->inception */
  InceptionResult inception_result;
  LpipsScores *lpips; /* NULL without options->lpips */
  CartoonShares shares;
  Report *report;
} Evaluation;

/* --- Candidates ------------------------------------------------------------------------------- */

static Status fill_input(Evaluation *e, Error *error) {
  Status status = OK;
  const ClipShape *s = &e->shape;
  Image small = {0}, full = {0};
  TRY(image_new(s->source_width, s->source_height, &small, error));
  TRY(image_new(e->width, e->height, &full, error));
  size_t pixels = (size_t)s->source_width * (size_t)s->source_height;
  bool same = s->source_width == e->width && s->source_height == e->height;
  for (int t = 0; t < s->frames; t++) {
    const uint8_t *frame = e->source + (size_t)t * e->source_frame;
    for (size_t i = 0; i < pixels; i++)
      memcpy(small.pixels + 3 * i, frame + (size_t)s->source_channels * i, 3);
    if (!same) image_resize(&small, &full);
    memcpy(e->videos[VIDEO_INPUT] + (size_t)t * e->output_frame, same ? small.pixels : full.pixels,
           e->output_frame);
  }
done:
  image_free(&small);
  image_free(&full);
  return status;
}

static Status fill_output(Evaluation *e, Video video, Error *error) {
  Status status = OK;
  const ClipShape *s = &e->shape;
  InferenceShape shape = {s->source_height, s->source_width, s->source_channels, e->height,
                          e->width};
  for (int t = 0; t < s->frames; t++) {
    if (t == 0 || video == VIDEO_FRAME)
      status = inference_stream_begin(e->inference, &shape, error);
    if (status != OK) {
      error_context(error, "%s", e->options->data);
      goto done;
    }
    TRY(inference_stream_frame(e->inference, e->source + (size_t)t * e->source_frame, e->output,
                               error));
    frames_to_u8(e->output, e->output_frame, e->videos[video] + (size_t)t * e->output_frame);
  }
done:
  return status;
}

/* --- Scoring ---------------------------------------------------------------------------------- */

/* The classifier's cartoons are those of --cartoons, else the targets. */
static void collect_patches(Evaluation *e, int64_t clip) {
  for (int t = 0; t < e->shape.frames; t++) {
    size_t offset = (size_t)t * e->output_frame;
    FramePosition at = {e->height, e->width, clip * e->shape.frames + t,
                        e->clips * e->shape.frames};
    style_test_add_source(e->style, e->videos[VIDEO_INPUT] + offset, &at);
    style_test_add_candidate(e->style, VIDEO_OUTPUT, e->videos[VIDEO_OUTPUT] + offset, &at);
    style_test_add_candidate(e->style, VIDEO_FRAME, e->videos[VIDEO_FRAME] + offset, &at);
    if (!e->has_target) continue;
    const uint8_t *target = e->videos[VIDEO_TARGET] + offset;
    if (e->cartoons) style_test_add_candidate(e->style, VIDEO_TARGET, target, &at);
    if (!e->cartoons) style_test_add_cartoon(e->style, target, &at);
  }
}

/* Adds all frames of a clip. Without a target, frames translated alone are skipped: each costs a
 * pass of the network. The target is the reference, or with --cartoons one of the videos. */
static Status collect_features(Evaluation *e, int64_t clip, Error *error) {
  Status status = OK;
  for (int video = 0; video < VIDEO_COUNT; video++) {
    if (!e->has_target && (video == VIDEO_FRAME || video == VIDEO_TARGET)) continue;
    for (int t = 0; t < e->shape.frames; t++) {
      FramePosition at = {e->height, e->width, clip * e->shape.frames + t,
                          e->clips * e->shape.frames};
      TRY(inception_scores_add(e->inception, (ReportColumn)video,
                               e->videos[video] + (size_t)t * e->output_frame, &at, error));
    }
  }
done:
  return status;
}

static Status score_clips(Evaluation *e, Error *error) {
  Status status = OK;
  uint8_t *target = e->has_target ? e->videos[VIDEO_TARGET] : NULL;
  Progress *progress = progress_new("eval", 0, e->clips);
  for (int64_t clip = 0; clip < e->clips; clip++) {
    TRY(dataset_read(e->dataset, clip, e->source, target, error));
    TRY(fill_input(e, error));
    TRY(fill_output(e, VIDEO_OUTPUT, error));
    TRY(fill_output(e, VIDEO_FRAME, error));
    TRY(clip_scores_add(&e->scores, e->videos, e->shape.frames, error));
    if (e->motion)
      temporal_metrics_add(e->motion, (const uint8_t *const *)e->videos, e->shape.frames);
    if (e->style) collect_patches(e, clip);
    if (e->inception) TRY(collect_features(e, clip, error));
    if (e->lpips) TRY(lpips_scores_add(e->lpips, e->videos, e->shape.frames, error));
    progress_update(progress, clip + 1);
  }
done:
  progress_end(progress);
  return status;
}

static Status evaluate(Evaluation *e, Error *error) {
  Status status = OK;
  ScoreInputs inputs = {.clips = &e->scores,
                        .motion = e->motion,
                        .cartoons = e->cartoons ? &e->shares : NULL,
                        .style = e->style ? &e->style_result : NULL,
                        .inception = e->inception ? &e->inception_result : NULL,
                        .lpips = e->lpips,
                        .threads = e->options->threads};
  TRY(score_clips(e, error));
  if (e->cartoons) TRY(cartoons_measure(e->cartoons, e->style, e->inception, &e->shares, error));
  if (e->inception)
    TRY(inception_scores_run(e->inception, e->cartoons ? COLUMN_CARTOONS : COLUMN_TARGET,
                             e->options->threads, &e->inception_result, error));
  if (e->style)
    TRY(style_test_run(e->style, e->backend, e->options->threads, &e->style_result, error));
  TRY(score_rows_add(&inputs, e->report, error));
done:
  return status;
}

/* --- Reporting -------------------------------------------------------------------------------- */

static void print_table(const Evaluation *e) {
  Text text = {0};
  report_print(e->report, &text);
  printf("%s (step %lld, %s weights) on %s\n%lld clips, %lld frames of %dx%d",
         inference_path(e->inference), (long long)inference_step(e->inference),
         inference_is_ema(e->inference) ? "EMA" : "plain", e->options->data, (long long)e->clips,
         (long long)e->scores.frames, e->width, e->height);
  if (e->cartoons)
    printf("; cartoons: %s, %lld frames", e->options->cartoons, (long long)e->shares.frames);
  printf("\n\n%s", text.data);
  text_free(&text);
}

static Status write_json(const Evaluation *e, Error *error) {
  Status status = OK;
  const EvalOptions *options = e->options;
  json_t *scores = json_object();
  TRY(report_json(e->report, scores, error));
  json_object_set_new(scores, "clips", json_integer((json_int_t)e->clips));
  json_object_set_new(scores, "frames", json_integer((json_int_t)e->scores.frames));
  json_object_set_new(scores, "checkpoint", json_string(inference_path(e->inference)));
  json_object_set_new(scores, "step", json_integer((json_int_t)inference_step(e->inference)));
  json_object_set_new(scores, "data", json_string(options->data));
  if (options->cartoons) json_object_set_new(scores, "cartoons", json_string(options->cartoons));
  if (options->inception) json_object_set_new(scores, "inception", json_string(options->inception));
  if (options->lpips) {
    json_object_set_new(scores, "lpips", json_string(options->lpips));
    json_object_set_new(scores, "lpips_network", json_string(lpips_scores_network(e->lpips)));
  }
  json_object_set_new(scores, "weights",
                      json_string(inference_is_ema(e->inference) ? "ema" : "plain"));
  TRY(json_write_file(options->json, scores, error));
done:
  json_decref(scores);
  return status;
}

/* --- The command ------------------------------------------------------------------------------ */

static Status open_motion_metrics(Evaluation *e, Error *error) {
  const TemporalMetricsOptions options = {.height = e->height,
                                          .width = e->width,
                                          .videos = e->has_target ? VIDEO_COUNT : VIDEO_CANDIDATES,
                                          .source = VIDEO_INPUT,
                                          .target = e->has_target ? VIDEO_TARGET : -1};
  return temporal_metrics_new(&options, e->options->threads, &e->motion, error);
}

/* Sets no classifier up where there are no cartoons, or frames are smaller than a patch. */
static Status open_style_test(Evaluation *e, Error *error) {
  int side = style_patch_side(e->height, e->width);
  if (e->cartoons) {
    const ClipShape *cartoons = &dataset_info(e->cartoons)->shape;
    int other = style_patch_side(cartoons->target_height, cartoons->target_width);
    if (other < side) side = other;
  }
  if (side == 0 || !(e->cartoons || e->has_target)) return OK;
  return style_test_new(side, VIDEO_COUNT, &e->style, error);
}

/* Reads the weights before anything is scored, so that a wrong file costs no time. */
static Status open_networks(Evaluation *e, Error *error) {
  Status status = OK;
  const EvalOptions *options = e->options;
  if (options->inception && !e->has_target && !e->cartoons)
    FAIL(error, ERROR_USAGE,
         "--inception: the clips of %s have no targets to compare with; give cartoons as "
         "--cartoons DATASET",
         options->data);
  if (options->lpips && !e->has_target)
    FAIL(error, ERROR_USAGE,
         "--lpips: the clips of %s have no targets, and LPIPS compares each frame with its aligned "
         "target; omit --lpips, or name a dataset of pairs as --data",
         options->data);
  if (options->inception)
    TRY(inception_scores_new(e->backend, options->inception, &e->inception, error));
  if (options->lpips)
    TRY(lpips_scores_new(e->backend, options->lpips, e->height, e->width, &e->lpips, error));
done:
  return status;
}

static Status open_datasets(Evaluation *e, Error *error) {
  Status status = OK;
  const EvalOptions *options = e->options;
  TRY(dataset_open(options->data, &e->dataset, error));
  if (options->cartoons) TRY(cartoons_open(options->cartoons, &e->cartoons, error));
  const DatasetInfo *info = dataset_info(e->dataset);
  e->shape = info->shape;
  e->has_target = clip_has_target(&e->shape);
  if (!clip_has_source(&e->shape))
    FAIL(error, ERROR_USAGE,
         "--data: the clips of %s have no source side, and eval translates sources; name a "
         "dataset of sources, and give cartoons as --cartoons",
         options->data);
  e->clips = options->clips > 0 && options->clips < info->clips ? options->clips : info->clips;
done:
  return status;
}

/* The output has the target's size, or that of the source times the generator's scale. */
static Status choose_size(Evaluation *e, Error *error) {
  const ClipShape *s = &e->shape;
  int64_t channels = inference_source_channels(e->inference);
  int scale = (int)inference_scale(e->inference);
  if (channels != s->source_channels)
    return error_set(error, ERROR_USAGE,
                     "%s: its generator reads %lld source channels, but the clips of %s have %d",
                     inference_path(e->inference), (long long)channels, e->options->data,
                     s->source_channels);
  e->height = e->has_target ? s->target_height : s->source_height * scale;
  e->width = e->has_target ? s->target_width : s->source_width * scale;
  e->source_frame = clip_source_bytes(s) / (size_t)s->frames;
  e->output_frame = (size_t)e->height * (size_t)e->width * 3;
  return OK;
}

static Status allocate(Evaluation *e, Error *error) {
  Status status = OK;
  size_t clip = e->output_frame * (size_t)e->shape.frames;
  TRY(mem_bulk(clip_source_bytes(&e->shape), "a clip", (void **)&e->source, error));
  for (Video video = 0; video < VIDEO_COUNT; video++)
    TRY(mem_bulk(clip, "a clip", (void **)&e->videos[video], error));
  TRY(mem_bulk(e->output_frame * sizeof(float), "a frame", (void **)&e->output, error));
  TRY(clip_scores_new(e->height, e->width, e->has_target, e->clips * e->shape.frames, &e->scores,
                      error));
done:
  return status;
}

static Status set_up(Evaluation *e, Error *error) {
  Status status = OK;
  const EvalOptions *options = e->options;
  e->report = report_new();
  const ModelDevice device = {options->device, options->threads, DTYPE_F32};
  TRY(inference_open_model(&options->model, &device, &e->backend, &e->inference, error));
  TRY(open_datasets(e, error));
  TRY(choose_size(e, error));
  TRY(open_networks(e, error));
  TRY(allocate(e, error));
  if (options->flow) TRY(open_motion_metrics(e, error));
  if (options->classifier) TRY(open_style_test(e, error));
done:
  return status;
}

static void tear_down(Evaluation *e) {
  free(e->source);
  for (Video video = 0; video < VIDEO_COUNT; video++) free(e->videos[video]);
  free(e->output);
  clip_scores_free(&e->scores);
  temporal_metrics_free(e->motion);
  style_test_free(e->style);
  inception_scores_free(e->inception);
  lpips_scores_free(e->lpips);
  report_free(e->report);
  inference_free(e->inference);
  if (e->backend) e->backend->free(e->backend);
  dataset_close(e->dataset);
  dataset_close(e->cartoons);
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
