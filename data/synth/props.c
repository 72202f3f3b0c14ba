/* Props: trees, houses, clouds, rocks, lamp posts, pictures on a wall, the sun. */
#include "data/synth/scene.h"

static Material backdrop(Colour colour, float grain, float grain_size) {
  return (Material){.colour = colour,
                    .grain = grain,
                    .grain_size = grain_size,
                    .level = 0.68f,
                    .period = 0.1f,
                    .ink = 0.85f};
}

/* Random number `which` of a prop, 0 to 1. */
static float prop_random(uint32_t seed, int which) {
  uint32_t h = (seed + 0x9E3779B9u * (uint32_t)which) * 0x85EBCA6Bu;
  h = (h ^ h >> 13) * 0xC2B2AE35u;
  return (float)((h ^ h >> 16) & 0xFFFF) / 65536.0f;
}

static void tree(const Pen *pen, const Prop *p, float seconds) {
  float sway = 0.012f * synth_sine(p->phase + p->rate * seconds), h = p->height, w = p->width;
  Material bark = backdrop(p->colours[1], 0.3f, 0.03f),
           leaves = backdrop(p->colours[0], 0.35f, 0.03f);
  bark.roundness = leaves.roundness = 0.85f;
  Shape *trunk = pen_shape(pen, &bark, p->x, p->y, p->seed);
  pen_capsule(pen, trunk, p->x, p->y, 0.11f * w, p->x + sway * 0.4f, p->y - 0.6f * h, 0.06f * w);
  Shape *crown = pen_shape(pen, &leaves, p->x + sway, p->y - 0.7f * h, p->seed);
  crown->blend = 0.05f * w * pen->scale;
  for (int i = 0; i < 5; i++) {
    float turn = 0.2f * (float)i + 0.1f * prop_random(p->seed, i), out = i ? 0.30f * w : 0;
    pen_circle(pen, crown, p->x + sway + out * synth_cosine(turn),
               p->y - 0.72f * h - 0.65f * out * synth_sine(turn),
               w * (0.22f + 0.10f * prop_random(p->seed, 10 + i)));
  }
}

static void pine(const Pen *pen, const Prop *p, float seconds) {
  float sway = 0.010f * synth_sine(p->phase + p->rate * seconds);
  Material bark = backdrop(p->colours[1], 0.3f, 0.03f),
           needles = backdrop(p->colours[0], 0.4f, 0.02f);
  needles.slope_x = -1.2f / p->width;
  needles.level = 0.62f;
  Shape *trunk = pen_shape(pen, &bark, p->x, p->y, p->seed);
  pen_box(pen, trunk, p->x, p->y - 0.08f * p->height, 0.07f * p->width, 0.1f * p->height, 0, 0);
  for (int i = 0; i < 3; i++) {
    float low = p->y - p->height * (0.15f + 0.25f * (float)i), high = low - 0.38f * p->height;
    float half = p->width * (0.5f - 0.12f * (float)i), top = p->x + sway * (float)(i + 1);
    const float x[4] = {top, top, p->x + half, p->x - half}, y[4] = {high, high, low, low};
    Shape *tier = pen_shape(pen, &needles, p->x, low, p->seed + (uint32_t)i);
    pen_quad(pen, tier, x, y);
  }
}

static void house(const Pen *pen, const Prop *p, bool roofed) {
  float half = 0.5f * p->width, top = p->y - p->height;
  Material wall = backdrop(p->colours[0], 0.15f, 0.03f),
           roof = backdrop(p->colours[1], 0.25f, 0.02f);
  wall.pattern = PATTERN_WINDOWS;
  wall.second = p->colours[2];
  wall.period = roofed ? p->width / 2 : p->width / (2 + (float)(p->seed % 3));
  wall.slope_x = (p->seed & 8 ? 0.5f : -0.5f) / p->width;
  Shape *front = pen_shape(pen, &wall, p->x - half, p->y - 0.15f * wall.period, p->seed);
  front->material.level -= front->material.slope_x * half;
  pen_box(pen, front, p->x, p->y - 0.5f * p->height, half, 0.5f * p->height, 0, 0);
  if (roofed) {
    const float x[4] = {p->x - 0.3f * half, p->x + 0.3f * half, p->x + 1.2f * half,
                        p->x - 1.2f * half};
    const float y[4] = {top - 0.35f * p->height, top - 0.35f * p->height, top, top};
    Shape *gable = pen_shape(pen, &roof, p->x, top, p->seed);
    pen_quad(pen, gable, x, y);
  } else {
    Shape *ledge = pen_shape(pen, &roof, p->x, top, p->seed);
    pen_box(pen, ledge, p->x, top, half * 1.06f, 0.012f, 0, 0);
  }
}

