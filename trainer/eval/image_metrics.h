/* How good frames are (docs/scores.md). Frames are u8 RGB [H,W,3]; all scores but the warp error
 * are of luma, Y = 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601, full range), in double. */
#ifndef CELFORGE_TRAINER_EVAL_IMAGE_METRICS_H
#define CELFORGE_TRAINER_EVAL_IMAGE_METRICS_H

#include <stdint.h>

/* Mean squared error of luma; PSNR is 10 log10(255^2 / mse) of the mean over what is scored. */
double quality_luma_mse(const uint8_t *a, const uint8_t *b, int64_t pixels);
double quality_psnr(double mse); /* 100 where mse is 0 */
/* SSIM with an 11 x 11 Gaussian window of deviation 1.5, K1 0.01, K2 0.03, mean over the valid
 * windows (Wang, Bovik, Sheikh, Simoncelli 2004); pictures smaller than the window use the whole
 * picture. */
double quality_ssim(const uint8_t *a, const uint8_t *b, int height, int width);
/* mean |(a_t - a_{t-1}) - (b_t - b_{t-1})| of luma, in grey levels. */
double quality_temporal(const uint8_t *a_before, const uint8_t *a, const uint8_t *b_before,
                        const uint8_t *b, int64_t pixels);

/* --- Of motion: flows are f32 [H,W,2], as flow_between gives them (trainer/eval/optical_flow.h)
 * --------------
 */

/* Luma in whole grey levels, [H,W], exactly as OpenCV's cvtColor(RGB2GRAY) rounds it: what flows
 * are computed from. */
void quality_grey(const uint8_t *rgb, int64_t pixels, uint8_t *grey);
/* mean |a - b|, in pixels; over time it is tOF (Chu, Xie, Mayer, Leal-Taixe, Thuerey 2020). */
double quality_flow_error(const float *a, const float *b, int64_t pixels);
/* Where the flow from one frame to the next can be trusted (Ruder, Dosovitskiy, Brox: "Artistic
 * Style Transfer for Videos", GCPR 2016): visible [H,W] is 1 but for pixels whose forward flow f
 * and the backward flow b at the place it leads to do not cancel,
 * |f + b|^2 > 0.01 (|f|^2 + |b|^2) + 0.5, and for borders of motion,
 * |grad f|^2 > 0.01 |f|^2 + 0.002. Returns how many are. */
int64_t quality_visible(const float *forward, const float *backward, int height, int width,
                        uint8_t *visible);
/* The error of a film's next frame brought back along the forward flow, bilinearly, pixels outside
 * the picture being those at its edge: mean (next(x + f(x)) - frame(x))^2 over the visible pixels
 * and the colours, in [0, 1] (Lai, Huang, Wang, Shechtman, Yumer, Yang: "Learning Blind Video
 * Temporal Consistency", ECCV 2018). 0 where nothing is visible. */
double quality_warp_error(const uint8_t *frame, const uint8_t *next, const float *forward,
                          const uint8_t *visible, int height, int width);

#endif
