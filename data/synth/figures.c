/* Figures: people, animals, cars, balls and birds, posed at a time. Far limbs are drawn first. In a
 * figure's own coordinates the feet are at (0, 0), the height is 1, y points up, and it walks to
 * the right. */
#include <math.h>

#include "data/synth/scene.h"

typedef struct Joint {
  float x, y;
} Joint;

/* A figure being drawn: position and scale of its coordinates, in the pen's units. */
typedef struct Body {
  const Pen *pen;
  const Figure *figure;
  float x, y, size, facing; /* facing: 1 or -1 */
} Body;

static Joint world_point(const Body *body, float x, float y) {
  return (Joint){body->x + body->facing * body->size * x, body->y - body->size * y};
}

static Material cloth(Colour colour) {
  return (Material){.colour = colour,
                    .grain = 0.16f,
                    .grain_size = 0.018f,
                    .roundness = 0.85f,
                    .level = 0.68f,
                    .period = 0.06f,
                    .ink = 1};
}

static Shape *add_part(const Body *body, const Material *material, Joint origin) {
  return pen_shape(body->pen, material, origin.x, origin.y, body->figure->seed);
}

static void limb(const Body *body, Shape *shape, Joint a, float ra, Joint b, float rb) {
  pen_capsule(body->pen, shape, a.x, a.y, ra * body->size, b.x, b.y, rb * body->size);
}

static void disc(const Body *body, Shape *shape, float x, float y, float radius) {
  Joint centre = world_point(body, x, y);
  pen_circle(body->pen, shape, centre.x, centre.y, radius * body->size);
}

/* Computes the end of a bone that hangs from (x, y) at `turn` (0: down, positive: forwards). */
static void bone_end(float x, float y, float turn, float length, float *end_x, float *end_y) {
  *end_x = x + length * synth_sine(turn);
  *end_y = y - length * synth_cosine(turn);
}

/* Adds a limb of two bones as one shape. *x, *y: its start, then its end, in the figure's
 * coordinates. */
static void two_bones(const Body *body, const Material *material, float *x, float *y, float upper,
                      float lower, float length, float thick, float thin) {
  float knee_x, knee_y, end_x, end_y;
  bone_end(*x, *y, upper, length, &knee_x, &knee_y);
  bone_end(knee_x, knee_y, lower, length, &end_x, &end_y);
  Joint top = world_point(body, *x, *y), knee = world_point(body, knee_x, knee_y);
  Shape *shape = add_part(body, material, top);
  shape->blend = 0.03f * body->size * body->pen->scale;
  limb(body, shape, top, thick, knee, mix(thick, thin, 0.5f));
  limb(body, shape, knee, mix(thick, thin, 0.5f), world_point(body, end_x, end_y), thin);
  *x = end_x;
  *y = end_y;
}

/* --- People ----------------------------------------------------------------------------------- */

static void leg(const Body *body, float hip_y, float phase, float dim) {
  const Figure *f = body->figure;
  float swing = 0.085f * f->vigour * synth_sine(phase);
  float bend = 0.10f * f->vigour * (0.6f + 0.6f * synth_cosine(phase + 0.08f));
  Material trousers = cloth(colour_scale(f->colours[2], dim));
  Material shoe = cloth(colour_scale(f->colours[4], dim));
  float x = 0, y = hip_y, thick = 0.052f + 0.022f * f->build;
  two_bones(body, &trousers, &x, &y, swing, swing - bend, 0.225f, thick, 0.034f);
  Shape *shape = add_part(body, &shoe, world_point(body, x, y));
  limb(body, shape, world_point(body, x - 0.005f, y - 0.012f), 0.030f,
       world_point(body, x + 0.062f, y - 0.018f), 0.024f);
}

static void arm(const Body *body, float shoulder_y, float phase, float dim, bool raised) {
  const Figure *f = body->figure;
  float swing = 0.08f * f->vigour * synth_sine(phase), bend = 0.07f + 0.04f * f->vigour;
  if (raised) swing = 0.40f + 0.05f * synth_sine(phase * 2), bend = 0.05f;
  Material sleeve = cloth(colour_scale(f->colours[1], dim));
  Material skin = cloth(colour_scale(f->colours[0], dim));
  float x = 0, y = shoulder_y;
  two_bones(body, &sleeve, &x, &y, swing, swing + bend, 0.155f, 0.040f + 0.014f * f->build, 0.027f);
  Shape *shape = add_part(body, &skin, world_point(body, x, y));
  disc(body, shape, x, y, 0.033f);
}

