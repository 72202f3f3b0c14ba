/* Drops frames, finds scenes, and cuts each scene into clips. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bulk_memory.h"
#include "base/memory.h"
#include "data/build/frame_kinds.h"
#include "data/build/pack.h"

/* --- The ring --------------------------------------------------------------------------------- */

Status windows_init(Windows *windows, const PackPlan *plan, const Series *series, Error *error) {
  Status status = OK;
  void *memory = NULL;
  size_t frames = (size_t)plan->options->frames;
  *windows = (Windows){.plan = plan, .capacity = plan->options->frames + SCENE_LOOKAHEAD + 2};
  windows->slots = mem_new((size_t)windows->capacity, sizeof *windows->slots);
  for (int i = 0; i < series->count; i++) {
    size_t kept = plan->has_probe && i == series->analysed ? 1 : (size_t)windows->capacity;
    windows->bytes[i] = stream_bytes(&series->streams[i]);
    TRY(mem_bulk(windows->bytes[i] * kept, "the latest frames", &memory, error));
    windows->rings[i] = memory;
  }
  if (plan->inputs > 0) {
    TRY(mem_bulk(windows->bytes[0] * (size_t)plan->inputs * frames, "a clip's source", &memory,
                 error));
    windows->source = memory;
  }
  if (plan->has_target) {
    TRY(mem_bulk(windows->bytes[series->target] * frames, "a clip's target", &memory, error));
    windows->target = memory;
  }
done:
  return status;
}

void windows_free(Windows *windows) {
  for (int i = 0; i < MAX_STREAMS; i++) free(windows->rings[i]);
  free(windows->slots);
  free(windows->source);
  free(windows->target);
  *windows = (Windows){0};
}

/* Returns the ring's index of the frame `at`, counted from the start of the window. */
static int slot_index(const Windows *windows, int at) {
  return (windows->head + at) % windows->capacity;
}

static Slot *slot_at(const Windows *windows, int at) {
  return &windows->slots[slot_index(windows, at)];
}

static uint8_t *frame_at(const Windows *windows, int stream, int at) {
  return windows->rings[stream] + windows->bytes[stream] * (size_t)slot_index(windows, at);
}

void windows_next(const Windows *windows, uint8_t *frames[MAX_STREAMS]) {
  int at = windows->window + windows->pending;
  for (int i = 0; i < MAX_STREAMS; i++) {
    bool probe = windows->plan->has_probe && i == windows->plan->inputs + windows->plan->has_target;
    frames[i] = !windows->rings[i] ? NULL : probe ? windows->rings[i] : frame_at(windows, i, at);
  }
}

/* --- Clips ------------------------------------------------------------------------------------ */

/* Copies the window into one clip; several inputs are interleaved, three channels each. */
static void assemble(Windows *windows, const Series *series) {
  int inputs = series->inputs, frames = windows->plan->options->frames;
  for (int t = 0; t < frames; t++) {
    if (series->target >= 0) {
      size_t bytes = windows->bytes[series->target];
      memcpy(windows->target + bytes * (size_t)t, frame_at(windows, series->target, t), bytes);
    }
    if (inputs == 1)
      memcpy(windows->source + windows->bytes[0] * (size_t)t, frame_at(windows, 0, t),
             windows->bytes[0]);
    if (inputs <= 1) continue;
    size_t pixels = windows->bytes[0] / 3, step = 3 * (size_t)inputs;
    for (int i = 0; i < inputs; i++) {
      const uint8_t *from = frame_at(windows, i, t);
      uint8_t *to = windows->source + pixels * step * (size_t)t + 3 * (size_t)i;
      for (size_t p = 0; p < pixels; p++, from += 3, to += step) memcpy(to, from, 3);
    }
  }
}

static const char *base_name(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash && slash[1] ? slash + 1 : path;
}

static Status write_clip(Windows *windows, const Series *series, Error *error) {
  const char *path = series_path(series);
  ClipName name = {.start_frame = slot_at(windows, 0)->position};
  windows->tally.clips++;
  if (windows->clips++ < windows->already) return OK; /* in a complete shard already */
  snprintf(name.id, sizeof name.id, "%.40s@%lld", base_name(path), (long long)name.start_frame);
  snprintf(name.origin, sizeof name.origin, "%.180s", path);
  assemble(windows, series);
  return dataset_writer_add(windows->writer, windows->source, windows->target, &name, error);
}

static void drop_oldest(Windows *windows, int frames) {
  windows->head = slot_index(windows, frames);
}

