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

/* --- Motion: flows are f32 [H,W,2], from flow_between (data/flow/optical_flow.h) ----------- */

/* Returns the mean endpoint error |a - b| of two flows, in pixels; averaged over time it is tOF
 * (Chu, Xie, Mayer, Leal-Taixe, Thuerey 2020). */
double image_metrics_endpoint_error(const float *a, const float *b, int64_t pixels);
/* Returns the warp error (Lai, Huang, Wang, Shechtman, Yumer, Yang: "Learning Blind Video Temporal
 * Consistency", ECCV 2018): mean (next(x + f(x)) - frame(x))^2 over visible pixels and colours,
 * in [0, 1], with bilinear sampling clamped to the frame's edge. 0 where nothing is visible. */
double image_metrics_warp_error(const uint8_t *frame, const uint8_t *next, const float *forward,
                                const uint8_t *visible, int height, int width);

#endif