static void head(const Body *body, float x, float y, float tilt) {
  const Figure *f = body->figure;
  Material skin = cloth(f->colours[0]), hair = cloth(f->colours[3]);
  Material eye = cloth((Colour){0.08f, 0.07f, 0.1f});
  float r = 0.088f;
  eye.ink = 0;
  hair.grain = 0.3f;
  if (f->style & 1) { /* long hair, behind */
    Shape *back = add_part(body, &hair, world_point(body, x, y));
    limb(body, back, world_point(body, x - 0.03f, y + 0.02f), r,
         world_point(body, x - 0.07f - tilt, y - 0.13f), 0.045f);
  }
  Shape *face = add_part(body, &skin, world_point(body, x, y));
  face->blend = 0.02f * body->size * body->pen->scale;
  disc(body, face, x, y, r);
  disc(body, face, x + r * 0.95f, y - 0.015f, 0.016f);
  Shape *spot = add_part(body, &eye, world_point(body, x, y));
  limb(body, spot, world_point(body, x + 0.045f, y + 0.016f), 0.011f,
       world_point(body, x + 0.045f, y - 0.006f), 0.011f);
  Shape *top = add_part(body, &hair, world_point(body, x, y));
  limb(body, top, world_point(body, x - 0.05f, y + 0.03f), 0.052f,
       world_point(body, x + 0.03f, y + 0.065f), 0.038f);
  if (f->style & 2) { /* a cap's peak */
    limb(body, top, world_point(body, x + 0.03f, y + 0.055f), 0.016f,
         world_point(body, x + 0.13f, y + 0.05f), 0.012f);
  }
}

static void person(const Body *body, float seconds) {
  const Figure *f = body->figure;
  float phase = f->phase + f->rate * seconds, bob = 0.012f * f->vigour * synth_cosine(2 * phase);
  float hip = 0.455f + bob, shoulder = 0.745f + bob, lean = 0.02f * f->vigour;
  bool dances = f->style & 4;
  Material shirt = cloth(f->colours[1]);
  shirt.pattern = f->pattern;
  shirt.second = f->colours[4];
  arm(body, shoulder, phase + 0.5f, 0.86f, dances);
  leg(body, hip, phase, 0.86f);
  leg(body, hip, phase + 0.5f, 1);
  float belly = 0.078f + 0.045f * f->build;
  Shape *torso = add_part(body, &shirt, world_point(body, 0, hip));
  torso->blend = 0.03f * body->size * body->pen->scale;
  pen_rotate(torso, 0.25f);
  limb(body, torso, world_point(body, 0, hip + 0.02f), belly,
       world_point(body, lean, shoulder - 0.03f), 0.082f);
  head(body, lean * 2 + 0.012f, 0.885f + bob, 0.03f * synth_sine(phase));
  arm(body, shoulder, phase, 1, dances && (f->style & 8));
}

/* --- Animals ---------------------------------------------------------------------------------- */

static void paw(const Body *body, float x, float y, float phase, float dim) {
  const Figure *f = body->figure;
  float swing = 0.09f * f->vigour * synth_sine(phase);
  float bend = 0.07f * f->vigour * (0.5f + 0.5f * synth_cosine(phase));
  Material fur = cloth(colour_scale(f->colours[0], dim));
  fur.grain = 0.25f;
  two_bones(body, &fur, &x, &y, swing, swing - bend, 0.235f, 0.075f, 0.042f);
}

