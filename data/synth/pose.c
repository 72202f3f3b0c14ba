/* Poses a scene at a time: camera, light, and the shapes of all objects. */
#include <math.h>

#include "data/synth/scene.h"

static Pen pen_at(Frame *frame, float x, float y, float zoom, float depth) {
  Pen pen = {.frame = frame};
  pen.scale = (1 + (zoom - 1) * depth) * (float)frame->height;
  pen.x = 0.5f * (float)frame->width - x * depth * pen.scale;
  pen.y = 0.5f * (float)frame->height - y * depth * pen.scale;
  return pen;
}

static void light_frame(const Scene *scene, float seconds, const Pen *pen, Frame *out) {
  float turn = scene->light_turn + scene->light_drift * seconds;
  float flat = scene->light_height, z = sqrtf(1 - flat * flat);
  out->light[0] = flat * synth_sine(turn);
  out->light[1] = -flat * synth_cosine(turn);
  out->light[2] = z;
  out->sky_top = scene->sky_top;
  out->sky_bottom = scene->sky_bottom;
  out->grade = scene->grade;
  out->horizon = pen->y + scene->horizon * pen->scale;
  out->lamp_x = pen->x + (scene->lamp_x + scene->lamp_speed * seconds) * pen->scale;
  out->lamp_y = pen->y + scene->lamp_y * pen->scale;
  out->lamp_radius = scene->lamp_radius * pen->scale;
  out->lamp_strength = scene->lamp_strength;
}

void scene_pose(const Scene *scene, float seconds, int width, int height, Frame *out) {
  const Camera *c = &scene->camera;
  float beat = c->phase + c->shake_rate * seconds;
  float x = c->x + c->pan_x * seconds + c->shake * synth_sine(beat);
  float y = c->y + c->pan_y * seconds + c->shake * synth_sine(1.3f * beat + 0.2f);
  float zoom = c->zoom + c->zooming * seconds;
  zoom = zoom < 0.8f ? 0.8f : zoom > 2 ? 2 : zoom; /* however long the clip */
  out->width = width;
  out->height = height;
  out->ink = 0.20f + 0.0050f * (float)height;
  out->count = 0;
  Pen near_pen = pen_at(out, x, y, zoom, 1);
  light_frame(scene, seconds, &near_pen, out);
  int prop = 0;
  for (int i = 0; i <= scene->ridge_count; i++) {
    for (; prop < scene->prop_count && prop < scene->props_behind[i]; prop++) {
      Pen pen = pen_at(out, x, y, zoom, scene->props[prop].depth);
      prop_pose(&pen, &scene->props[prop], seconds);
    }
    if (i == scene->ridge_count) break;
    const Ridge *r = &scene->ridges[i];
    Pen pen = pen_at(out, x, y, zoom, r->depth);
    Shape *shape = pen_shape(&pen, &r->material, 0, r->y, r->seed);
    pen_ridge(&pen, shape, r, r->drift * seconds);
  }
  for (int i = 0; i < scene->figure_count; i++) figure_pose(&near_pen, &scene->figures[i], seconds);
}
