/* Checks the options of pack and derives the plan. */
#include <string.h>

#include "base/text.h"
#include "data/build/looks.h"
#include "data/build/pack.h"

enum { MAX_CLIP_FRAMES = 4096, MAX_SIDE = 8192, MAX_SCALE = 16 };

static const struct {
  const char *name;
  PackDetect detect;
} DETECT[] = {{"cuts", PACK_DETECT_CUTS},
              {"black", PACK_DETECT_BLACK},
              {"titles", PACK_DETECT_TITLES},
              {"duplicates", PACK_DETECT_DUPLICATES}};

enum { DETECT_NAMES = sizeof DETECT / sizeof *DETECT };

/* --- Parsing ---------------------------------------------------------------------------------- */

static bool parse_number(const char *text, size_t length, int64_t *out) {
  int64_t value = 0;
  if (length == 0 || length > 15) return false;
  for (size_t i = 0; i < length; i++) {
    if (text[i] < '0' || text[i] > '9') return false;
    value = value * 10 + (text[i] - '0');
  }
  *out = value;
  return true;
}

Status pack_parse_range(const char *text, int64_t *begin, int64_t *end, Error *error) {
  const char *colon = strchr(text, ':');
  int64_t a = 0, b = -1;
  if (!colon || (colon == text && !colon[1])) goto bad;
  if (colon > text && !parse_number(text, (size_t)(colon - text), &a)) goto bad;
  if (colon[1] && (!parse_number(colon + 1, strlen(colon + 1), &b) || b <= a)) goto bad;
  *begin = a;
  *end = b;
  return OK;
bad:
  return error_set(
      error, ERROR_USAGE,
      "pack: --range %s: expected A:B, A: or :B with whole numbers 0 <= A < B (frames, B "
      "excluded)",
      text);
}

static PackDetect detect_of(const char *name, size_t length) {
  for (int i = 0; i < DETECT_NAMES; i++)
    if (strlen(DETECT[i].name) == length && strncmp(DETECT[i].name, name, length) == 0)
      return DETECT[i].detect;
  return PACK_DETECT_NOTHING;
}

Status pack_parse_detect(const char *text, PackDetect *out, Error *error) {
  unsigned set = PACK_DETECT_NOTHING;
  *out = PACK_DETECT_ALL;
  if (strcmp(text, "all") == 0) return OK;
  *out = PACK_DETECT_NOTHING;
  if (strcmp(text, "none") == 0) return OK;
  for (const char *at = text;; at++) {
    size_t length = strcspn(at, ",");
    PackDetect one = detect_of(at, length);
    if (one == PACK_DETECT_NOTHING)
      return error_set(
          error, ERROR_USAGE,
          "pack: --detect %s: expected all, none, or a list of cuts, black, titles and "
          "duplicates, such as cuts,black",
          text);
    set |= one;
    at += length;
    if (!*at) break;
  }
  *out = (PackDetect)set;
  return OK;
}

void pack_append_detect(PackDetect detect, Text *out) {
  const char *comma = "";
  for (int i = 0; i < DETECT_NAMES; i++) {
    if (!(detect & DETECT[i].detect)) continue;
    text_append(out, "%s%s", comma, DETECT[i].name);
    comma = ",";
  }
  if (!*comma) text_append(out, "none");
}

/* --- Checks ----------------------------------------------------------------------------------- */

static Status check_numbers(const PackOptions *o, Error *error) {
  if (o->frames < 1 || o->frames > MAX_CLIP_FRAMES)
    return error_set(error, ERROR_USAGE, "pack: --frames %d: expected 1 to %d", o->frames,
                     MAX_CLIP_FRAMES);
  if (o->stride < 0)
    return error_set(error, ERROR_USAGE,
                     "pack: --stride %d: expected 0 (the frames per clip) or more", o->stride);
  if (o->width < 0 || o->height < 0 || o->width > MAX_SIDE || o->height > MAX_SIDE)
    return error_set(error, ERROR_USAGE, "pack: --size %dx%d: expected at most %dx%d", o->width,
                     o->height, MAX_SIDE, MAX_SIDE);
  if (o->scale < 0 || o->scale > MAX_SCALE)
    return error_set(error, ERROR_USAGE, "pack: --scale %d: expected 1 to %d", o->scale, MAX_SCALE);
  if (o->range_begin < 0 || (o->range_end != -1 && o->range_end <= o->range_begin))
    return error_set(error, ERROR_USAGE, "pack: --range %lld:%lld: expected 0 <= A < B",
                     (long long)o->range_begin, (long long)o->range_end);
  return OK;
}

