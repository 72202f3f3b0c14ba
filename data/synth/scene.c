/* Generates a clip's scene from its random stream.
 *
 * C does not define the order in which arguments are evaluated, so every random number is drawn in
 * a statement of its own. */
#include "data/synth/scene.h"

#define HEX(rgb)                                                                                   \
  { (float)((rgb) >> 16 & 255) / 255, (float)((rgb) >> 8 & 255) / 255, (float)((rgb)&255) / 255 }

static const Colour SKINS[] = {HEX(0xF7D0B0), HEX(0xE8B48C), HEX(0xC68A5E), HEX(0x8E5A3C)};
static const Colour HAIRS[] = {HEX(0x2B2430), HEX(0x6B3F25), HEX(0xD9A441), HEX(0xB9502A),
                               HEX(0x8B8FA0)};
static const Colour CLOTHES[] = {HEX(0xE4483F), HEX(0xF2A72E), HEX(0xF7DE58), HEX(0x4FB35C),
                                 HEX(0x3B82D0), HEX(0x7A4FB0), HEX(0xE87FAE), HEX(0xF3EEE2),
                                 HEX(0x2FA8A0), HEX(0x39435E)};
static const Colour FURS[] = {HEX(0xD89A4E), HEX(0x8A5A3A), HEX(0xE9DFC9), HEX(0x4A4450),
                              HEX(0xB9B2AA)};
static const Colour LEAVES[] = {HEX(0x3F9A4D), HEX(0x6DB548), HEX(0x2F7F6A), HEX(0xD9882F),
                                HEX(0xE3A0B8)};
static const Colour WALLS[] = {HEX(0xF0D9B0), HEX(0xE59A78), HEX(0xA9C4D6),
                               HEX(0xD8D3CB), HEX(0xC9A2C6), HEX(0x8FB89A)};
static const Colour ROOFS[] = {HEX(0xB8473A), HEX(0x5A5568), HEX(0x7E4B34), HEX(0x3E6B80)};
static const Colour STONES[] = {HEX(0x8E8B94), HEX(0xA58F78)};

typedef struct Mood {
  Colour sky_top, sky_bottom, grade;
  float lamp; /* strength of the circle of light */
} Mood;

static const Mood MOODS[] = {
    {HEX(0x3FA0F0), HEX(0xC9ECFF), {1, 1, 1}, 0},
    {HEX(0x63C3EE), HEX(0xF4F7DC), {1, 0.99f, 0.95f}, 0},
    {HEX(0x6A5FC0), HEX(0xFFC27A), {1, 0.88f, 0.74f}, 0.1f},
    {HEX(0x9FB0C2), HEX(0xE3E8EA), {0.93f, 0.95f, 0.98f}, 0},
    {HEX(0x8F78D8), HEX(0xFFC4CC), {1, 0.9f, 0.94f}, 0},
    {HEX(0x1B2058), HEX(0x5A5CA8), {0.60f, 0.64f, 0.88f}, 0.5f},
};

typedef enum Place { PLACE_MEADOW, PLACE_CITY, PLACE_BEACH, PLACE_ROOM, PLACE_SNOW, PLACES } Place;

#define PICK(random, table) (table)[random_below((random), sizeof(table) / sizeof *(table))]

static float uniform(Random *random, float low, float high) {
  return low + (high - low) * (float)random_uniform(random);
}

static bool chance(Random *random, float share) {
  return (float)random_uniform(random) < share;
}

/* Varies a palette's colour slightly, so that clips differ. */
static Colour vary_colour(Random *random, Colour c) {
  float light = uniform(random, 0.94f, 1.05f), warm = uniform(random, -0.03f, 0.03f);
  return (Colour){clamp01(c.r * light + warm), clamp01(c.g * light), clamp01(c.b * light - warm)};
}

static Colour hazy(const Scene *scene, Colour c, float depth) {
  return colour_mix(c, scene->sky_bottom, 0.55f * (1 - depth));
}

/* --- The ground ------------------------------------------------------------------------------- */

static Ridge *add_ridge(Scene *scene, Random *random, float y, float depth, float rough,
                        Colour colour) {
  int index = scene->ridge_count++;
  Ridge *r = &scene->ridges[index];
  *r = (Ridge){.y = y, .depth = depth};
  for (int i = 0; i < 3; i++) {
    r->height[i] = rough * uniform(random, 0.3f, 1) / (float)(1 + 2 * i);
    r->frequency[i] = (float)(1 + 2 * i) * uniform(random, 0.35f, 0.75f);
    r->phase[i] = uniform(random, 0, 1);
  }
  r->material = (Material){.colour = hazy(scene, colour, depth),
                           .grain = uniform(random, 0.08f, 0.22f),
                           .grain_size = uniform(random, 0.02f, 0.06f),
                           .period = 0.2f,
                           .level = uniform(random, 0.64f, 0.76f),
                           .ink = 0.85f};
  r->material.slope_y = uniform(random, -0.9f, -0.3f);
  r->seed = random_u32(random);
  scene->props_behind[index] = scene->prop_count;
  scene->props_behind[index + 1] = SCENE_PROPS;
  return r;
}

