/* Shared by optical_flow.c, flow_solver.c and polynomial_expansion.c. */
#ifndef CELFORGE_DATA_FLOW_OPTICAL_FLOW_INTERNAL_H
#define CELFORGE_DATA_FLOW_OPTICAL_FLOW_INTERNAL_H

#include "data/flow/optical_flow.h"

enum {
  HALVINGS = 3,
  FIT_RADIUS = 5,
  MAX_SMOOTH_RADIUS = 9, /* of the coarsest level */
  WINDOW_RADIUS = 7,     /* of the average over normal equations */
  BAND_ROWS = 32,        /* rows that a thread computes at a time */
};

/* f(p + d) is about c + x dx + y dy + xx dx^2 + yy dy^2 + xy dx dy. */
typedef struct Quadratic {
  float x, y, xx, yy, xy;
} Quadratic;

/* The normal equations [xx xy; xy yy] d = [x; y] for the displacement d of a pixel. */
typedef struct Equations {
  float xx, xy, yy, x, y;
} Equations;
enum { EQUATION_VALUES = sizeof(Equations) / sizeof(float) };

typedef struct Level {
  int height, width;
  int smooth_radius;
  float smooth[MAX_SMOOTH_RADIUS + 1]; /* Gaussian weights from the centre outwards */
} Level;

struct Flow {
  int threads, levels;
  Level level[HALVINGS + 1];     /* 0: full resolution */
  float fit[FIT_RADIUS + 1];     /* Gaussian weights from the centre outwards */
  double fit_second, fit_fourth; /* the Gaussian's moments */
  float *smoothed_rows;          /* image smoothed along its rows */
  float *smoothed, *resampled;   /* images of full resolution */
  float *fit_rows;               /* per band: three rows of sums, padded by FIT_RADIUS */
  double *window_sums;           /* per band: a row of sums of Equations, padded */
  Equations *equations;          /* one per pixel */
  float *coarse, *fine;          /* flows of two levels */
};

struct FlowPyramid {
  int levels;
  Quadratic *level[HALVINGS + 1];
};

static inline int flow_clamp(int i, int size) {
  return i < 0 ? 0 : i >= size ? size - 1 : i;
}

/* Resamples bilinearly with half-pixel centres and multiplies by `scale`. */
void flow_resample(const float *from, const Level *from_level, float *to, const Level *to_level,
                   int channels, float scale);

/* Refines `displacement` [height,width,2] on one level by iterating the normal equations. */
void flow_refine(const Flow *flow, const Level *level, const Quadratic *a, const Quadratic *b,
                 float *displacement);

#endif
