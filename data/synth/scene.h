/* The rendered scenes behind synth_clip: what a scene is, how it is posed at a moment, how a posed
 * frame becomes film and cel. Internal to data/synth*.c.
 *
 * A scene is drawn once from (seed, clip) and knows nothing of sizes or frame counts, so the same
 * clip at another size shows the same picture and a longer clip goes on where the shorter one ends.
 * World units are frame heights, y down, the origin in the middle of an unmoved camera.
 *
 * Nothing here calls libm but sqrtf, floorf and fabsf, which are exact, and products and sums are
 * not contracted: the bytes do not depend on compiler, processor or library version. */
#ifndef CELFORGE_DATA_SYNTH_SCENE_H
#define CELFORGE_DATA_SYNTH_SCENE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/random.h"

#ifdef __clang__ /* gcc in ISO mode does not contract */
#pragma STDC FP_CONTRACT OFF
#endif

typedef struct Colour {
  float r, g, b; /* 0 to 1 */
} Colour;

/* --- A posed frame: shapes in pixels, back to front ------------------------------------------- */
enum { SHAPE_PRIMITIVES = 8, FRAME_SHAPES = 256 };

typedef enum PrimitiveKind {
  PRIMITIVE_CAPSULE, /* a round-ended limb from (ax,ay) to (bx,by), radii ra and rb */
  PRIMITIVE_BOX,     /* centre (ax,ay), half size (bx,by), corner radius ra, turned */
  PRIMITIVE_QUAD,    /* four corners, clockwise on the screen, convex */
  PRIMITIVE_RIDGE,   /* all below a wavy line: waves of height[], frequency[], phase[] at ay */
} PrimitiveKind;

typedef struct Primitive {
  PrimitiveKind kind;
  float ax, ay, bx, by, ra, rb;
  float cosine, sine;
  float x[4], y[4];                        /* of QUAD */
  float height[3], frequency[3], phase[3]; /* of RIDGE: pixels, turns a pixel, turns */
} Primitive;

typedef enum Pattern { PATTERN_PLAIN, PATTERN_STRIPES, PATTERN_WINDOWS } Pattern;

/* What a thing is made of. `colour` is the cel's paint; film sees a duller, textured one. */
typedef struct Material {
  Colour colour, second; /* `second` fills every other stripe, or the windows */
  Pattern pattern;
  float period;            /* of the pattern, world units */
  float grain, grain_size; /* film only: strength, and size in world units */
  float roundness;         /* 1: lit like a limb, 0: lit like a backdrop */
  float level;             /* of light, at the shape's origin, where it is not round */
  float slope_x, slope_y;  /* change of level per world unit */
  float ink;               /* width of the outline, relative; 0: none */
} Material;

typedef struct Shape {
  Material material;
  Primitive primitives[SHAPE_PRIMITIVES];
  int count;
  bool shadow;          /* darkens what lies behind and has no colour of its own */
  float blend;          /* pixels over which the primitives flow into each other */
  float scale;          /* pixels to a world unit */
  float ox, oy, ux, uy; /* origin and axis of texture and pattern, pixels */
  uint32_t seed;        /* of the texture */
  float x0, y0, x1, y1; /* what it may touch, pixels */
} Shape;

typedef struct Frame {
  int width, height;
  float ink;      /* half the width of a line, pixels */
  float light[3]; /* unit vector towards the light, z towards the camera */
  Colour sky_top, sky_bottom;
  float horizon; /* pixel row where the sky's gradient ends */
  Colour grade;  /* the colour of the light, on film and cel alike */
  float lamp_x, lamp_y, lamp_radius, lamp_strength; /* a pool of light; pixels */
  Shape shapes[FRAME_SHAPES];
  int count;
} Frame;

/* --- A scene ---------------------------------------------------------------------------------- */
typedef enum FigureKind {
  FIGURE_PERSON,
  FIGURE_ANIMAL,
  FIGURE_CAR,
  FIGURE_BALL,
  FIGURE_BIRD,
  FIGURE_KINDS,
} FigureKind;

typedef struct Figure {
  FigureKind kind;
  float x, y, size; /* where it stands at time 0, and its height */
  float speed;      /* world units a second, signed: the way it faces */
  float rate;       /* of its gait, turns a second */
  float phase;      /* turns */
  float vigour;     /* of its movements, about 1 */
  float build;      /* thin 0 to stout 1 */
  int style;        /* which variant */
  Colour colours[5];
  Pattern pattern;
  uint32_t seed;
} Figure;

typedef enum PropKind {
  PROP_TREE,
  PROP_PINE,
  PROP_HOUSE,
  PROP_TOWER,
  PROP_CLOUD,
  PROP_ROCK,
  PROP_POST,
  PROP_PICTURE,
  PROP_SUN,
} PropKind;