static float ridge_top(const Ridge *r, float x) {
  float y = r->y;
  for (int i = 0; i < 3; i++) y -= r->height[i] * synth_sine(r->phase[i] + r->frequency[i] * x);
  return y;
}

/* --- Props ------------------------------------------------------------------------------------ */

static Prop *add_prop(Scene *scene, Random *random, PropKind kind, float x, float y, float width,
                      float height, float depth) {
  if (scene->prop_count == SCENE_PROPS) scene->prop_count--;
  Prop *p = &scene->props[scene->prop_count++];
  *p = (Prop){.kind = kind, .x = x, .y = y, .width = width, .height = height, .depth = depth};
  p->phase = uniform(random, 0, 1);
  p->rate = uniform(random, 0.3f, 1.0f);
  p->seed = random_u32(random);
  return p;
}

static void add_sky(Scene *scene, Random *random, float horizon) {
  if (chance(random, 0.5f)) {
    float x = uniform(random, -0.7f, 0.7f), y = uniform(random, -0.42f, horizon - 0.15f);
    float width = uniform(random, 0.12f, 0.26f);
    Prop *p = add_prop(scene, random, PROP_SUN, x, y, width, width, 0.05f);
    p->colours[0] = (Colour){1, 0.95f, 0.72f};
  }
  int clouds = (int)random_below(random, 4);
  for (int i = 0; i < clouds; i++) {
    float x = uniform(random, -0.9f, 0.9f), y = uniform(random, -0.45f, horizon - 0.12f);
    float width = uniform(random, 0.25f, 0.5f), height = uniform(random, 0.09f, 0.16f);
    Prop *p = add_prop(scene, random, PROP_CLOUD, x, y, width, height, 0.12f);
    p->colours[0] = colour_mix((Colour){1, 1, 1}, scene->sky_bottom, 0.25f);
  }
}

static void add_plants(Scene *scene, Random *random, const Ridge *on, int count, float size,
                       bool pines) {
  Colour leaf = PICK(random, LEAVES);
  for (int i = 0; i < count; i++) {
    float x = uniform(random, -1.2f, 1.2f), height = size * uniform(random, 0.7f, 1.3f);
    float width = height * uniform(random, 0.5f, 0.8f);
    PropKind kind = pines || chance(random, 0.3f) ? PROP_PINE : PROP_TREE;
    Prop *p = add_prop(scene, random, kind, x, ridge_top(on, x) + 0.02f, width, height, on->depth);
    p->colours[0] = hazy(scene, vary_colour(random, leaf), on->depth);
    p->colours[1] = hazy(scene, vary_colour(random, (Colour)HEX(0x7A5238)), on->depth);
  }
}

static void add_buildings(Scene *scene, Random *random, const Ridge *on, bool towers) {
  float x = -1.25f + uniform(random, 0, 0.2f);
  while (x < 1.25f && scene->prop_count < SCENE_PROPS - 6) {
    float width = towers ? uniform(random, 0.16f, 0.34f) : uniform(random, 0.24f, 0.42f);
    float height = towers ? uniform(random, 0.25f, 0.75f) : uniform(random, 0.18f, 0.34f);
    PropKind kind = towers ? PROP_TOWER : PROP_HOUSE;
    Prop *p =
        add_prop(scene, random, kind, x + width / 2, on->y + 0.1f, width, height + 0.1f, on->depth);
    p->colours[0] = hazy(scene, vary_colour(random, PICK(random, WALLS)), on->depth);
    p->colours[1] = hazy(scene, vary_colour(random, PICK(random, ROOFS)), on->depth);
    bool lit = scene->lamp_strength > 0.3f && chance(random, 0.7f);
    p->colours[2] = lit ? (Colour){1, 0.95f, 0.6f} : hazy(scene, (Colour)HEX(0x5C7C99), on->depth);
    x += width + (towers ? uniform(random, 0.0f, 0.08f) : uniform(random, 0.15f, 0.5f));
  }
}

