#include "trainer/eval/score_rows.h"

#include <math.h>
#include <stdio.h>

#include "trainer/eval/image_metrics.h"
#include "trainer/eval/style_classifier.h"

enum {
  CANDIDATES = 1u << COLUMN_INPUT | 1u << COLUMN_OUTPUT | 1u << COLUMN_FRAME,
  TRANSLATED = 1u << COLUMN_OUTPUT | 1u << COLUMN_FRAME,
  TARGET = 1u << COLUMN_TARGET,
  CARTOONS = 1u << COLUMN_CARTOONS,
};

static double ratio(double part, double whole) {
  return whole > 0 ? part / whole : (double)NAN;
}

/* The target's column, where there are targets. */
static unsigned target_of(const ScoreInputs *in) {
  return in->clips->has_target ? TARGET : 0;
}

/* Gives `row` the value of each video. Videos and columns have the same order. */
static void add_row(Report *report, ReportRow row, double (*value)(const ScoreInputs *, Video),
                    const ScoreInputs *in) {
  for (int video = 0; video < VIDEO_COUNT; video++)
    if (row.columns >> video & 1) row.values[video] = value(in, (Video)video);
  report_row(report, &row);
}

/* --- Style ------------------------------------------------------------------------------------ */

static double pixels(const ScoreInputs *in) {
  return (double)in->clips->frames * in->clips->height * in->clips->width;
}

static double line_share(const ScoreInputs *in, Video video) {
  return (double)in->clips->videos[video].line_pixels / pixels(in);
}
static double flat_share(const ScoreInputs *in, Video video) {
  return (double)in->clips->videos[video].flat_pixels / pixels(in);
}
static double line_f1(const ScoreInputs *in, Video video) {
  return line_match_f1(&in->clips->videos[video].lines);
}
static double line_precision(const ScoreInputs *in, Video video) {
  return line_match_precision(&in->clips->videos[video].lines);
}
static double line_recall(const ScoreInputs *in, Video video) {
  return line_match_recall(&in->clips->videos[video].lines);
}

static bool is_reliable(const StyleTestResult *style) {
  return style->trained && style->accuracy >= STYLE_MIN_ACCURACY;
}

static void explain_classifier(const StyleTestResult *style, Report *report) {
  if (!style->trained)
    report_note(report, "no classifier: it needs at least four frames of sources and of cartoons");
  else if (!is_reliable(style))
    report_note(report,
                "not reported: the classifier recognises only %.1f %% of held-out patches of "
                "sources and cartoons; %.0f %% are needed",
                100 * style->accuracy, 100 * STYLE_MIN_ACCURACY);
  else
    report_note(report, "a classifier that recognises %.1f %% of held-out patches",
                100 * style->accuracy);
}

static void add_classifier(const ScoreInputs *in, Report *report) {
  const StyleTestResult *style = in->style;
  if (!style) return;
  unsigned cartoons = in->cartoons ? CARTOONS : 0;
  ReportRow row = {.key = "taken_for_cartoon",
                   .title = "taken for cartoon, %",
                   .best = "as the cartoons",
                   .decimals = 1,
                   .scale = 100,
                   .columns = CANDIDATES | target_of(in) | cartoons};
  bool reliable = is_reliable(style);
  for (int c = 0; c < REPORT_COLUMNS; c++) {
    bool is_class = c == COLUMN_CARTOONS || (c == COLUMN_TARGET && !in->cartoons);
    double share = c == COLUMN_INPUT ? style->source
                   : is_class        ? style->cartoons
                                     : style->candidates[c];
    row.values[c] = reliable ? share : (double)NAN;
  }
  report_row(report, &row);
  report_number(report, "classifier_accuracy", style->accuracy);
  report_number(report, "classifier_threshold", style->threshold);
  explain_classifier(style, report);
}

static void add_shares(const ScoreInputs *in, Report *report) {
  const CartoonShares *cartoons = in->cartoons;
  ReportRow lines = {.key = "line_share",
                     .title = "ink lines, % of pixels",
                     .best = "as the cartoons",
                     .decimals = 2,
                     .scale = 100,
                     .columns = CANDIDATES | target_of(in) | (cartoons ? CARTOONS : 0)};
  ReportRow flats = lines;
  flats.key = "flat_share";
  flats.title = "flat areas, % of pixels";
  if (cartoons) {
    lines.values[COLUMN_CARTOONS] = cartoons->lines;
    flats.values[COLUMN_CARTOONS] = cartoons->flats;
  }
  add_row(report, lines, line_share, in);
  add_row(report, flats, flat_share, in);
}

static void add_lines(const ScoreInputs *in, Report *report) {
  ReportRow row = {.key = "line_f1",
                   .title = "ink lines found, F1",
                   .best = "higher",
                   .decimals = 3,
                   .columns = CANDIDATES};
  add_row(report, row, line_f1, in);
  row.key = "line_precision";
  row.title = "  precision";
  add_row(report, row, line_precision, in);
  row.key = "line_recall";
  row.title = "  recall";
  add_row(report, row, line_recall, in);
}

