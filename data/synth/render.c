/* Renders a posed frame as source and target.
 *
 * Both use the same signed distances, so they agree to a fraction of a pixel. The source has smooth
 * shading, textures and the camera's imperfections. The target is a cartoon: the same shade cut
 * into flat tones at fixed levels, with ink lines along the same borders. Shapes are composited
 * front to back, each pixel until it is opaque. */
#include <math.h>
#include <stddef.h>

#include "data/synth/scene.h"

/* Shades at which the target changes from shadow to plain colour, to light, and to a lamp's glare.
 */
static const float TONE_SHADOW = 0.46f, TONE_LIGHT = 0.86f, TONE_GLARE = 1.12f;
static const Colour INK = {0.075f, 0.06f, 0.10f};
static const float MIN_TRANSMITTANCE = 1.0f / 512; /* less counts as opaque */

/* A shape's surface at one pixel. */
typedef struct Surface {
  float distance; /* pixels, negative inside */
  float nx, ny;   /* gradient of the distance */
  float radius;   /* distance from the edge at which the surface faces the camera */
} Surface;

/* [height,width] each, colours [height,width,3]. A transmittance is the share of light from behind
 * that still passes the shapes composited so far. */
typedef struct Planes {
  float *source, *target, *source_transmittance, *target_transmittance, *blurred;
} Planes;

/* --- Distances -------------------------------------------------------------------------------- */

static Surface capsule(const Primitive *p, float x, float y) {
  float px = x - p->ax, py = y - p->ay, bx = p->bx - p->ax, by = p->by - p->ay;
  float length = bx * bx + by * by;
  float h = length > 0 ? clamp01((px * bx + py * by) / length) : 0;
  float dx = px - bx * h, dy = py - by * h, far = sqrtf(dx * dx + dy * dy);
  float radius = mix(p->ra, p->rb, h), inverse = far > 1e-6f ? 1 / far : 0;
  return (Surface){far - radius, dx * inverse, dy * inverse, radius};
}

static Surface box(const Primitive *p, float x, float y) {
  float px = x - p->ax, py = y - p->ay;
  float u = px * p->cosine + py * p->sine, v = py * p->cosine - px * p->sine;
  float su = u < 0 ? -1 : 1, sv = v < 0 ? -1 : 1;
  float du = fabsf(u) - p->bx + p->ra, dv = fabsf(v) - p->by + p->ra;
  float d, gu, gv;
  if (du > 0 && dv > 0) {
    d = sqrtf(du * du + dv * dv);
    gu = su * du / d, gv = sv * dv / d;
  } else if (du > dv) {
    d = du, gu = su, gv = 0;
  } else {
    d = dv, gu = 0, gv = sv;
  }
  float radius = p->bx < p->by ? p->bx : p->by;
  return (Surface){d - p->ra, gu * p->cosine - gv * p->sine, gu * p->sine + gv * p->cosine, radius};
}

/* Returns the largest of the signed distances to the four edges: exact inside, and outside precise
 * enough for the outline. */
static Surface quad(const Primitive *p, float x, float y) {
  Surface best = {-1e9f, 0, 0, 0};
  for (int i = 0; i < 4; i++) {
    int j = (i + 1) % 4;
    float ex = p->x[j] - p->x[i], ey = p->y[j] - p->y[i], length = sqrtf(ex * ex + ey * ey);
    if (length < 1e-6f) continue; /* two corners coincide: a triangle */
    float nx = ey / length, ny = -ex / length;
    float d = (x - p->x[i]) * nx + (y - p->y[i]) * ny;
    if (d > best.distance) best = (Surface){d, nx, ny, 0};
  }
  float w = fabsf(p->x[1] - p->x[3]), h = fabsf(p->y[1] - p->y[3]);
  best.radius = 0.35f * (w < h ? w : h) + 1;
  return best;
}