static void add_rocks(Scene *scene, Random *random, float ground, int count) {
  Colour stone = PICK(random, STONES);
  for (int i = 0; i < count; i++) {
    float x = uniform(random, -1.1f, 1.1f), y = ground + uniform(random, 0.03f, 0.12f);
    float width = uniform(random, 0.1f, 0.25f);
    Prop *p = add_prop(scene, random, PROP_ROCK, x, y, width, width * 0.7f, 1);
    p->colours[0] = vary_colour(random, stone);
  }
}

static void add_post(Scene *scene, Random *random, float ground) {
  float x = uniform(random, -0.8f, 0.8f), height = uniform(random, 0.45f, 0.6f);
  Prop *p = add_prop(scene, random, PROP_POST, x, ground + 0.04f, 0.05f, height, 1);
  p->colours[1] = vary_colour(random, (Colour)HEX(0x3D4654));
  p->colours[2] = (Colour){1, 0.93f, 0.65f};
  scene->lamp_x = x;
  scene->lamp_y = ground + 0.04f - height;
}

/* --- Places ----------------------------------------------------------------------------------- */

static void meadow(Scene *scene, Random *random, float ground, bool snow) {
  static const Colour greens[] = {HEX(0x7FC257), HEX(0xA5C94F), HEX(0x5DAA62), HEX(0xD6B45A)};
  Colour grass = snow ? (Colour)HEX(0xEAF1F6) : vary_colour(random, PICK(random, greens));
  Colour far_hill = snow ? (Colour)HEX(0x9DB4CC) : vary_colour(random, PICK(random, greens));
  add_sky(scene, random, ground - 0.2f);
  float y = ground - uniform(random, 0.16f, 0.28f);
  add_ridge(scene, random, y, 0.25f, uniform(random, 0.05f, 0.12f), far_hill);
  Ridge *middle =
      add_ridge(scene, random, ground - 0.06f, 0.55f, 0.05f, colour_mix(far_hill, grass, 0.6f));
  scene->props_behind[1] = scene->prop_count;
  int plants = 2 + (int)random_below(random, 5);
  add_plants(scene, random, middle, plants, 0.28f, snow);
  if (chance(random, 0.4f)) {
    float x = uniform(random, -0.6f, 0.6f);
    Prop *p = add_prop(scene, random, PROP_HOUSE, x, ground + 0.02f, 0.3f, 0.2f, 0.55f);
    p->colours[0] = hazy(scene, vary_colour(random, PICK(random, WALLS)), 0.7f);
    p->colours[1] = hazy(scene, vary_colour(random, PICK(random, ROOFS)), 0.7f);
    p->colours[2] = (Colour)HEX(0x4E6680);
  }
  Ridge *front = add_ridge(scene, random, ground, 1, 0.015f, grass);
  int near_plants = (int)random_below(random, 3);
  add_plants(scene, random, front, near_plants, 0.5f, snow);
  int rocks = (int)random_below(random, 3);
  add_rocks(scene, random, ground, rocks);
}

static void city(Scene *scene, Random *random, float ground) {
  static const Colour pavings[] = {HEX(0xB9B4AC), HEX(0x9AA0AA), HEX(0xC9B79A)};
  add_sky(scene, random, ground - 0.25f);
  Ridge skyline = {.y = ground, .depth = 0.3f}, street = {.y = ground, .depth = 0.7f};
  bool towers = chance(random, 0.6f);
  add_buildings(scene, random, &skyline, true);
  add_ridge(scene, random, ground - 0.02f, 0.5f, 0.03f, PICK(random, LEAVES));
  add_buildings(scene, random, &street, towers);
  Colour paving = vary_colour(random, PICK(random, pavings));
  add_ridge(scene, random, ground, 1, 0, paving);
  float kerb = ground + uniform(random, 0.10f, 0.16f);
  add_post(scene, random, ground);
  Ridge *road = add_ridge(scene, random, kerb, 1, 0, colour_scale(paving, 0.5f));
  road->material.slope_y = -0.3f;
}

static void beach(Scene *scene, Random *random, float ground) {
  add_sky(scene, random, ground - 0.15f);
  if (chance(random, 0.5f)) add_ridge(scene, random, ground - 0.14f, 0.2f, 0.07f, STONES[0]);
  Colour water = vary_colour(random, (Colour)HEX(0x2F9FC4));
  for (int i = 0; i < 2; i++) {
    float y = ground - 0.12f + 0.07f * (float)i, depth = 0.5f + 0.2f * (float)i;
    Ridge *sea = add_ridge(scene, random, y, depth, 0.012f, water);
    sea->drift = uniform(random, 0.1f, 0.3f);
    for (int k = 0; k < 3; k++) sea->frequency[k] *= 4;
    sea->material.slope_y = -1.6f;
    sea->material.ink = 0.5f;
  }
  Ridge *sand =
      add_ridge(scene, random, ground, 1, 0.02f, vary_colour(random, (Colour)HEX(0xF0D58C)));
  int plants = (int)random_below(random, 2), rocks = 1 + (int)random_below(random, 3);
  add_plants(scene, random, sand, plants, 0.55f, false);
  add_rocks(scene, random, ground, rocks);
}