static void add_distance(Report *report, const char *key, const char *title, double input,
                         double output) {
  report_row(report, &(ReportRow){.key = key,
                                  .title = title,
                                  .best = "lower",
                                  .decimals = 2,
                                  .columns = 1u << COLUMN_INPUT | 1u << COLUMN_OUTPUT,
                                  .values = {[COLUMN_INPUT] = input, [COLUMN_OUTPUT] = output}});
}

static Status add_distances(const ScoreInputs *in, Report *report, Error *error) {
  Status status = OK;
  PatchSet *const *sets = in->clips->patches;
  double input[SWD_MAX_LEVELS], output[SWD_MAX_LEVELS], means[2] = {0};
  int height = in->clips->height, width = in->clips->width, levels = swd_levels(height, width);
  if (!sets[VIDEO_TARGET]) return OK;
  TRY(swd_distance(sets[VIDEO_INPUT], sets[VIDEO_TARGET], in->threads, input, error));
  TRY(swd_distance(sets[VIDEO_OUTPUT], sets[VIDEO_TARGET], in->threads, output, error));
  for (int i = 0; i < levels; i++) {
    means[0] += input[i] / levels;
    means[1] += output[i] / levels;
  }
  add_distance(report, "swd", "patch distance (SWD)", means[0], means[1]);
  for (int i = 0; i < levels; i++, height = (height + 1) / 2, width = (width + 1) / 2) {
    char key[32], title[32];
    snprintf(key, sizeof key, "swd_level%d", i);
    snprintf(title, sizeof title, "  at %dx%d", width, height);
    add_distance(report, key, title, input[i], output[i]);
  }
done:
  return status;
}

/* Adds the distances of each video to the reference, which has no column itself. */
static void add_inception(const InceptionResult *inception, Report *report) {
  ReportRow kid = {.key = "kid",
                   .title = "KID, x 1e3",
                   .best = "lower",
                   .decimals = 2,
                   .scale = 1e3,
                   .columns = 0};
  for (int c = 0; c < REPORT_COLUMNS; c++) {
    if (inception->frames[c] > 0 && c != (int)inception->reference) kid.columns |= 1u << c;
    kid.values[c] = inception->kid[c];
  }
  ReportRow fid = kid;
  fid.key = "fid";
  fid.title = "FID";
  fid.scale = 1;
  for (int c = 0; c < REPORT_COLUMNS; c++) fid.values[c] = inception->fid[c];
  report_row(report, &kid);
  report_row(report, &fid);
  long long frames = inception->frames[COLUMN_OUTPUT];
  long long others = inception->frames[inception->reference];
  bool is_target = inception->reference == COLUMN_TARGET;
  report_number(report, "fid_reference_frames", (double)others);
  if (frames < FID_MIN_FRAMES || others < FID_MIN_FRAMES)
    report_note(report,
                "FID is biased: it compares %lld frames with %lld of the %s, and below %d it "
                "depends on their number more than on the frames; read KID, which is unbiased",
                frames, others, is_target ? "target" : "cartoons", FID_MIN_FRAMES);
}

/* --- Content ---------------------------------------------------------------------------------- */

static double structure(const ScoreInputs *in, Video video) {
  return in->clips->videos[video].structure / (double)in->clips->frames;
}
static double color_shift(const ScoreInputs *in, Video video) {
  return in->clips->videos[video].color.delta_e / (double)in->clips->frames;
}
static double drift(const ScoreInputs *in, Video video, int channel) {
  return in->clips->videos[video].color.lab[channel] / (double)in->clips->frames;
}
static double drift_l(const ScoreInputs *in, Video video) {
  return drift(in, video, 0);
}
static double drift_a(const ScoreInputs *in, Video video) {
  return drift(in, video, 1);
}
static double drift_b(const ScoreInputs *in, Video video) {
  return drift(in, video, 2);
}

static void add_content(const ScoreInputs *in, Report *report) {
  unsigned columns = TRANSLATED | target_of(in);
  ReportRow row = {.decimals = 2, .columns = columns, .best = "near 0"};
  report_group(report, "content of the source kept");
  add_row(report,
          (ReportRow){.key = "structure",
                      .title = "structure",
                      .best = "higher",
                      .decimals = 3,
                      .columns = columns},
          structure, in);
  row.key = "color_shift";
  row.title = "colour shift, Delta E";
  row.best = "lower";
  add_row(report, row, color_shift, in);
  row.best = "near 0";
  row.key = "drift_l";
  row.title = "  drift of lightness L*";
  add_row(report, row, drift_l, in);
  row.key = "drift_a";
  row.title = "  green to red, a*";
  add_row(report, row, drift_a, in);
  row.key = "drift_b";
  row.title = "  blue to yellow, b*";
  add_row(report, row, drift_b, in);
}

