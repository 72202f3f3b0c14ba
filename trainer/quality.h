/* How good frames are. Frames are u8 RGB [H,W,3]; all scores are of luma, Y = 0.299 R + 0.587 G +
 * 0.114 B (ITU-R BT.601, full range), in double. */
#ifndef CELFORGE_TRAINER_QUALITY_H
#define CELFORGE_TRAINER_QUALITY_H

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

#endif