static Status check_paths(const char *const *paths, int count, const char *option, Error *error) {
  for (int i = 0; i < count; i++)
    if (!paths[i] || !paths[i][0])
      return error_set(error, ERROR_USAGE, "pack: %s number %d is empty", option, i + 1);
  return OK;
}

/* Rejects options about sources in a dataset of targets. */
static Status check_targets_alone(const PackOptions *o, Error *error) {
  const char *option = o->also_count > 0  ? "--also"
                       : o->source_filter ? "--source-filter"
                       : o->look          ? "--look"
                       : o->scale > 1     ? "--scale"
                                          : NULL;
  if (!option) return OK;
  return error_set(error, ERROR_USAGE,
                   "pack: %s has no effect without --source: --target alone makes a dataset of "
                   "targets; give --source as well, or leave out %s",
                   option, option);
}

static Status check_sides(const PackOptions *o, Error *error) {
  if (o->source_count < 1 && o->target_count < 1)
    return error_set(error, ERROR_USAGE,
                     "pack: no videos; give --source, --target or both, each with a path");
  if (o->source_count < 1) return check_targets_alone(o, error);
  if (o->look && (o->target_filter || o->target_count > 0))
    return error_set(error, ERROR_USAGE,
                     "pack: --look makes the target and excludes %s; give one of the two",
                     o->target_filter ? "--target-filter" : "--target");
  if (o->target_count > 0 && o->target_count != o->source_count)
    return error_set(error, ERROR_USAGE,
                     "pack: %d --source and %d --target; pairs need as many of each, in the same "
                     "order; further inputs of one source are given with --also",
                     o->source_count, o->target_count);
  if (o->also_count > 0 && o->source_count != 1)
    return error_set(error, ERROR_USAGE,
                     "pack: --also adds an input to the only --source, but --source is given %d "
                     "times; pack each group of inputs alone, then join the datasets",
                     o->source_count);
  if (o->also_count + 1 > PACK_MAX_INPUTS)
    return error_set(error, ERROR_USAGE, "pack: --also is given %d times; allowed: 0 to %d",
                     o->also_count, PACK_MAX_INPUTS - 1);
  return OK;
}

Status pack_plan(const PackOptions *o, PackPlan *out, Error *error) {
  Status status = OK;
  const PackLook *look = NULL;
  TRY(check_sides(o, error));
  TRY(check_paths(o->sources, o->source_count, "--source", error));
  TRY(check_paths(o->targets, o->target_count, "--target", error));
  TRY(check_paths(o->also, o->also_count, "--also", error));
  TRY(check_numbers(o, error));
  if (o->look) TRY(look_find(o->look, &look, error));
  bool sources = o->source_count > 0;
  *out = (PackPlan){.options = o,
                    .detect = o->detect,
                    .target_filter = look ? look->graph : o->target_filter,
                    .series = sources ? o->source_count : o->target_count,
                    .inputs = sources ? 1 + o->also_count : 0,
                    .stride = o->stride ? o->stride : o->frames,
                    .scale = o->scale ? o->scale : 1};
  out->has_target = o->target_count > 0 || out->target_filter || out->scale > 1;
  if (o->detect & PACK_DETECT_DEFAULT)
    out->detect =
        sources && out->has_target ? PACK_DETECT_CUTS | PACK_DETECT_BLACK : PACK_DETECT_ALL;
  out->has_probe = sources && out->has_target && o->source_filter && out->detect;
done:
  return status;
}
