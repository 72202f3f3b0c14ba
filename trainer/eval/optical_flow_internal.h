/* Shared by the files of the optical flow: flow.c, flow_expand.c. */
#ifndef CELFORGE_TRAINER_EVAL_OPTICAL_FLOW_INTERNAL_H
#define CELFORGE_TRAINER_EVAL_OPTICAL_FLOW_INTERNAL_H

#include "trainer/eval/optical_flow.h"

enum {
  HALVINGS = 3,
  FIT_RADIUS = 5,
  MAX_SMOOTH_RADIUS = 9, /* of the coarsest level */
  BAND = 32,             /* rows that one thread takes at a time */
};

/* f(p + d) is about c + x dx + y dy + xx dx^2 + yy dy^2 + xy dx dy. */
typedef struct Quadratic {
  float x, y, xx, yy, xy;
} Quadratic;

/* [xx xy; xy yy] d = [x; y], for the displacement d of a pixel. */
typedef struct Equations {
  float xx, xy, yy, x, y;
} Equations;

typedef struct Level {
  int height, width;
  int smooth_radius;
  float smooth[MAX_SMOOTH_RADIUS + 1]; /* the weights from the centre on */
} Level;

struct Flow {
  int threads, levels;
  Level level[HALVINGS + 1];          /* 0: the picture itself */
  float fit[FIT_RADIUS + 1];          /* Gaussian weights from the centre on */
  double fit_second, fit_fourth;      /* the Gaussian's moments */
  float *across, *smoothed, *sampled; /* pictures of level 0 */
  float *rows;                        /* of each band: three of sums, padded by FIT_RADIUS */
  double *sums;                       /* of each band: a row of sums of Equations, padded */
  Equations *equations;               /* a picture of them */
  float *coarse, *fine;               /* flows */
};

struct FlowPicture {
  int levels;
  Quadratic *level[HALVINGS + 1];
};

static inline int flow_clamp(int i, int size) {
  return i < 0 ? 0 : i >= size ? size - 1 : i;
}

/* Bilinear, half-pixel centres; values are `scale` times as large. */
void flow_sample(const float *from, const Level *of, float *to, const Level *onto, int channels,
                 float scale);

#endif
