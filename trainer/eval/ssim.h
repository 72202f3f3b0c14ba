/* Structural similarity of two planes of grey levels (Wang, Bovik, Sheikh, Simoncelli: "Image
 * Quality Assessment: From Error Visibility to Structural Similarity", TIP 2004). */
#ifndef CELFORGE_TRAINER_EVAL_SSIM_H
#define CELFORGE_TRAINER_EVAL_SSIM_H

typedef enum SsimTerm {
  SSIM_WHOLE,     /* luminance, contrast and structure, with C3 = C2 / 2 */
  SSIM_STRUCTURE, /* structure alone: (cov + C3) / (dev_a dev_b + C3) */
} SsimTerm;

/* Returns the mean over all valid 11 x 11 windows (Gaussian of deviation 1.5; K1 0.01, K2 0.03,
 * grey levels 0 to 255) of planes f64 [H,W]. A plane smaller than the window uses a window of its
 * own size. */
double ssim_planes(const double *a, const double *b, int height, int width, SsimTerm term);

#endif
