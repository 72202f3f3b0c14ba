/* Image and motion metrics (docs/scores.md). Frames are u8 RGB [H,W,3]. All metrics but the warp
 * error are computed on luma, Y = 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601, full range), in
 * double precision. */
#ifndef CELFORGE_TRAINER_EVAL_IMAGE_METRICS_H
#define CELFORGE_TRAINER_EVAL_IMAGE_METRICS_H

#include <stdint.h>

/* Returns the mean squared error of luma. */
double image_metrics_luma_mse(const uint8_t *a, const uint8_t *b, int64_t pixels);
/* Returns 10 log10(255^2 / mse) in dB, 100 where `mse` is 0. */
double image_metrics_psnr(double mse);
/* Returns SSIM (Wang, Bovik, Sheikh, Simoncelli 2004): 11 x 11 Gaussian window of standard
 * deviation 1.5, K1 0.01, K2 0.03, averaged over the valid windows. A frame smaller than the window
 * uses a window of its own size. */
double image_metrics_ssim(const uint8_t *a, const uint8_t *b, int height, int width);
/* Returns mean |(a_t - a_{t-1}) - (b_t - b_{t-1})| of luma, in grey levels. */
double image_metrics_temporal_error(const uint8_t *a_before, const uint8_t *a,
                                    const uint8_t *b_before, const uint8_t *b, int64_t pixels);

/* --- Motion: flows are f32 [H,W,2], from flow_between (trainer/eval/optical_flow.h) ----------- */

/* Converts RGB to luma in whole grey levels [H,W], rounded exactly like OpenCV's
 * cvtColor(RGB2GRAY): the input of the optical flow. */
void image_metrics_grey(const uint8_t *rgb, int64_t pixels, uint8_t *grey);
/* Returns the mean endpoint error |a - b| of two flows, in pixels; averaged over time it is tOF
 * (Chu, Xie, Mayer, Leal-Taixe, Thuerey 2020). */
double image_metrics_endpoint_error(const float *a, const float *b, int64_t pixels);
/* Computes the mask of pixels with a reliable flow (Ruder, Dosovitskiy, Brox: "Artistic Style
 * Transfer for Videos", GCPR 2016): `visible` [H,W] is 0 for disocclusions, where forward flow f
 * and backward flow b at its endpoint do not cancel, |f + b|^2 > 0.01 (|f|^2 + |b|^2) + 0.5, and
 * for motion boundaries, |grad f|^2 > 0.01 |f|^2 + 0.002; else 1. Returns the number of ones. */
int64_t image_metrics_visibility(const float *forward, const float *backward, int height, int width,
                                 uint8_t *visible);
/* Returns the warp error (Lai, Huang, Wang, Shechtman, Yumer, Yang: "Learning Blind Video Temporal
 * Consistency", ECCV 2018): mean (next(x + f(x)) - frame(x))^2 over visible pixels and colours,
 * in [0, 1], with bilinear sampling clamped to the frame's edge. 0 where nothing is visible. */
double image_metrics_warp_error(const uint8_t *frame, const uint8_t *next, const float *forward,
                                const uint8_t *visible, int height, int width);

#endif