static void cloud(const Pen *pen, const Prop *p, float seconds) {
  float x = p->x + p->rate * 0.05f * seconds;
  Material white = backdrop(p->colours[0], 0.08f, 0.08f);
  white.roundness = 0.4f;
  white.level = 0.75f;
  white.slope_y = -1.1f / p->height;
  white.ink = 0.5f;
  Shape *shape = pen_shape(pen, &white, x, p->y, p->seed);
  shape->blend = 0.10f * p->width * pen->scale;
  for (int i = 0; i < 5; i++) {
    float along = ((float)i - 2) * 0.2f * p->width;
    float radius =
        p->height * (0.55f - 0.10f * (float)((i - 2) * (i - 2)) + 0.12f * prop_random(p->seed, i));
    pen_circle(pen, shape, x + along, p->y - 0.3f * radius, radius > 0.02f ? radius : 0.02f);
  }
}

static void rock(const Pen *pen, const Prop *p) {
  Material stone = backdrop(p->colours[0], 0.35f, 0.03f);
  stone.roundness = 0.7f;
  pen_shadow(pen, p->x, p->y, 0.6f * p->width);
  Shape *shape = pen_shape(pen, &stone, p->x, p->y, p->seed);
  shape->blend = 0.12f * p->width * pen->scale;
  pen_capsule(pen, shape, p->x - 0.28f * p->width, p->y - 0.2f * p->height, 0.22f * p->width,
              p->x + 0.25f * p->width, p->y - 0.15f * p->height, 0.2f * p->width);
  pen_circle(pen, shape, p->x + (prop_random(p->seed, 1) - 0.5f) * 0.4f * p->width,
             p->y - 0.5f * p->height, 0.26f * p->width);
}

static void post(const Pen *pen, const Prop *p) {
  Material metal = backdrop(p->colours[1], 0.1f, 0.05f), globe = backdrop(p->colours[2], 0, 1);
  metal.roundness = globe.roundness = 0.8f;
  Shape *pole = pen_shape(pen, &metal, p->x, p->y, p->seed);
  pen_capsule(pen, pole, p->x, p->y, 0.018f, p->x, p->y - p->height, 0.014f);
  Shape *lamp = pen_shape(pen, &globe, p->x, p->y - p->height, p->seed);
  pen_circle(pen, lamp, p->x, p->y - p->height, 0.045f);
}

/* A framed picture or a window on a wall. */
static void picture(const Pen *pen, const Prop *p) {
  Material border = backdrop(p->colours[1], 0.2f, 0.02f),
           inside = backdrop(p->colours[0], 0.1f, 0.05f);
  inside.second = p->colours[2];
  inside.pattern = p->seed & 1 ? PATTERN_STRIPES : PATTERN_PLAIN;
  inside.period = 0.6f * p->width;
  inside.slope_y = -0.5f / p->height;
  inside.ink = 0.6f;
  Shape *outer = pen_shape(pen, &border, p->x, p->y, p->seed);
  pen_box(pen, outer, p->x, p->y, 0.5f * p->width, 0.5f * p->height, 0.01f, 0);
  Shape *inner = pen_shape(pen, &inside, p->x, p->y, p->seed);
  pen_rotate(inner, p->seed & 2 ? 0.25f : 0.12f);
  pen_box(pen, inner, p->x, p->y, 0.5f * p->width - 0.022f, 0.5f * p->height - 0.022f, 0, 0);
}

static void sun(const Pen *pen, const Prop *p) {
  Material glow = backdrop(p->colours[0], 0, 1);
  glow.level = 0.8f;
  glow.ink = 0.5f;
  Shape *shape = pen_shape(pen, &glow, p->x, p->y, p->seed);
  pen_circle(pen, shape, p->x, p->y, 0.5f * p->width);
}

void prop_pose(const Pen *pen, const Prop *prop, float seconds) {
  switch (prop->kind) {
  case PROP_TREE:
    tree(pen, prop, seconds);
    break;
  case PROP_PINE:
    pine(pen, prop, seconds);
    break;
  case PROP_HOUSE:
    house(pen, prop, true);
    break;
  case PROP_TOWER:
    house(pen, prop, false);
    break;
  case PROP_CLOUD:
    cloud(pen, prop, seconds);
    break;
  case PROP_ROCK:
    rock(pen, prop);
    break;
  case PROP_POST:
    post(pen, prop);
    break;
  case PROP_PICTURE:
    picture(pen, prop);
    break;
  case PROP_SUN:
  default:
    sun(pen, prop);
    break;
  }
}
