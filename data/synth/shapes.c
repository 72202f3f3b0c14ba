/* Adds shapes to a frame, converting world units to pixels. */
#include <math.h>

#include "data/synth/scene.h"

/* A Taylor polynomial on [-1/4, 1/4] turns; other angles are reflected into that range. */
float synth_sine(float turns) {
  float t = turns - floorf(turns + 0.5f); /* [-0.5, 0.5] */
  if (t > 0.25f) t = 0.5f - t;
  if (t < -0.25f) t = -0.5f - t;
  float x = t * 6.28318531f, s = x * x;
  return x * (1 + s * (-1.0f / 6 + s * (1.0f / 120 + s * (-1.0f / 5040 + s * (1.0f / 362880)))));
}

static float pixel_x(const Pen *pen, float x) {
  return pen->x + x * pen->scale;
}
static float pixel_y(const Pen *pen, float y) {
  return pen->y + y * pen->scale;
}

Shape *pen_shape(const Pen *pen, const Material *material, float x, float y, uint32_t seed) {
  Frame *frame = pen->frame;
  /* A full frame would replace its last shape; scenes have far fewer. */
  Shape *shape = &frame->shapes[frame->count < FRAME_SHAPES ? frame->count++ : FRAME_SHAPES - 1];
  *shape = (Shape){
      .material = *material,
      .scale = pen->scale,
      .ox = pixel_x(pen, x),
      .oy = pixel_y(pen, y),
      .ux = 1,
      .seed = seed,
      .x0 = 1e9f,
      .y0 = 1e9f,
      .x1 = -1e9f,
      .y1 = -1e9f,
  };
  return shape;
}

void pen_rotate(Shape *shape, float turn) {
  shape->ux = synth_cosine(turn);
  shape->uy = synth_sine(turn);
}

/* Extends the bounding box by a circle of radius `margin`. */
static void include(Shape *shape, float x, float y, float margin) {
  if (x - margin < shape->x0) shape->x0 = x - margin;
  if (y - margin < shape->y0) shape->y0 = y - margin;
  if (x + margin > shape->x1) shape->x1 = x + margin;
  if (y + margin > shape->y1) shape->y1 = y + margin;
}

static Primitive *add_primitive(Shape *shape, PrimitiveKind kind) {
  int index = shape->count < SHAPE_PRIMITIVES ? shape->count++ : SHAPE_PRIMITIVES - 1;
  shape->primitives[index] = (Primitive){.kind = kind};
  return &shape->primitives[index];
}

/* Pixels beyond its edge that a shape may paint: the outline and its shading, the blending, one
 * pixel. */
static float paint_margin(const Pen *pen, const Shape *shape) {
  return 2.2f * pen->frame->ink * shape->material.ink + shape->blend + 1.5f;
}

void pen_capsule(const Pen *pen, Shape *shape, float ax, float ay, float ra, float bx, float by,
                 float rb) {
  Primitive *p = add_primitive(shape, PRIMITIVE_CAPSULE);
  p->ax = pixel_x(pen, ax), p->ay = pixel_y(pen, ay), p->ra = ra * pen->scale;
  p->bx = pixel_x(pen, bx), p->by = pixel_y(pen, by), p->rb = rb * pen->scale;
  include(shape, p->ax, p->ay, p->ra + paint_margin(pen, shape));
  include(shape, p->bx, p->by, p->rb + paint_margin(pen, shape));
}

void pen_circle(const Pen *pen, Shape *shape, float x, float y, float radius) {
  pen_capsule(pen, shape, x, y, radius, x, y, radius);
}

void pen_box(const Pen *pen, Shape *shape, float x, float y, float half_width, float half_height,
             float corner, float turn) {
  Primitive *p = add_primitive(shape, PRIMITIVE_BOX);
  p->ax = pixel_x(pen, x), p->ay = pixel_y(pen, y);
  p->bx = half_width * pen->scale, p->by = half_height * pen->scale;
  p->ra = corner * pen->scale;
  p->cosine = synth_cosine(turn), p->sine = synth_sine(turn);
  float w = fabsf(p->cosine) * p->bx + fabsf(p->sine) * p->by;
  float h = fabsf(p->sine) * p->bx + fabsf(p->cosine) * p->by;
  include(shape, p->ax - w, p->ay - h, paint_margin(pen, shape));
  include(shape, p->ax + w, p->ay + h, paint_margin(pen, shape));
}

void pen_quad(const Pen *pen, Shape *shape, const float x[4], const float y[4]) {
  Primitive *p = add_primitive(shape, PRIMITIVE_QUAD);
  for (int i = 0; i < 4; i++) {
    p->x[i] = pixel_x(pen, x[i]);
    p->y[i] = pixel_y(pen, y[i]);
    include(shape, p->x[i], p->y[i], paint_margin(pen, shape));
  }
}

void pen_ridge(const Pen *pen, Shape *shape, const Ridge *ridge, float shift) {
  Primitive *p = add_primitive(shape, PRIMITIVE_RIDGE);
  float tallest = 0;
  p->ay = pixel_y(pen, ridge->y);
  for (int i = 0; i < 3; i++) {
    p->height[i] = ridge->height[i] * pen->scale;
    p->frequency[i] = ridge->frequency[i] / pen->scale;
    p->phase[i] = ridge->phase[i] - (pen->x / pen->scale + shift) * ridge->frequency[i];
    tallest += fabsf(p->height[i]);
  }
  include(shape, 0, p->ay - tallest, paint_margin(pen, shape));
  include(shape, (float)pen->frame->width, (float)pen->frame->height, paint_margin(pen, shape));
}

void pen_shadow(const Pen *pen, float x, float y, float half_width) {
  static const Material dark = {.ink = 0};
  Shape *shape = pen_shape(pen, &dark, x, y, 0);
  float r = half_width * 0.22f;
  shape->shadow = true;
  pen_capsule(pen, shape, x - half_width + r, y, r, x + half_width - r, y, r);
}