static void room(Scene *scene, Random *random, float ground) {
  static const Colour floors[] = {HEX(0xB07A4A), HEX(0x8C5B3C), HEX(0xC9B8A0), HEX(0x6F7F78)};
  Ridge *wall = add_ridge(scene, random, -3, 1, 0, PICK(random, WALLS));
  wall->material.second = colour_scale(wall->material.colour, 0.88f);
  wall->material.pattern = chance(random, 0.6f) ? PATTERN_STRIPES : PATTERN_PLAIN;
  wall->material.period = uniform(random, 0.12f, 0.4f);
  wall->material.slope_y = uniform(random, -0.08f, -0.02f);
  wall->material.slope_x = uniform(random, -0.2f, 0.2f);
  wall->material.level = 0.6f;
  int pictures = 1 + (int)random_below(random, 3);
  for (int i = 0; i < pictures; i++) {
    float x = -0.6f + 0.6f * (float)i + uniform(random, -0.12f, 0.12f);
    float y = uniform(random, -0.28f, -0.12f), width = uniform(random, 0.16f, 0.34f);
    float height = uniform(random, 0.16f, 0.3f);
    Prop *p = add_prop(scene, random, PROP_PICTURE, x, y, width, height, 1);
    p->colours[0] = vary_colour(random, PICK(random, CLOTHES));
    p->colours[1] = vary_colour(random, PICK(random, ROOFS));
    p->colours[2] = vary_colour(random, PICK(random, LEAVES));
  }
  Ridge *floor = add_ridge(scene, random, ground, 1, 0, vary_colour(random, PICK(random, floors)));
  floor->material.slope_y = 0.5f;
  if (chance(random, 0.6f)) add_post(scene, random, ground);
}

/* --- Figures ---------------------------------------------------------------------------------- */

static void choose_colours(Figure *f, Random *random) {
  for (int i = 0; i < 5; i++) f->colours[i] = vary_colour(random, PICK(random, CLOTHES));
  if (f->kind == FIGURE_PERSON) {
    f->colours[0] = vary_colour(random, PICK(random, SKINS));
    f->colours[3] = vary_colour(random, PICK(random, HAIRS));
    f->pattern = chance(random, 0.4f) ? PATTERN_STRIPES : PATTERN_PLAIN;
  } else if (f->kind == FIGURE_ANIMAL) {
    f->colours[0] = vary_colour(random, PICK(random, FURS));
    f->colours[1] = vary_colour(random, PICK(random, FURS));
  }
}

static void add_figure(Scene *scene, Random *random, FigureKind kind, float ground) {
  static const struct {
    float small, large, slow, fast, gait_slow, gait_fast;
  } kinds[FIGURE_KINDS] = {
      [FIGURE_PERSON] = {0.42f, 0.78f, 0.12f, 0.55f, 1.0f, 2.2f},
      [FIGURE_ANIMAL] = {0.24f, 0.44f, 0.15f, 0.6f, 1.2f, 2.6f},
      [FIGURE_CAR] = {0.20f, 0.34f, 0.3f, 1.0f, 1.0f, 2.0f},
      [FIGURE_BALL] = {0.10f, 0.24f, 0.15f, 0.7f, 0.8f, 1.8f},
      [FIGURE_BIRD] = {0.10f, 0.20f, 0.2f, 0.6f, 1.5f, 3.0f},
  };
  Figure *f = &scene->figures[scene->figure_count++];
  *f = (Figure){.kind = kind};
  f->x = uniform(random, -0.42f, 0.42f);
  f->y = kind == FIGURE_BIRD ? uniform(random, -0.4f, ground - 0.2f)
                             : uniform(random, ground + 0.06f, 0.46f);
  f->size = uniform(random, kinds[kind].small, kinds[kind].large);
  f->speed = uniform(random, kinds[kind].slow, kinds[kind].fast);
  if (chance(random, 0.5f)) f->speed = -f->speed;
  f->rate = uniform(random, kinds[kind].gait_slow, kinds[kind].gait_fast);
  f->phase = uniform(random, 0, 1);
  f->vigour = uniform(random, 0.6f, 1.4f);
  f->build = uniform(random, 0, 1);
  f->style = (int)random_below(random, 16);
  f->seed = random_u32(random);
  choose_colours(f, random);
}

