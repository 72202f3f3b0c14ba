#include "trainer/gan/step_inputs.h"

#include <math.h>
#include <stdlib.h>

#include "base/bulk_memory.h"
#include "base/random.h"
#include "trainer/gan/diff_augment.h"
#include "trainer/gan/internal.h"

/* --- Sizes ------------------------------------------------------------------------------------ */

static bool uses(const Gan *gan, Metric metric) {
  return gan_computes_metric(gan, &(StepControls){.kind = STEP_GAN}, metric);
}

/* Elements for one clip. */
static int64_t elements(const Gan *gan, StepInput input) {
  const Config *config = gan->config;
  const ClipShape *clip = &gan->options.shape;
  int64_t pixels = (int64_t)clip->target_height * clip->target_width;
  bool moves = uses(gan, METRIC_MOTION_CONSISTENCY);
  switch (input) {
  case INPUT_NOISE:
    return clip->frames * pixels * config->model.noise_channels;
  case INPUT_INTERPOLATION:
    return uses(gan, METRIC_GRADIENT_PENALTY);
  case INPUT_AUGMENTATION:
    return gan_augments(gan) ? PART_COUNT * DRAW_VALUES : 0;
  case INPUT_GREY:
    return gan->adversarial && config->model.grey_view ? PART_COUNT * 3 : 0;
  case INPUT_MOTION:
    return moves ? pixels * 2 : 0;
  case INPUT_MOTION_NOISE:
    return moves ? pixels : 0;
  case INPUT_MIRROR:
    return gan_mirrors(config);
  case INPUT_COUNT:
    break;
  }
  return 0;
}

void step_inputs_describe(const Gan *gan, Buffer inputs[INPUT_COUNT]) {
  static const char *const NAMES[INPUT_COUNT] = {
      [INPUT_NOISE] = "noise",
      [INPUT_INTERPOLATION] = "interpolation weights",
      [INPUT_AUGMENTATION] = "augmentation",
      [INPUT_GREY] = "grey weights",
      [INPUT_MOTION] = "synthetic motion",
      [INPUT_MOTION_NOISE] = "noise of the moved source",
      [INPUT_MIRROR] = "mirrored clips",
  };
  for (StepInput input = 0; input < INPUT_COUNT; input++)
    inputs[input] = buffer_describe(NAMES[input], DTYPE_F32,
                                    gan->config->train.micro_batch * elements(gan, input));
}

/* --- Numbers of one clip ---------------------------------------------------------------------- */

/* White-box Cartoonization's random colour shift (Wang, Yu 2020, section 3.2), normalised. */
static void fill_grey(Random *random, float weights[3]) {
  static const double MIDDLE[3] = {0.299, 0.587, 0.114};
  double sum = 0;
  for (int i = 0; i < 3; i++) {
    double value = MIDDLE[i] + 0.1 * (2 * random_uniform(random) - 1);
    weights[i] = (float)value;
    sum += value;
  }
  for (int i = 0; i < 3; i++) weights[i] = (float)((double)weights[i] / sum);
}

/* A smooth field: normal numbers on a grid of 4 x 4 cells (its knots), interpolated with a cubic
 * Hermite blend, plus one shift of the whole frame. Both scale with the frame, so that crops of any
 * size move alike: shift up to 1/24 of the smaller side, deviation 1/48 of it. */
static void fill_motion(Random *random, int64_t height, int64_t width, float *flow) {
  enum { CELLS = 4, KNOTS = CELLS + 1 };
  double side = (double)(height < width ? height : width), shift[2];
  float knots[KNOTS][KNOTS][2];
  for (int i = 0; i < 2; i++) shift[i] = (2 * random_uniform(random) - 1) * side / 24;
  random_fill_normal(random, &knots[0][0][0], sizeof knots / sizeof(float), (float)(side / 48));
  for (int64_t y = 0; y < height; y++) {
    double v = (double)y * CELLS / (double)height, fy = v - floor(v), by = fy * fy * (3 - 2 * fy);
    int row = (int)v;
    for (int64_t x = 0; x < width; x++) {
      double u = (double)x * CELLS / (double)width, fx = u - floor(u), bx = fx * fx * (3 - 2 * fx);
      int column = (int)u;
      for (int i = 0; i < 2; i++) {
        double top =
            (1 - bx) * (double)knots[row][column][i] + bx * (double)knots[row][column + 1][i];
        double bottom = (1 - bx) * (double)knots[row + 1][column][i] +
                        bx * (double)knots[row + 1][column + 1][i];
        *flow++ = (float)(shift[i] + (1 - by) * top + by * bottom);
      }
    }
  }
}