typedef struct Prop {
  PropKind kind;
  float x, y, width, height, depth; /* depth: 0 moves with the camera, 1 stands in the world */
  float phase, rate;                /* of its swaying */
  Colour colours[3];
  uint32_t seed;
} Prop;

typedef struct Ridge {
  float y, depth;
  float height[3], frequency[3], phase[3]; /* world units */
  float drift;                             /* world units a second: waves of a sea */
  Material material;
  uint32_t seed;
} Ridge;

typedef struct Camera {
  float x, y, zoom;            /* at time 0 */
  float pan_x, pan_y, zooming; /* a second */
  float shake, shake_rate, phase;
} Camera;

/* What the film camera does to the picture; the cel knows nothing of it. */
typedef struct Lens {
  float exposure;
  Colour balance;
  float vignette; /* darkening in the corners */
  float defocus;  /* 0 to 1: weight of the neighbours */
  float noise;    /* standard deviation, 0 to 1 */
} Lens;

enum { SCENE_PROPS = 28, SCENE_RIDGES = 5, SCENE_FIGURES = 6 };

typedef struct Scene {
  uint64_t seed;
  int64_t clip;
  Colour sky_top, sky_bottom, grade;
  float horizon;
  float light_turn, light_height, light_drift;
  float lamp_x, lamp_y, lamp_radius, lamp_strength, lamp_speed;
  Camera camera;
  Lens lens;
  Ridge ridges[SCENE_RIDGES]; /* far to near */
  int ridge_count;
  Prop props[SCENE_PROPS];
  int prop_count;
  int props_behind[SCENE_RIDGES + 1]; /* how many props stand behind ridge i */
  Figure figures[SCENE_FIGURES];
  int figure_count;
} Scene;

void scene_draw(uint64_t seed, int64_t clip, Scene *out);
/* Where everything is `seconds` after the clip's start. */
void scene_pose(const Scene *scene, float seconds, int width, int height, Frame *out);
/* u8 [height,width,3] both. `scratch` holds RENDER_PLANES * width * height floats. */
enum { RENDER_PLANES = 11 };
void frame_render(const Frame *frame, const Scene *scene, int index, float *scratch, uint8_t *film,
                  uint8_t *cel);

/* --- Posing: a pen that draws in the world units of one depth --------------------------------- */
typedef struct Pen {
  Frame *frame;
  float x, y, scale; /* pixel of the world's origin at this depth; pixels a unit */
} Pen;

/* A new shape in front of all others, its texture and pattern fixed to (x, y). */
Shape *pen_shape(const Pen *pen, const Material *material, float x, float y, uint32_t seed);
void pen_capsule(const Pen *pen, Shape *shape, float ax, float ay, float ra, float bx, float by,
                 float rb);
void pen_circle(const Pen *pen, Shape *shape, float x, float y, float radius);
void pen_box(const Pen *pen, Shape *shape, float x, float y, float half_width, float half_height,
             float corner, float turn);
void pen_quad(const Pen *pen, Shape *shape, const float x[4], const float y[4]);
void pen_ridge(const Pen *pen, Shape *shape, const Ridge *ridge, float shift);
/* A flat shadow on the ground. */
void pen_shadow(const Pen *pen, float x, float y, float half_width);
/* Turns the shape's texture and pattern. */
void pen_turn(Shape *shape, float turn);

void figure_pose(const Pen *pen, const Figure *figure, float seconds);
void prop_pose(const Pen *pen, const Prop *prop, float seconds);

/* --- Arithmetic ------------------------------------------------------------------------------- */
float synth_sine(float turns); /* sin(2 pi turns), within 4e-6 */
static inline float synth_cosine(float turns) {
  return synth_sine(turns + 0.25f);
}
static inline float clamp01(float x) {
  return x < 0 ? 0 : x > 1 ? 1 : x;
}
static inline float mix(float a, float b, float t) {
  return a + (b - a) * t;
}
static inline Colour colour_mix(Colour a, Colour b, float t) {
  return (Colour){mix(a.r, b.r, t), mix(a.g, b.g, t), mix(a.b, b.b, t)};
}
static inline Colour colour_scale(Colour a, float s) {
  return (Colour){a.r * s, a.g * s, a.b * s};
}
static inline Colour colour_times(Colour a, Colour b) {
  return (Colour){a.r * b.r, a.g * b.g, a.b * b.b};
}
static inline float colour_luma(Colour a) {
  return 0.299f * a.r + 0.587f * a.g + 0.114f * a.b;
}

#endif