/* Moves the oldest pending frame into the window, which is written when it is full. */
static Status extend_window(Windows *windows, const Series *series, Error *error) {
  Status status = OK;
  int frames = windows->plan->options->frames, stride = windows->plan->stride;
  windows->pending--;
  if (windows->skip > 0) {
    windows->skip--;
    drop_oldest(windows, 1);
    return OK;
  }
  if (++windows->window < frames) return OK;
  TRY(write_clip(windows, series, error));
  int advance = stride < frames ? stride : frames;
  drop_oldest(windows, advance);
  windows->window = windows->covered = frames - advance;
  windows->skip = stride - advance;
done:
  return status;
}

/* Drops the window of a scene that has ended. */
static void clear_window(Windows *windows) {
  windows->tally.unused += windows->window - windows->covered;
  drop_oldest(windows, windows->window);
  windows->window = windows->covered = 0;
  windows->skip = 0;
  scene_history_clear(&windows->history);
}

/* --- Scenes ----------------------------------------------------------------------------------- */

/* Collects the oldest pending frame and the distinct ones behind it. */
static int collect_after(const Windows *windows, const Thumbnail *after[1 + SCENE_NEIGHBOURS]) {
  int count = 0;
  for (int i = 0; i < windows->pending && count < 1 + SCENE_NEIGHBOURS; i++) {
    const Slot *slot = slot_at(windows, windows->window + i);
    if (i == 0 || slot->distinct) after[count++] = &slot->thumbnail;
  }
  return count;
}

/* Decides for pending frames whether a scene starts with them, and moves them into the window. At
 * the `end` of a scene it decides for all of them, else only for frames that enough others follow.
 */
static Status decide_pending(Windows *windows, const Series *series, bool end, Error *error) {
  Status status = OK;
  const Thumbnail *after[1 + SCENE_NEIGHBOURS];
  bool cuts = windows->plan->detect & PACK_DETECT_CUTS;
  while (windows->pending > 0) {
    const Slot *slot = slot_at(windows, windows->window);
    if (cuts && slot->distinct) {
      int count = collect_after(windows, after);
      if (!end && count < 1 + SCENE_NEIGHBOURS && windows->pending <= SCENE_LOOKAHEAD) break;
      if (scene_starts(&windows->history, after, count)) {
        windows->tally.cuts++;
        clear_window(windows);
      }
      scene_history_add(&windows->history, after[0]);
    }
    TRY(extend_window(windows, series, error));
  }
done:
  return status;
}

Status windows_end_scene(Windows *windows, const Series *series, Error *error) {
  Status status = decide_pending(windows, series, true, error);
  if (status != OK) return status;
  clear_window(windows);
  windows->has_last = false;
  return OK;
}

/* --- Frames ----------------------------------------------------------------------------------- */

/* Counts a frame that is to be dropped and ends a scene; returns false for all others. */
static bool ends_scene(Windows *windows, const uint8_t *rgb, const VideoInfo *info,
                       const Thumbnail *thumbnail) {
  PackDetect detect = windows->plan->detect;
  if (detect & PACK_DETECT_BLACK && frame_is_blank(thumbnail)) {
    windows->tally.black++;
    return true;
  }
  if (detect & PACK_DETECT_TITLES && frame_is_title(rgb, info->width, info->height, thumbnail)) {
    windows->tally.titles++;
    return true;
  }
  return false;
}

Status windows_take(Windows *windows, const Series *series, int64_t position, Error *error) {
  Status status = OK;
  uint8_t *frames[MAX_STREAMS];
  PackDetect detect = windows->plan->detect;
  Slot *slot = slot_at(windows, windows->window + windows->pending);
  windows->tally.frames++;
  slot->position = position;
  slot->distinct = true;
  if (detect) {
    const VideoInfo *info = video_info(series->streams[series->analysed].reader);
    windows_next(windows, frames);
    const uint8_t *rgb = frames[series->analysed];
    thumbnail_make(rgb, info->width, info->height, &slot->thumbnail);
    if (ends_scene(windows, rgb, info, &slot->thumbnail))
      return windows_end_scene(windows, series, error);
    slot->distinct = !windows->has_last || !frame_is_repeated(&windows->last, &slot->thumbnail);
    if (!slot->distinct && detect & PACK_DETECT_DUPLICATES) {
      windows->tally.duplicates++;
      return OK;
    }
    if (slot->distinct) windows->last = slot->thumbnail;
    windows->has_last = true;
  }
  windows->pending++;
  TRY(decide_pending(windows, series, false, error));
done:
  return status;
}