/* Adds one to four figures, of kinds that are likely at the place, and sorts the farthest first. */
static void add_figures(Scene *scene, Random *random, Place where, float ground) {
  static const uint8_t weights[PLACES][FIGURE_KINDS] = {
      [PLACE_MEADOW] = {4, 4, 1, 2, 2}, [PLACE_CITY] = {4, 1, 5, 1, 1},
      [PLACE_BEACH] = {5, 2, 0, 4, 3},  [PLACE_ROOM] = {6, 3, 0, 3, 0},
      [PLACE_SNOW] = {4, 3, 2, 1, 1},
  };
  int count = 1 + (int)random_below(random, 4), total = 0;
  for (int k = 0; k < FIGURE_KINDS; k++) total += weights[where][k];
  for (int i = 0; i < count; i++) {
    int kind = 0, at = (int)random_below(random, (uint64_t)total);
    while (at >= weights[where][kind]) at -= weights[where][kind++];
    add_figure(scene, random, (FigureKind)kind, ground);
  }
  for (int i = 1; i < scene->figure_count; i++) {
    Figure moved = scene->figures[i];
    int k = i;
    for (; k > 0 && scene->figures[k - 1].y > moved.y; k--)
      scene->figures[k] = scene->figures[k - 1];
    scene->figures[k] = moved;
  }
}

/* --- Camera, light, lens ---------------------------------------------------------------------- */

static void set_camera(Scene *scene, Random *random) {
  Camera *c = &scene->camera;
  c->x = uniform(random, -0.15f, 0.15f);
  c->y = uniform(random, -0.03f, 0.03f);
  c->zoom = uniform(random, 0.95f, 1.35f);
  c->pan_x = uniform(random, -0.35f, 0.35f);
  c->pan_y = uniform(random, -0.06f, 0.06f);
  c->zooming = uniform(random, -0.15f, 0.2f);
  if (chance(random, 0.25f)) c->pan_x = c->pan_y = c->zooming = 0;
  c->shake = uniform(random, 0, 0.008f);
  c->shake_rate = uniform(random, 1, 3);
  c->phase = uniform(random, 0, 1);
}

static void set_light(Scene *scene, Random *random, const Mood *mood) {
  scene->light_turn = uniform(random, -0.16f, 0.16f);
  scene->light_height = uniform(random, 0.55f, 0.9f);
  scene->light_drift = uniform(random, -0.05f, 0.05f);
  scene->lamp_strength = mood->lamp;
  scene->lamp_x = uniform(random, -0.5f, 0.5f);
  scene->lamp_y = uniform(random, -0.1f, 0.3f);
  scene->lamp_radius = uniform(random, 0.4f, 0.7f);
  scene->lamp_speed = chance(random, 0.4f) ? uniform(random, -0.4f, 0.4f) : 0;
}

static void set_lens(Scene *scene, Random *random) {
  Lens *l = &scene->lens;
  l->exposure = uniform(random, 0.96f, 1.04f);
  l->balance.r = uniform(random, 0.97f, 1.04f);
  l->balance.g = uniform(random, 0.99f, 1.01f);
  l->balance.b = uniform(random, 0.96f, 1.03f);
  l->vignette = uniform(random, 0.05f, 0.22f);
  l->defocus = uniform(random, 0.05f, 0.6f);
  l->noise = uniform(random, 0.006f, 0.024f);
}

void scene_generate(uint64_t seed, int64_t clip, Scene *out) {
  Random random = random_stream(seed, RANDOM_SYNTH, (uint64_t)clip, 0);
  *out = (Scene){.seed = seed, .clip = clip, .props_behind = {SCENE_PROPS}};
  const Mood *mood = &PICK(&random, MOODS);
  Place where = (Place)random_below(&random, PLACES);
  float ground = uniform(&random, 0.10f, 0.22f);
  out->sky_top = vary_colour(&random, mood->sky_top);
  out->sky_bottom = vary_colour(&random, mood->sky_bottom);
  out->grade = mood->grade;
  out->horizon = ground;
  set_light(out, &random, mood);
  switch (where) {
  case PLACE_CITY:
    city(out, &random, ground);
    break;
  case PLACE_BEACH:
    beach(out, &random, ground);
    break;
  case PLACE_ROOM:
    room(out, &random, ground);
    break;
  case PLACE_MEADOW:
  case PLACE_SNOW:
  default:
    meadow(out, &random, ground, where == PLACE_SNOW);
    break;
  }
  add_figures(out, &random, where, ground);
  set_camera(out, &random);
  set_lens(out, &random);
}