/* Noise like a camera's: one deviation per clip, up to 2.5 of 255 grey levels. */
static void fill_motion_noise(Random *random, int64_t pixels, float *noise) {
  float deviation = (float)(0.02 * random_uniform(random));
  random_fill_normal(random, noise, (size_t)pixels, deviation);
}

/* --- Filling ---------------------------------------------------------------------------------- */

/* The numbers of a clip's part lie behind those of all clips' parts before. */
static float *part_of_clip(float *values, int64_t batch, int64_t clip, int part, int64_t count) {
  return values + (part * batch + clip) * count;
}

static void fill_clip(const Gan *gan, StepInput input, int64_t sample, int64_t clip,
                      double augment_probability, float *values) {
  static const RandomPurpose PURPOSES[INPUT_COUNT] = {
      [INPUT_NOISE] = RANDOM_NOISE,
      [INPUT_INTERPOLATION] = RANDOM_INTERPOLATION,
      [INPUT_AUGMENTATION] = RANDOM_DIFF_AUGMENT,
      [INPUT_GREY] = RANDOM_GREY,
      [INPUT_MOTION] = RANDOM_MOTION,
      [INPUT_MOTION_NOISE] = RANDOM_MOTION_NOISE,
      [INPUT_MIRROR] = RANDOM_MIRROR,
  };
  const ClipShape *shape = &gan->options.shape;
  int64_t batch = gan->config->train.micro_batch, each = elements(gan, input);
  int64_t height = shape->target_height, width = shape->target_width;
  Random random =
      random_stream((uint64_t)gan->config->run.seed, PURPOSES[input], (uint64_t)sample, 0);
  float *own = values + clip * each;
  switch (input) {
  case INPUT_NOISE:
    random_fill_normal(&random, own, (size_t)each, 1);
    break;
  case INPUT_INTERPOLATION:
    *own = (float)random_uniform(&random);
    break;
  case INPUT_AUGMENTATION:
    for (int part = 0; part < PART_COUNT; part++)
      diff_augment_draw(&random, augment_probability, height, width,
                        part_of_clip(values, batch, clip, part, DRAW_VALUES));
    break;
  case INPUT_GREY:
    for (int part = 0; part < PART_COUNT; part++)
      fill_grey(&random, part_of_clip(values, batch, clip, part, 3));
    break;
  case INPUT_MOTION:
    fill_motion(&random, height, width, own);
    break;
  case INPUT_MOTION_NOISE:
    fill_motion_noise(&random, each, own);
    break;
  case INPUT_MIRROR:
    *own = random_uniform(&random) < 0.5;
    break;
  case INPUT_COUNT:
    break;
  }
}

static Status upload(Gan *gan, StepInput input, const int64_t *samples, double augment_probability,
                     Error *error) {
  Status status = OK;
  Buffer *buffer = &gan->inputs[input];
  float *values = NULL;
  if (buffer->count == 0) return OK;
  TRY(mem_bulk((size_t)buffer->count * sizeof *values, buffer->name, (void **)&values, error));
  for (int64_t i = 0; i < gan->config->train.micro_batch; i++)
    fill_clip(gan, input, samples[i], i, augment_probability, values);
  TRY(buffer_upload(buffer, 0, values, buffer->count, error));
done:
  free(values);
  return status;
}

Status step_inputs_upload(Gan *gan, const int64_t *samples, double augment_probability,
                          Error *error) {
  Status status = OK;
  for (StepInput input = 0; input < INPUT_COUNT; input++)
    TRY(upload(gan, input, samples, augment_probability, error));
done:
  return status;
}