static void animal(const Body *body, float seconds) {
  const Figure *f = body->figure;
  float phase = f->phase + f->rate * seconds, bob = 0.015f * f->vigour * synth_sine(2 * phase);
  float back = 0.56f + bob, fat = 0.15f + 0.07f * f->build, wag = 0.08f * synth_sine(3 * phase);
  float nod = 0.02f * synth_sine(phase), neck = 0.16f + 0.05f * (float)(f->style & 3);
  Material fur = cloth(f->colours[0]), patch = cloth(f->colours[1]);
  Material dark = cloth((Colour){0.1f, 0.08f, 0.1f});
  fur.grain = patch.grain = 0.25f;
  dark.ink = 0;
  paw(body, -0.33f, 0.44f, phase + 0.25f, 0.84f);
  paw(body, 0.33f, 0.44f, phase + 0.75f, 0.84f);
  Shape *tail = add_part(body, &patch, world_point(body, -0.45f, back));
  limb(body, tail, world_point(body, -0.42f, back + 0.03f), 0.045f,
       world_point(body, -0.66f, back + 0.22f + wag), 0.03f);
  Shape *trunk = add_part(body, &fur, world_point(body, 0, back));
  trunk->blend = 0.12f * body->size * body->pen->scale;
  limb(body, trunk, world_point(body, -0.34f, back), fat, world_point(body, 0.34f, back + 0.02f),
       fat * 0.95f);
  limb(body, trunk, world_point(body, 0.40f, back + 0.06f), 0.10f,
       world_point(body, 0.52f, back + neck + nod), 0.10f);
  limb(body, trunk, world_point(body, 0.54f, back + neck + 0.03f + nod), 0.125f,
       world_point(body, 0.72f, back + neck - 0.02f + nod), 0.072f);
  Shape *saddle = add_part(body, &patch, world_point(body, -0.1f, back));
  saddle->material.ink = 0.6f;
  limb(body, saddle, world_point(body, -0.18f, back + 0.03f), fat * 0.55f,
       world_point(body, 0.05f, back + 0.05f), fat * 0.4f);
  Shape *ear = add_part(body, &patch, world_point(body, 0.5f, back));
  limb(body, ear, world_point(body, 0.50f, back + neck + 0.10f + nod), 0.045f,
       world_point(body, 0.44f, back + neck + (f->style & 4 ? 0.24f : 0.0f) + nod), 0.03f);
  Shape *eye = add_part(body, &dark, world_point(body, 0.6f, back));
  disc(body, eye, 0.60f, back + neck + 0.06f + nod, 0.022f);
  disc(body, eye, 0.775f, back + neck - 0.005f + nod, 0.03f);
  paw(body, -0.30f, 0.44f, phase, 1);
  paw(body, 0.36f, 0.44f, phase + 0.5f, 1);
}

/* --- Cars, balls, birds ----------------------------------------------------------------------- */

static void wheel(const Body *body, float x, float turn) {
  Material tyre = cloth((Colour){0.16f, 0.16f, 0.19f}), hub = cloth((Colour){0.75f, 0.76f, 0.8f});
  Shape *shape = add_part(body, &tyre, world_point(body, x, 0.17f));
  disc(body, shape, x, 0.17f, 0.17f);
  hub.pattern = PATTERN_STRIPES;
  hub.second = (Colour){0.45f, 0.46f, 0.5f};
  hub.period = 0.09f * body->size;
  hub.ink = 0.6f;
  shape = add_part(body, &hub, world_point(body, x, 0.17f));
  pen_rotate(shape, turn * body->facing);
  disc(body, shape, x, 0.17f, 0.085f);
}

static void add_quad(const Body *body, Shape *shape, const float corners[8]) {
  float x[4], y[4];
  for (int i = 0; i < 4; i++) { /* mirroring reverses the order of the corners */
    int from = body->facing > 0 ? i : 3 - i;
    Joint corner = world_point(body, corners[2 * from], corners[2 * from + 1]);
    x[i] = corner.x, y[i] = corner.y;
  }
  pen_quad(body->pen, shape, x, y);
}

static void car(const Body *body, float seconds) {
  static const float cabins[3][8] = {
      {-0.55f, 0.98f, 0.30f, 0.98f, 0.62f, 0.52f, -0.72f, 0.52f},
      {-0.85f, 1.00f, 0.42f, 1.00f, 0.58f, 0.50f, -0.85f, 0.50f},
      {-0.10f, 0.95f, 0.35f, 0.95f, 0.62f, 0.50f, -0.25f, 0.50f},
  };
  static const float panes[3][8] = {
      {-0.46f, 0.88f, 0.24f, 0.88f, 0.44f, 0.57f, -0.58f, 0.57f},
      {-0.72f, 0.90f, 0.36f, 0.90f, 0.46f, 0.62f, -0.72f, 0.62f},
      {-0.04f, 0.86f, 0.29f, 0.86f, 0.46f, 0.56f, -0.14f, 0.56f},
  };
  const Figure *f = body->figure;
  float bump = 0.012f * synth_sine(3 * f->rate * seconds), turn = f->speed * seconds / f->size;
  int kind = f->style % 3;
  Material paint = cloth(f->colours[0]), glass = cloth((Colour){0.62f, 0.82f, 0.92f});
  Material lamp = cloth((Colour){1.0f, 0.92f, 0.55f});
  paint.roundness = 0.6f, paint.grain = 0.05f, paint.slope_y = 0.5f;
  glass.roundness = 0.3f, glass.slope_x = 0.6f, glass.ink = 0.7f;
  lamp.ink = 0.6f;
  Body moved = *body;
  moved.y -= bump * body->size;
  Shape *cabin = add_part(&moved, &paint, world_point(&moved, 0, 0.75f));
  add_quad(&moved, cabin, cabins[kind]);
  Shape *pane = add_part(&moved, &glass, world_point(&moved, 0, 0.72f));
  add_quad(&moved, pane, panes[kind]);
  paint.colour = f->style & 4 ? f->colours[1] : f->colours[0];
  Shape *hull = add_part(&moved, &paint, world_point(&moved, 0, 0.36f));
  Joint centre = world_point(&moved, 0, 0.37f);
  pen_box(body->pen, hull, centre.x, centre.y, 1.0f * body->size, 0.20f * body->size,
          0.12f * body->size, 0);
  Shape *light = add_part(&moved, &lamp, world_point(&moved, 0.9f, 0.4f));
  disc(&moved, light, 0.91f, 0.43f, 0.06f);
  wheel(body, -0.56f, turn / (6.2832f * 0.17f));
  wheel(body, 0.56f, turn / (6.2832f * 0.17f));
}

