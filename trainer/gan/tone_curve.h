/* A learned tone curve: the shading in steps of a cartoon. */
#ifndef CELFORGE_TRAINER_GAN_TONE_CURVE_H
#define CELFORGE_TRAINER_GAN_TONE_CURVE_H

#include "trainer/gan/layers.h"

/* Adds to each pixel of `frames` [N,T,H,W,3] a colour that depends on its luma
 * Y = 0.299 R + 0.587 G + 0.114 B alone:
 *
 *   frames + bias + sum over i < count of weight_i tanh(count / 2 (Y - knots_i))
 *
 * in the scope "tones", with the parameters "knots" [count], evenly spaced from -1 to 1 at first,
 * "weight" [3,1,1,1,count], at first near 0, and "bias" [3]. The terms are steps about as wide as
 * the distance of two knots. Where their sum falls as fast as Y rises, luma is the same for all
 * inputs between two steps: noise and texture vanish, which a chain of ReLU layers learns slowly,
 * since it needs a sawtooth of Y (Tancik et al. 2020, "Fourier Features Let Networks Learn High
 * Frequency Functions in Low Dimensional Domains"). Curves that are learned with the network:
 * Gharbi et al. 2017, "Deep Bilateral Learning for Real-Time Image Enhancement", section 3.4. */
Value tone_curve(Net *net, Value frames, int64_t count);

#endif
