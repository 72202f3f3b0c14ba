/* Scenes for synth_clip: scene.c generates a scene at random; pose.c poses it at a time, with its
 * objects from figures.c and props.c, which use shapes.c; render.c renders a posed frame as source
 * and target. Internal to data/synth.
 *
 * A scene depends only on (seed, clip), not on frame size or count: the same clip at another size
 * shows the same picture, and a longer clip begins with the shorter one. World units are frame
 * heights, y down, the origin in the middle of an unmoved camera.
 *
 * The bytes do not depend on compiler, processor or library version: of libm only sqrtf, floorf and
 * fabsf are called, which are exact, and products and sums are not contracted. */
#ifndef CELFORGE_DATA_SYNTH_SCENE_H
#define CELFORGE_DATA_SYNTH_SCENE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/random.h"

#ifdef __clang__ /* gcc does not contract in ISO mode */
#pragma STDC FP_CONTRACT OFF
#endif

typedef struct Colour {
  float r, g, b; /* 0 to 1 */
} Colour;

/* --- A posed frame: shapes in pixels, back to front ------------------------------------------- */
enum { SHAPE_PRIMITIVES = 8, FRAME_SHAPES = 256 };

typedef enum PrimitiveKind {
  PRIMITIVE_CAPSULE, /* a round-ended limb from (ax,ay) to (bx,by), radii ra and rb */
  PRIMITIVE_BOX,     /* centre (ax,ay), half size (bx,by), corner radius ra, rotated */
  PRIMITIVE_QUAD,    /* four corners, clockwise on the screen, convex */
  PRIMITIVE_RIDGE,   /* all below a wavy line at ay, the sum of three sine waves */
} PrimitiveKind;

typedef struct Primitive {
  PrimitiveKind kind;
  float ax, ay, bx, by, ra, rb;
  float cosine, sine;
  float x[4], y[4];                        /* of QUAD */
  float height[3], frequency[3], phase[3]; /* of RIDGE: pixels, turns per pixel, turns */
} Primitive;

typedef enum Pattern { PATTERN_PLAIN, PATTERN_STRIPES, PATTERN_WINDOWS } Pattern;

/* The surface of a shape. `colour` is used unchanged in the target; the source has a duller,
 * textured version. */
typedef struct Material {
  Colour colour, second; /* `second`: of every other stripe, or of windows */
  Pattern pattern;
  float period;            /* of the pattern, in world units */
  float grain, grain_size; /* source only: strength, and size in world units */
  float roundness;         /* 1: shaded like a limb, 0: flat like a backdrop */
  float level;             /* light at the shape's origin, for the flat part */
  float slope_x, slope_y;  /* change of level per world unit */
  float ink;               /* width of the outline, relative; 0: none */
} Material;

typedef struct Shape {
  Material material;
  Primitive primitives[SHAPE_PRIMITIVES];
  int count;
  bool shadow;          /* darkens the shapes behind it and has no colour of its own */
  float blend;          /* pixels over which the primitives blend into each other */
  float scale;          /* pixels per world unit */
  float ox, oy, ux, uy; /* origin and axis of texture and pattern, pixels */
  uint32_t seed;        /* of the texture */
  float x0, y0, x1, y1; /* bounding box, pixels */
} Shape;

typedef struct Frame {
  int width, height;
  float ink;      /* half the width of a line, pixels */
  float light[3]; /* unit vector towards the light, z towards the camera */
  Colour sky_top, sky_bottom;
  float horizon;                                    /* pixel row where the sky's gradient ends */
  Colour grade;                                     /* colour of the light, in source and target */
  float lamp_x, lamp_y, lamp_radius, lamp_strength; /* a circle of light; pixels */
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
  float x, y, size; /* position at time 0, and height */
  float speed;      /* world units per second; the sign is the direction it faces */
  float rate;       /* of its gait, turns per second */
  float phase;      /* turns */
  float vigour;     /* amplitude of its movements, about 1 */
  float build;      /* 0 thin, 1 stout */
  int style;        /* variant: the bits choose details */
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
  float x, y, width, height, depth; /* depth: 0 is fixed to the camera, 1 to the world */
  float phase, rate;                /* of its swaying */
  Colour colours[3];
  uint32_t seed;
} Prop;

typedef struct Ridge {
  float y, depth;
  float height[3], frequency[3], phase[3]; /* world units */
  float drift;                             /* world units per second, for the waves of a sea */
  Material material;
  uint32_t seed;
} Ridge;

typedef struct Camera {
  float x, y, zoom;            /* at time 0 */
  float pan_x, pan_y, zooming; /* per second */
  float shake, shake_rate, phase;
} Camera;

/* The camera's imperfections. They apply to the source only. */
typedef struct Lens {
  float exposure;
  Colour balance;
  float vignette; /* darkening in the corners */
  float defocus;  /* 0 to 1: weight of neighbouring pixels */
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
  int props_behind[SCENE_RIDGES + 1]; /* [i]: number of props behind ridge i */
  Figure figures[SCENE_FIGURES];
  int figure_count;
} Scene;

/* Generates the scene of clip `clip` from the seed. */
void scene_generate(uint64_t seed, int64_t clip, Scene *out);
/* Computes the shapes of the frame `seconds` after the clip's start. */
void scene_pose(const Scene *scene, float seconds, int width, int height, Frame *out);
enum { RENDER_PLANES = 11 };
/* Renders frame `index` as source and target, both u8 [height,width,3]. `scratch` holds
 * RENDER_PLANES * width * height floats. */
void frame_render(const Frame *frame, const Scene *scene, int index, float *scratch,
                  uint8_t *source, uint8_t *target);

/* --- Posing: a pen that adds shapes in world units of one depth --------------------------------
 */
typedef struct Pen {
  Frame *frame;
  float x, y, scale; /* pixel of the world's origin at this depth; pixels per unit */
} Pen;

/* Adds an empty shape in front of all others, its texture and pattern fixed to (x, y). */
Shape *pen_shape(const Pen *pen, const Material *material, float x, float y, uint32_t seed);
void pen_capsule(const Pen *pen, Shape *shape, float ax, float ay, float ra, float bx, float by,
                 float rb);
void pen_circle(const Pen *pen, Shape *shape, float x, float y, float radius);
void pen_box(const Pen *pen, Shape *shape, float x, float y, float half_width, float half_height,
             float corner, float turn);
void pen_quad(const Pen *pen, Shape *shape, const float x[4], const float y[4]);
void pen_ridge(const Pen *pen, Shape *shape, const Ridge *ridge, float shift);
/* Adds a flat shadow on the ground. */
void pen_shadow(const Pen *pen, float x, float y, float half_width);
/* Rotates the shape's texture and pattern. */
void pen_rotate(Shape *shape, float turn);

void figure_pose(const Pen *pen, const Figure *figure, float seconds);
void prop_pose(const Pen *pen, const Prop *prop, float seconds);

/* --- Arithmetic ------------------------------------------------------------------------------- */
float synth_sine(float turns); /* sin(2 pi turns), with an error below 4e-6 */
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