/* --- Time ------------------------------------------------------------------------------------- */

static double flicker(const ScoreInputs *in, Video video) {
  return ratio(in->clips->videos[video].flicker, (double)in->clips->triples);
}
static double flicker_ratio(const ScoreInputs *in, Video video) {
  return ratio(flicker(in, video), flicker(in, VIDEO_INPUT));
}
static double warp_error(const ScoreInputs *in, Video video) {
  return temporal_metrics_warp_error(in->motion, (int)video);
}
static double warp_ratio(const ScoreInputs *in, Video video) {
  return ratio(warp_error(in, video), warp_error(in, VIDEO_INPUT));
}
static double tof(const ScoreInputs *in, Video video) {
  return temporal_metrics_tof(in->motion, (int)video);
}
static double temporal(const ScoreInputs *in, Video video) {
  return ratio(in->clips->videos[video].temporal, (double)in->clips->pairs);
}

static double tlp(const ScoreInputs *in, Video video) {
  return lpips_scores_tlp(in->lpips, video);
}

static void add_warp_error(const ScoreInputs *in, Report *report) {
  ReportRow row = {.key = "warp_error",
                   .title = "warp error, x 1e5",
                   .best = in->clips->has_target ? "as the target" : "near the source",
                   .decimals = 1,
                   .scale = 1e5,
                   .columns = CANDIDATES | target_of(in)};
  add_row(report, row, warp_error, in);
  row = (ReportRow){.key = "warp_ratio",
                    .title = "  / the source's",
                    .best = "near 1",
                    .decimals = 2,
                    .columns = TRANSLATED | target_of(in)};
  add_row(report, row, warp_ratio, in);
  report_number(report, "warp_visible", temporal_metrics_visible_fraction(in->motion));
}

static void add_time(const ScoreInputs *in, Report *report) {
  report_group(report, "steady in time");
  if (in->motion) add_warp_error(in, report);
  ReportRow row = {.key = "flicker",
                   .title = "flicker, levels",
                   .best = "near the source",
                   .decimals = 3,
                   .columns = CANDIDATES | target_of(in)};
  add_row(report, row, flicker, in);
  row = (ReportRow){.key = "flicker_ratio",
                    .title = "  / the source's",
                    .best = "near 1",
                    .decimals = 2,
                    .columns = TRANSLATED | target_of(in)};
  add_row(report, row, flicker_ratio, in);
  if (!in->clips->has_target) return;
  row = (ReportRow){.key = "temporal",
                    .title = "temporal error, levels",
                    .best = "lower",
                    .decimals = 3,
                    .columns = CANDIDATES};
  add_row(report, row, temporal, in);
  row.key = "tof";
  row.title = "tOF, pixels";
  if (in->motion) add_row(report, row, tof, in);
  row.key = "tlp";
  row.title = "tLP, x 100";
  row.scale = 100;
  if (in->lpips) add_row(report, row, tlp, in);
}

/* --- Similarity ------------------------------------------------------------------------------- */

static double psnr(const ScoreInputs *in, Video video) {
  return image_metrics_psnr(in->clips->videos[video].squared_error / (double)in->clips->frames);
}
static double lpips(const ScoreInputs *in, Video video) {
  return lpips_scores_lpips(in->lpips, video);
}
static double ssim(const ScoreInputs *in, Video video) {
  return in->clips->videos[video].ssim / (double)in->clips->frames;
}

static void add_similarity(const ScoreInputs *in, Report *report) {
  ReportRow row = {
      .key = "psnr", .title = "PSNR, dB", .best = "higher", .decimals = 2, .columns = CANDIDATES};
  report_group(report, "similar to the target");
  add_row(report, row, psnr, in);
  row.key = "ssim";
  row.title = "SSIM";
  row.decimals = 4;
  add_row(report, row, ssim, in);
  if (!in->lpips) return;
  char title[32];
  snprintf(title, sizeof title, "LPIPS, %s", lpips_scores_network(in->lpips));
  row.key = "lpips";
  row.title = title;
  row.best = "lower";
  add_row(report, row, lpips, in);
}

Status score_rows_add(const ScoreInputs *inputs, Report *report, Error *error) {
  Status status = OK;
  report_group(report, "looks like a cartoon");
  add_classifier(inputs, report);
  add_shares(inputs, report);
  if (inputs->clips->has_target) {
    add_lines(inputs, report);
    TRY(add_distances(inputs, report, error));
  }
  if (inputs->inception) add_inception(inputs->inception, report);
  add_content(inputs, report);
  add_time(inputs, report);
  if (inputs->clips->has_target) add_similarity(inputs, report);
done:
  return status;
}
