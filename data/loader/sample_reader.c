#include "data/loader/sample_reader.h"

#include <stdlib.h>

#include "base/bulk_memory.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/random.h"
#include "data/flow/clip_flow.h"
#include "data/loader/edge_smoothing.h"

enum { SOURCES, TARGETS }; /* the streams of unpaired data */
enum { MAX_SUBSTITUTES = 8 };

/* --- Planning --------------------------------------------------------------------------------- */

static Status check_sides(const Dataset *dataset, const Dataset *target, Error *error) {
  const ClipShape *shape = &dataset_info(dataset)->shape;
  if (!clip_has_source(shape))
    return error_set(error, ERROR_USAGE,
                     "%s has no sources, only targets: set data.path to a dataset of sources%s",
                     dataset_path(dataset),
                     target ? "" : ", and data.target_path to this one, or pack pairs");
  if (!target && !clip_has_target(shape))
    return error_set(error, ERROR_USAGE,
                     "%s has sources only, but no data.target_path is set: pack pairs, or set "
                     "data.target_path to a dataset of cartoons",
                     dataset_path(dataset));
  if (target && !clip_has_target(&dataset_info(target)->shape))
    return error_set(error, ERROR_USAGE,
                     "%s has no targets, only sources: set data.target_path to a dataset of "
                     "cartoons (celforge pack --target)",
                     dataset_path(target));
  return OK;
}

static Status init_stream(const Dataset *dataset, const ClipShape *shape, int frames,
                          const LoaderOptions *o, ClipStream *out, Error *error) {
  *out = (ClipStream){.dataset = dataset, .clips = dataset_info(dataset)->clips};
  Status status = augment_plan(shape, frames, o->crop_height, o->crop_width, o->crop_multiple,
                               o->flip, &out->plan, error);
  if (status != OK) error_context(error, "%s", dataset_path(dataset));
  out->unchanged = augment_is_identity(&out->plan);
  return status;
}

/* Frame rates that are unknown (frame folders) are not compared. */
static void warn_of_rates(const Dataset *dataset, const Dataset *target) {
  const DatasetInfo *a = dataset_info(dataset), *b = dataset_info(target);
  if (a->fps_numerator == 0 || b->fps_numerator == 0 ||
      (int64_t)a->fps_numerator * b->fps_denominator ==
          (int64_t)b->fps_numerator * a->fps_denominator)
    return;
  log_warning(
      "%s has %.6g frames per second, %s %.6g: a temporal discriminator can tell them apart "
      "by their speed",
      dataset_path(dataset), (double)a->fps_numerator / a->fps_denominator, dataset_path(target),
      (double)b->fps_numerator / b->fps_denominator);
}

static void warn_of_few_clips(const ClipStream *stream, int64_t global_batch) {
  if (stream->clips < global_batch)
    log_warning("%s has %lld clips, fewer than a global batch of %lld: each batch repeats clips",
                dataset_path(stream->dataset), (long long)stream->clips, (long long)global_batch);
}

static Status check_equal_sizes(const ClipStream *source, const ClipStream *target, Error *error) {
  const ClipShape *a = &source->plan.out, *b = &target->plan.out;
  if (a->source_height == b->target_height && a->source_width == b->target_width) return OK;
  return error_set(error, ERROR_USAGE,
                   "the sources of %s are %dx%d, the targets of %s %dx%d: set data.crop_height and "
                   "data.crop_width, or pack both with the same --size",
                   dataset_path(source->dataset), a->source_width, a->source_height,
                   dataset_path(target->dataset), b->target_width, b->target_height);
}

static Status init_unpaired(const Dataset *dataset, const Dataset *target, const LoaderOptions *o,
                            SamplePlan *out, Error *error) {
  Status status = OK;
  ClipStream *streams = out->streams;
  ClipShape a = dataset_info(dataset)->shape, b = dataset_info(target)->shape;
  int shorter = a.frames < b.frames ? a.frames : b.frames;
  int frames = o->frames == 0 ? shorter : o->frames;
  a.target_height = a.target_width = 0;
  b.source_height = b.source_width = b.source_channels = 0;
  out->stream_count = 2;
  TRY(init_stream(dataset, &a, frames, o, &streams[SOURCES], error));
  TRY(init_stream(target, &b, frames, o, &streams[TARGETS], error));
  TRY(check_equal_sizes(&streams[SOURCES], &streams[TARGETS], error));
  out->shape = streams[SOURCES].plan.out;
  out->shape.target_height = streams[TARGETS].plan.out.target_height;
  out->shape.target_width = streams[TARGETS].plan.out.target_width;
  if (o->rank != 0) goto done;
  warn_of_rates(dataset, target);
  for (int i = 0; i < 2; i++) warn_of_few_clips(&streams[i], o->global_batch);
done:
  return status;
}