static Surface ridge(const Primitive *p, float x, float y) {
  float line = p->ay, slope = 0;
  for (int i = 0; i < 3; i++) {
    float turns = p->phase[i] + p->frequency[i] * x;
    line -= p->height[i] * synth_sine(turns);
    slope -= p->height[i] * p->frequency[i] * 6.2831853f * synth_cosine(turns);
  }
  float steepness = 1 / sqrtf(1 + slope * slope);
  return (Surface){(line - y) * steepness, slope * steepness, -steepness, 1e4f};
}

static Surface primitive_surface(const Primitive *p, float x, float y) {
  switch (p->kind) {
  case PRIMITIVE_BOX:
    return box(p, x, y);
  case PRIMITIVE_QUAD:
    return quad(p, x, y);
  case PRIMITIVE_RIDGE:
    return ridge(p, x, y);
  case PRIMITIVE_CAPSULE:
  default:
    return capsule(p, x, y);
  }
}

/* Returns the union of a shape's primitives, blended into each other within `blend` pixels. */
static Surface shape_surface(const Shape *shape, float x, float y) {
  Surface all = primitive_surface(&shape->primitives[0], x, y);
  for (int i = 1; i < shape->count; i++) {
    Surface one = primitive_surface(&shape->primitives[i], x, y);
    if (shape->blend <= 0) {
      if (one.distance < all.distance) all = one;
      continue;
    }
    float h = clamp01(0.5f + 0.5f * (one.distance - all.distance) / shape->blend);
    all = (Surface){
        mix(one.distance, all.distance, h) - shape->blend * h * (1 - h),
        mix(one.nx, all.nx, h),
        mix(one.ny, all.ny, h),
        mix(one.radius, all.radius, h),
    };
  }
  return all;
}

/* --- Textures and patterns -------------------------------------------------------------------- */

static float hash01(int32_t x, int32_t y, uint32_t seed) {
  uint32_t h = (uint32_t)x * 0x9E3779B1u ^ (uint32_t)y * 0x85EBCA77u ^ seed;
  h = (h ^ h >> 15) * 0x2C1B3C6Du;
  h = (h ^ h >> 12) * 0x297A2D39u;
  return (float)((h ^ h >> 15) >> 8) * 0x1p-24f;
}

/* Value noise on the unit lattice, 0 to 1. */
static float lattice_noise(float x, float y, uint32_t seed) {
  float fx = floorf(x), fy = floorf(y);
  int32_t ix = (int32_t)fx, iy = (int32_t)fy;
  float u = x - fx, v = y - fy;
  u = u * u * (3 - 2 * u), v = v * v * (3 - 2 * v);
  return mix(mix(hash01(ix, iy, seed), hash01(ix + 1, iy, seed), u),
             mix(hash01(ix, iy + 1, seed), hash01(ix + 1, iy + 1, seed), u), v);
}

static float texture(float x, float y, uint32_t seed) {
  return 0.65f * lattice_noise(x, y, seed) + 0.35f * lattice_noise(2.3f * x, 2.3f * y, seed + 1);
}

/* Returns the signed distance, in periods, to the border of the nearest stripe; > 0 inside. */
static float stripe(float x) {
  return 0.25f - fabsf(x - floorf(x) - 0.5f);
}

/* Returns the share of the second colour at a point; u, v in periods, `pixels` per period. */
static float pattern_share(Pattern pattern, float u, float v, float pixels) {
  float inside;
  if (pattern == PATTERN_PLAIN) return 0;
  inside = stripe(u);
  if (pattern == PATTERN_WINDOWS) {
    float other = stripe(0.7f * v);
    if (other < inside) inside = other;
  }
  return clamp01(0.5f + inside * pixels);
}

/* --- Paint ------------------------------------------------------------------------------------ */

/* The source's version of a target colour: paler and darker. */
static Colour source_colour(Colour c) {
  float grey = colour_luma(c);
  return (Colour){0.05f + 0.76f * mix(grey, c.r, 0.7f), 0.05f + 0.74f * mix(grey, c.g, 0.7f),
                  0.055f + 0.71f * mix(grey, c.b, 0.7f)};
}