static void ball(const Body *body, float seconds) {
  const Figure *f = body->figure;
  float beat = f->phase + f->rate * seconds, within = beat - floorf(beat);
  float rise = 4 * within * (1 - within) * (0.6f + 1.6f * f->vigour);
  Material skin = cloth(f->colours[0]);
  skin.pattern = f->style & 1 ? PATTERN_STRIPES : PATTERN_PLAIN;
  skin.second = f->colours[1];
  skin.period = 0.55f * f->size;
  skin.roundness = 1;
  Shape *shape = add_part(body, &skin, world_point(body, 0, 0.5f + rise));
  pen_rotate(shape, f->phase + f->speed * seconds / (3.1416f * f->size));
  disc(body, shape, 0, 0.5f + rise, 0.5f);
}

static void bird(const Body *body, float seconds) {
  const Figure *f = body->figure;
  float flap = 0.16f * synth_sine(f->phase + f->rate * seconds) + 0.03f;
  Material feather = cloth(f->colours[0]), wing = cloth(f->colours[1]);
  Material beak = cloth((Colour){0.98f, 0.68f, 0.15f});
  beak.ink = 0.6f;
  float x, y;
  bone_end(0.0f, 0.1f, 0.45f + flap, 0.75f, &x, &y);
  Shape *far_wing = add_part(body, &wing, world_point(body, 0, 0));
  limb(body, far_wing, world_point(body, 0.05f, 0.1f), 0.16f, world_point(body, x * 0.8f, y),
       0.05f);
  Shape *trunk = add_part(body, &feather, world_point(body, 0, 0));
  trunk->blend = 0.1f * body->size * body->pen->scale;
  limb(body, trunk, world_point(body, -0.5f, -0.02f), 0.07f, world_point(body, 0.25f, 0.05f), 0.2f);
  disc(body, trunk, 0.46f, 0.18f, 0.17f);
  Shape *nib = add_part(body, &beak, world_point(body, 0.6f, 0.15f));
  limb(body, nib, world_point(body, 0.62f, 0.16f), 0.06f, world_point(body, 0.76f, 0.12f), 0.025f);
  bone_end(0.0f, 0.1f, 0.5f + flap * 1.3f, 0.8f, &x, &y);
  Shape *near_wing = add_part(body, &wing, world_point(body, 0, 0));
  limb(body, near_wing, world_point(body, 0, 0.08f), 0.18f, world_point(body, -0.25f - x, y),
       0.05f);
}

void figure_pose(const Pen *pen, const Figure *figure, float seconds) {
  Body body = {
      .pen = pen,
      .figure = figure,
      .x = figure->x + figure->speed * seconds,
      .y = figure->y,
      .size = figure->size,
      .facing = figure->speed < 0 ? -1 : 1,
  };
  static const float shadow[FIGURE_KINDS] = {0.2f, 0.55f, 1.1f, 0.45f, 0};
  if (figure->kind != FIGURE_BIRD)
    pen_shadow(pen, body.x, body.y, shadow[figure->kind] * figure->size);
  switch (figure->kind) {
  case FIGURE_ANIMAL:
    animal(&body, seconds);
    break;
  case FIGURE_CAR:
    car(&body, seconds);
    break;
  case FIGURE_BALL:
    ball(&body, seconds);
    break;
  case FIGURE_BIRD:
    bird(&body, seconds);
    break;
  case FIGURE_PERSON:
  default:
    person(&body, seconds);
    break;
  }
}