Status sample_plan_init(const Dataset *dataset, const Dataset *target, const LoaderOptions *o,
                        SamplePlan *out, Error *error) {
  Status status = OK;
  *out = (SamplePlan){.stream_count = 1,
                      .seed = o->seed,
                      .on_corrupt = o->on_corrupt,
                      .smooth_edges = o->smooth_edges,
                      .flow = o->flow};
  TRY(check_sides(dataset, target, error));
  if (target) {
    TRY(init_unpaired(dataset, target, o, out, error));
  } else {
    TRY(init_stream(dataset, &dataset_info(dataset)->shape, o->frames, o, &out->streams[0], error));
    out->shape = out->streams[0].plan.out;
  }
  if (o->flow && out->shape.frames < 2)
    FAIL(error, ERROR_USAGE, "%s: optical flow needs samples of 2 frames or more, not of %d",
         dataset_path(dataset), out->shape.frames);
done:
  return status;
}

SampleBytes sample_bytes(const SamplePlan *plan) {
  const ClipShape *s = &plan->shape;
  size_t pairs = (size_t)s->frames - 1;
  size_t pixels = (size_t)s->source_height * (size_t)s->source_width;
  return (SampleBytes){
      .source = clip_source_bytes(s),
      .target = clip_target_bytes(s),
      .smoothed = plan->smooth_edges ? clip_target_bytes(s) : 0,
      .flow = plan->flow ? pairs * pixels * 2 * sizeof(float) : 0,
      .flow_mask = plan->flow ? pairs * pixels * sizeof(float) : 0,
  };
}

/* --- Work memory ------------------------------------------------------------------------------ */

struct SampleReader {
  SamplePlan *plan;
  uint8_t *source[2], *target[2]; /* per stream: a clip before augmentation; NULL if not needed */
  EdgeSmoother *smoother;         /* NULL if not needed, like the next */
  ClipFlow *flow;
};

Status sample_reader_new(SamplePlan *plan, SampleReader **out, Error *error) {
  Status status = OK;
  SampleReader *reader = mem_new(1, sizeof *reader);
  const ClipShape *s = &plan->shape;
  *out = NULL;
  reader->plan = plan;
  for (int i = 0; i < plan->stream_count; i++) {
    const ClipShape *clip = &plan->streams[i].plan.clip;
    if (plan->streams[i].unchanged) continue;
    if (clip_has_source(clip))
      TRY(mem_bulk(clip_source_bytes(clip), "a clip", (void **)&reader->source[i], error));
    if (clip_has_target(clip))
      TRY(mem_bulk(clip_target_bytes(clip), "a clip", (void **)&reader->target[i], error));
  }
  if (plan->smooth_edges)
    TRY(edge_smoother_new(s->target_height, s->target_width, &reader->smoother, error));
  if (plan->flow) TRY(clip_flow_new(s->source_height, s->source_width, &reader->flow, error));
  *out = reader;
  reader = NULL;
done:
  sample_reader_free(reader);
  return status;
}

void sample_reader_free(SampleReader *reader) {
  if (!reader) return;
  for (int i = 0; i < 2; i++) {
    free(reader->source[i]);
    free(reader->target[i]);
  }
  edge_smoother_free(reader->smoother);
  clip_flow_free(reader->flow);
  free(reader);
}

/* --- Reading ---------------------------------------------------------------------------------- */

/* Draws the clip to read in place of a corrupt one. It depends only on the sample, so that it is
 * the same for every world size. */
static int64_t draw_substitute(const SamplePlan *plan, int stream, int64_t sample, int attempt) {
  RandomPurpose purpose = stream == SOURCES ? RANDOM_AUGMENT : RANDOM_AUGMENT_TARGET;
  Random random = random_stream(plan->seed, purpose, (uint64_t)sample, (uint32_t)attempt);
  return (int64_t)random_below(&random, (uint64_t)plan->streams[stream].clips);
}