/* Returns 1 if `shade` is above `level`, 0 if below, antialiased over the change per pixel. */
static float step_at(float shade, float level, float change) {
  return clamp01(0.5f + (shade - level) / change);
}

static Colour target_tone(Colour paint, Colour grade, float shade, float change) {
  Colour base = colour_times(paint, grade);
  Colour dark = {base.r * 0.56f, base.g * 0.55f, base.b * 0.64f + 0.02f};
  Colour light = {base.r * 0.94f + 0.10f, base.g * 0.94f + 0.10f, base.b * 0.94f + 0.08f};
  Colour glare = colour_mix(paint, (Colour){1, 0.95f, 0.75f}, 0.35f);
  Colour tone = colour_mix(dark, base, step_at(shade, TONE_SHADOW, change));
  tone = colour_mix(tone, light, step_at(shade, TONE_LIGHT, change));
  return colour_mix(tone, glare, step_at(shade, TONE_GLARE, change));
}

static Colour source_tone(Colour paint, Colour grade, float shade, float grain) {
  Colour c = colour_times(source_colour(paint), grade);
  float glint = shade > 0.9f ? (shade - 0.9f) * 0.5f : 0;
  c = colour_scale(c, (0.28f + 0.92f * shade) * (1 + grain));
  return (Colour){c.r + glint, c.g + glint, c.b + 0.9f * glint};
}

/* Returns the light at a point of a shape: about 0 to 1, more under a lamp. */
static float shade_at(const Frame *frame, const Shape *shape, Surface s, float x, float y) {
  const Material *m = &shape->material;
  float shade = 0;
  if (m->roundness > 0) {
    float rim = 1 - clamp01(-s.distance / (s.radius + 0.01f)), nz = 1 - rim * rim;
    nz = sqrtf(nz > 0 ? nz : 0);
    float facing =
        s.nx * rim * frame->light[0] + s.ny * rim * frame->light[1] + nz * frame->light[2];
    shade = m->roundness * (0.5f + 0.5f * facing);
  }
  float dx = (x - shape->ox) / shape->scale, dy = (y - shape->oy) / shape->scale;
  shade += (1 - m->roundness) * (m->level + m->slope_x * dx + m->slope_y * dy);
  shade = clamp01(shade);
  float lx = x - frame->lamp_x, ly = y - frame->lamp_y;
  float pool = 1 - (lx * lx + ly * ly) / (frame->lamp_radius * frame->lamp_radius);
  return pool > 0 ? shade + frame->lamp_strength * pool * pool : shade;
}

/* Returns the change of shade per pixel, which antialiases the borders between tones. */
static float shade_change(const Shape *shape, Surface s) {
  const Material *m = &shape->material;
  float slope = sqrtf(m->slope_x * m->slope_x + m->slope_y * m->slope_y) / shape->scale;
  return m->roundness * 0.8f / (s.radius + 0.5f) + (1 - m->roundness) * slope + 0.004f;
}

/* Composites a colour of opacity `amount` behind the shapes so far. */
static void composite(float *picture, float *transmittance, Colour c, float amount) {
  float share = *transmittance * amount;
  picture[0] += share * c.r;
  picture[1] += share * c.g;
  picture[2] += share * c.b;
  *transmittance -= share;
}

static void paint_shadow(Surface s, float *source_transmittance, float *target_transmittance) {
  float soft = s.radius * 0.8f + 1;
  *source_transmittance *= 1 - 0.5f * clamp01(0.5f - s.distance / soft);
  *target_transmittance *= 1 - 0.42f * clamp01(0.5f - s.distance);
}

