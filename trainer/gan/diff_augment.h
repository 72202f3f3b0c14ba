/* DiffAugment (Zhao, Liu, Lin, Zhu, Han 2020, "Differentiable Augmentation for Data-Efficient GAN
 * Training"): random changes of colour, translation and cutout of everything that the
 * discriminators see, through which gradients pass. One draw for all frames of a clip. */
#ifndef CELFORGE_TRAINER_GAN_DIFF_AUGMENT_H
#define CELFORGE_TRAINER_GAN_DIFF_AUGMENT_H

#include "base/random.h"
#include "engine/graph/graph.h"

/* The numbers of one draw, in this order. Frames are in [-1, 1], lengths in pixels. */
enum {
  DRAW_BRIGHTNESS,              /* added */
  DRAW_SATURATION,              /* factor of the distance from the pixel's mean over its channels */
  DRAW_CONTRAST,                /* factor of the distance from the clip's mean */
  DRAW_SHIFT,                   /* dx, dy: whole pixels; zeros move in */
  DRAW_CUT = DRAW_SHIFT + 2,    /* x, y: centre of the rectangle that is set to 0 */
  DRAW_CUT_SIZE = DRAW_CUT + 2, /* half of its width, half of its height; negative: none */
  DRAW_VALUES = DRAW_CUT_SIZE + 2,
};

/* Fills one draw: with `probability` brightness from [-1, 1), saturation from [0, 2), contrast from
 * [0.5, 1.5), a shift of up to an eighth of each side, and a rectangle of half of each side; else
 * the draw that changes nothing. Always takes the same amount of random numbers. (The published
 * brightness of +-0.5 is for frames in [0, 1].) */
void diff_augment_draw(Random *random, double probability, int64_t height, int64_t width,
                       float draw[DRAW_VALUES]);

/* Augments frames [N,T,H,W,3] with `draws` [N,1,1,1,DRAW_VALUES] f32. `columns` [1,1,1,W,1] and
 * `rows` [1,1,H,1,1] f32 hold the pixels' coordinates 0, 1, 2 ... */
Value diff_augment(Graph *graph, Value frames, Value draws, Value columns, Value rows);

#endif