static void report_corrupt(SamplePlan *plan, int stream, int64_t sample, int64_t clip,
                           int64_t instead, const Error *fault) {
  ClipName name;
  Error unused;
  bool named = dataset_clip_name(plan->streams[stream].dataset, clip, &name, &unused) == OK;
  log_warning("%s%s%s%s; sample %lld uses clip %lld instead", named ? "\"" : "",
              named ? name.id : "", named ? "\": " : "", fault->message, (long long)sample,
              (long long)instead);
  atomic_fetch_add(&plan->corrupt_clips, 1);
}

/* Reads position->clip. If it is corrupt and the policy allows, reads a substitute and stores its
 * index in position->clip. */
static Status read_or_substitute(SamplePlan *plan, int stream, ReadProgress *progress,
                                 int64_t sample, SamplePosition *position, uint8_t *source,
                                 uint8_t *target, Error *error) {
  const Dataset *dataset = plan->streams[stream].dataset;
  int64_t first = position->clip;
  atomic_store(&progress->dataset, dataset);
  for (int attempt = 1;; attempt++) {
    atomic_store(&progress->clip, position->clip);
    Status status = dataset_read(dataset, position->clip, source, target, error);
    if (status != ERROR_DATA || plan->on_corrupt == CORRUPT_STOP) return status;
    if (attempt > MAX_SUBSTITUTES) {
      error_context(error, "sample %lld: clip %lld and %d substitutes are corrupt; the last one",
                    (long long)sample, (long long)first, MAX_SUBSTITUTES);
      return status;
    }
    int64_t instead = draw_substitute(plan, stream, sample, attempt);
    report_corrupt(plan, stream, sample, position->clip, instead, error);
    position->clip = instead;
  }
}

/* Reads and augments the sides of one stream. A side that it does not have is NULL. */
static Status read_stream(SampleReader *reader, int stream, int64_t sample, ReadProgress *progress,
                          SamplePosition *position, uint8_t *source, uint8_t *target,
                          Error *error) {
  SamplePlan *plan = reader->plan;
  const ClipStream *clips = &plan->streams[stream];
  *position = stream == SOURCES ? shuffle_sample(plan->seed, sample, clips->clips)
                                : shuffle_target_sample(plan->seed, sample, clips->clips);
  if (clips->unchanged)
    return read_or_substitute(plan, stream, progress, sample, position, source, target, error);
  uint8_t *clip_source = reader->source[stream], *clip_target = reader->target[stream];
  Status status =
      read_or_substitute(plan, stream, progress, sample, position, clip_source, clip_target, error);
  if (status != OK) return status;
  Augment augment = stream == SOURCES ? augment_draw(&clips->plan, plan->seed, sample)
                                      : augment_draw_target(&clips->plan, plan->seed, sample);
  augment_copy(&clips->plan, &augment, clip_source, clip_target, source, target);
  return OK;
}

static void smooth_edges(SampleReader *reader, const Sample *out) {
  const ClipShape *s = &reader->plan->shape;
  size_t frame = clip_target_bytes(s) / (size_t)s->frames;
  for (size_t t = 0; t < (size_t)s->frames; t++)
    edge_smoother_apply(reader->smoother, out->target + t * frame, out->smoothed + t * frame);
}

Status sample_reader_read(SampleReader *reader, int64_t sample, ReadProgress *progress,
                          SamplePosition positions[2], const Sample *out, Error *error) {
  Status status = OK;
  const SamplePlan *plan = reader->plan;
  const ClipShape *s = &plan->shape;
  bool paired = plan->stream_count == 1;
  atomic_store(&progress->sample, sample);
  TRY(read_stream(reader, SOURCES, sample, progress, &positions[SOURCES], out->source,
                  paired ? out->target : NULL, error));
  positions[TARGETS] = positions[SOURCES];
  if (!paired)
    TRY(read_stream(reader, TARGETS, sample, progress, &positions[TARGETS], NULL, out->target,
                    error));
  if (plan->smooth_edges) smooth_edges(reader, out);
  if (plan->flow)
    clip_flow_compute(reader->flow, out->source, s->frames, s->source_channels, out->flow,
                      out->flow_mask);
done:
  return status;
}