static void paint_pixel(const Frame *frame, const Shape *shape, float x, float y, float *source,
                        float *source_transmittance, float *target, float *target_transmittance) {
  const Material *m = &shape->material;
  Surface s = shape_surface(shape, x, y);
  float ink = frame->ink * m->ink;
  if (shape->shadow) {
    paint_shadow(s, source_transmittance, target_transmittance);
    return;
  }
  float soft = 2.2f * ink + 0.6f;
  if (s.distance > soft) return;
  if (ink > 0) {
    composite(target, target_transmittance, INK, 0.92f * clamp01(ink + 0.5f - fabsf(s.distance)));
    *source_transmittance *=
        1 - 0.38f * clamp01(1 - fabsf(s.distance) / soft); /* creases are darker */
  }
  float cover = clamp01(0.5f - s.distance);
  if (cover <= 0) return;
  float dx = (x - shape->ox) / shape->scale, dy = (y - shape->oy) / shape->scale;
  float u = dx * shape->ux + dy * shape->uy, v = dy * shape->ux - dx * shape->uy;
  float share = pattern_share(m->pattern, u / m->period, v / m->period, m->period * shape->scale);
  Colour paint = colour_mix(m->colour, m->second, share);
  float shade = shade_at(frame, shape, s, x, y), change = shade_change(shape, s);
  float grain = m->grain * (2 * texture(u / m->grain_size, v / m->grain_size, shape->seed) - 1);
  composite(source, source_transmittance, source_tone(paint, frame->grade, shade, grain), cover);
  Colour tone = target_tone(paint, frame->grade, shade, change);
  float border = clamp01(0.8f - fabsf(shade - TONE_SHADOW) / change);
  if (m->ink > 0) tone = colour_mix(tone, colour_mix(INK, tone, 0.35f), 0.6f * border);
  composite(target, target_transmittance, tone, cover);
}

static void paint_shape(const Frame *frame, const Shape *shape, const Planes *planes) {
  int x0 = shape->x0 > 0 ? (int)shape->x0 : 0, y0 = shape->y0 > 0 ? (int)shape->y0 : 0;
  int x1 = shape->x1 < (float)frame->width ? (int)shape->x1 + 1 : frame->width;
  int y1 = shape->y1 < (float)frame->height ? (int)shape->y1 + 1 : frame->height;
  if (x1 > frame->width) x1 = frame->width;
  if (y1 > frame->height) y1 = frame->height;
  for (int y = y0; y < y1; y++)
    for (int x = x0; x < x1; x++) {
      ptrdiff_t at = (ptrdiff_t)y * frame->width + x;
      if (planes->source_transmittance[at] < MIN_TRANSMITTANCE &&
          planes->target_transmittance[at] < MIN_TRANSMITTANCE)
        continue;
      paint_pixel(frame, shape, (float)x + 0.5f, (float)y + 0.5f, planes->source + 3 * at,
                  planes->source_transmittance + at, planes->target + 3 * at,
                  planes->target_transmittance + at);
    }
}

/* Paints the sky: a smooth gradient in the source, four bands in the target. */
static void paint_sky(const Frame *frame, uint32_t seed, const Planes *planes) {
  for (int y = 0; y < frame->height; y++) {
    float v = clamp01(((float)y + 0.5f) / (frame->horizon > 1 ? frame->horizon : 1));
    float band = v * 4, whole = floorf(band), change = 4 / (float)frame->height;
    float step = whole - 1 + step_at(band - whole, 0, change) + step_at(band - whole, 1, change);
    Colour target = colour_mix(frame->sky_top, frame->sky_bottom, clamp01((step + 0.5f) / 4));
    Colour source = source_colour(colour_mix(frame->sky_top, frame->sky_bottom, v));
    for (int x = 0; x < frame->width; x++) {
      ptrdiff_t at = (ptrdiff_t)y * frame->width + x;
      if (planes->source_transmittance[at] < MIN_TRANSMITTANCE &&
          planes->target_transmittance[at] < MIN_TRANSMITTANCE)
        continue;
      float scale = 5 / (float)frame->height;
      float veil = texture((float)x * scale, (float)y * 2 * scale, seed) - 0.5f;
      composite(planes->source + 3 * at, planes->source_transmittance + at,
                colour_scale(source, 1.1f + 0.14f * veil), 1);
      composite(planes->target + 3 * at, planes->target_transmittance + at, target, 1);
    }
  }
}

/* --- The camera ------------------------------------------------------------------------------- */

/* Filters with (d/4, 1 - d/2, d/4) along `stride`, repeating the border. */
static void blur_line(const float *from, float *to, int length, ptrdiff_t stride, float defocus) {
  float side = defocus / 4, middle = 1 - defocus / 2;
  for (int i = 0; i < length; i++) {
    const float *at = from + i * stride;
    const float *before = i > 0 ? at - stride : at, *after = i + 1 < length ? at + stride : at;
    for (int c = 0; c < 3; c++) to[i * stride + c] = side * (before[c] + after[c]) + middle * at[c];
  }
}

static void defocus(const Planes *planes, int width, int height, float amount) {
  for (int y = 0; y < height; y++) {
    ptrdiff_t row = (ptrdiff_t)y * width * 3;
    blur_line(planes->source + row, planes->blurred + row, width, 3, amount);
  }
  for (int x = 0; x < width; x++)
    blur_line(planes->blurred + 3 * x, planes->source + 3 * x, height, 3 * (ptrdiff_t)width,
              amount);
}

static uint8_t to_byte(float value) {
  return (uint8_t)(clamp01(value) * 255 + 0.5f);
}

/* Approximates a standard normal number by the sum of five bytes (mean 637.5, deviation 165.2). */
static float normal_noise(const uint32_t block[4], int channel) {
  uint32_t sum = 0;
  for (int i = 5 * channel; i < 5 * channel + 5; i++) sum += block[i / 4] >> (i % 4 * 8) & 255;
  return ((float)sum - 637.5f) / 165.2f;
}

/* Applies exposure, colour balance, vignette and sensor noise. */
static void expose(const Frame *frame, const Lens *lens, Random noise, const float *source,
                   uint8_t *out) {
  float across = 2 / (float)frame->width, down = 2 / (float)frame->height;
  const float balance[3] = {lens->balance.r, lens->balance.g, lens->balance.b};
  for (int y = 0; y < frame->height; y++)
    for (int x = 0; x < frame->width; x++) {
      ptrdiff_t at = (ptrdiff_t)y * frame->width + x;
      float u = ((float)x + 0.5f) * across - 1, v = ((float)y + 0.5f) * down - 1;
      float fall = lens->exposure * (1 - lens->vignette * (u * u + v * v) * 0.5f);
      uint32_t block[4];
      noise.counter[0] = (uint32_t)at;
      philox4x32(noise.counter, noise.key, block);
      for (int c = 0; c < 3; c++) {
        float value = source[3 * at + c] * fall * balance[c];
        float deviation = lens->noise * sqrtf(0.25f + (value > 0 ? value : 0));
        out[3 * at + c] = to_byte(value + deviation * normal_noise(block, c));
      }
    }
}

void frame_render(const Frame *frame, const Scene *scene, int index, float *scratch,
                  uint8_t *source, uint8_t *target) {
  ptrdiff_t pixels = (ptrdiff_t)frame->width * frame->height;
  const Planes planes = {scratch, scratch + 3 * pixels, scratch + 6 * pixels, scratch + 7 * pixels,
                         scratch + 8 * pixels};
  for (ptrdiff_t i = 0; i < 6 * pixels; i++) scratch[i] = 0;
  for (ptrdiff_t i = 6 * pixels; i < 8 * pixels; i++) scratch[i] = 1;
  for (int i = frame->count - 1; i >= 0; i--) paint_shape(frame, &frame->shapes[i], &planes);
  paint_sky(frame, (uint32_t)(scene->seed * 31 + (uint64_t)scene->clip), &planes);
  defocus(&planes, frame->width, frame->height, scene->lens.defocus);
  Random noise =
      random_stream(scene->seed, RANDOM_SYNTH, (uint64_t)scene->clip, 1 + (uint32_t)index);
  expose(frame, &scene->lens, noise, planes.source, source);
  for (ptrdiff_t i = 0; i < 3 * pixels; i++) target[i] = to_byte(planes.target[i]);
}
